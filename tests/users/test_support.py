"""The pairs that describe a user, read when they are asked for."""

from pathlib import Path

import pytest

from ppd.preferences.store import Preferences
from ppd.users.support import FirstSupport, support_groups


def test_the_first_group_is_that_of_all_groups_and_is_read_when_asked_for(
    simulated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Preferences.open(simulated / "preferences")
    users = log.users.user_id.tolist()[:5]
    expected = {group.user_id: group.pairs for group in support_groups(log, users) if group.support_group == 0}
    read: list[int] = []
    image_bytes = Preferences.image_bytes
    monkeypatch.setattr(
        Preferences, "image_bytes", lambda self, uids: (read.append(len(uids)), image_bytes(self, uids))[1]
    )
    supports = FirstSupport(log, users)
    assert sorted(supports) == sorted(users)
    assert len(supports) == 5
    assert read == []
    assert supports[users[3]] == expected[users[3]]
    assert read == [8], "four pairs of one user"
    assert dict(supports) == expected
    with pytest.raises(KeyError):
        supports["nobody"]
