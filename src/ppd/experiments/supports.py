"""One user described by more or by fewer choices: what k pairs of an unseen user are worth.

The conversation holds k pairs: the first k of the user's first support group, or its four and those of the groups after
it. Adapters are trained on groups of four alone.
"""

from collections.abc import Sequence

from ppd.preferences.store import Preferences
from ppd.users.support import Pair, SupportGroup, support_groups


def supports_of(preferences: Preferences, user_ids: Sequence[str], n_pairs: int) -> list[SupportGroup]:
    """Each user's first `n_pairs` support pairs as one group, in the order of (group, pair)."""
    pairs: dict[str, list[Pair]] = {}
    for group in support_groups(preferences, user_ids):
        pairs.setdefault(group.user_id, []).extend(group.pairs)
    return [SupportGroup(user_id, 0, tuple(shown[:n_pairs])) for user_id, shown in pairs.items()]
