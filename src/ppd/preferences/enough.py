"""Whether a log is large enough for all that comes after ingestion: said at once, not after an hour of training."""

from pathlib import Path

from ppd.errors import InputError
from ppd.preferences.splits import TRAIN, Splits, normalise_caption, users_needed
from ppd.settings import PreferenceSettings

_PURPOSES = {"train": "to train on", "validation": "to validate with", "test": "to test on"}


def check_enough(splits: Splits, n_users: int, settings: PreferenceSettings, source: Path) -> None:
    """Raise `InputError` that says what is too small and what would be enough. n_users: those with any pair.

    Everything else works with little: fewer people than asked for, a single evaluation caption, no held-out choices.
    """
    needed = users_needed(settings)
    described = len(splits.users)
    if described < sum(needed.values()):
        purposes = ", ".join(f"{n} {_PURPOSES[split]}" for split, n in needed.items())
        raise InputError(
            f"{described} of {n_users} users have the {settings.pairs_per_group} pairs with training captions and"
            f" images of their own that describe a user; {sum(needed.values())} such users are enough: {purposes}",
            file=source,
            fix="Give the choices of more users, or more choices of each",
        )
    if not (splits.captions["split"] == "eval").any():
        n_captions = splits.captions["caption"].map(normalise_caption).nunique()
        raise InputError(
            f"no caption is left to evaluate with: the users who can be described have {n_captions} different"
            f" {'caption' if n_captions == 1 else 'captions'}; 2 are enough, one of them held out from training",
            file=source,
            fix="Give choices with more captions, or raise eval_caption_share if it is 0",
        )
    if not (splits.pairs["role"] == TRAIN).any():
        raise InputError(
            f"no pair is left to train on: the users of training need all they have to be described; "
            f"{2 * settings.pairs_per_group} pairs of each with training captions are enough",
            file=source,
            fix="Give more choices of each user, or lower pairs_per_group",
        )
