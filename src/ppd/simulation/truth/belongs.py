"""Whether a truth is that of a log's users: no user is ever judged by another's taste."""

from pathlib import Path

import pandas as pd

from ppd.errors import InputError
from ppd.files import atomic_path, write_json
from ppd.preferences.store import Preferences
from ppd.simulation.truth.utility import IMAGES, USERS
from ppd.stored_tables import write_table


def write_truth(preferences: Preferences, given: Path, out_dir: Path) -> str:
    """Copy the truth `given` to `out_dir` if it is that of this log; leave and return a note that says so or why not.

    It is where it knows every user and every picture of the log. Ids alone may coincide; so pictures are known by the
    digest of their bytes, and get the ids that they have in this log.
    """
    users, images, why = pd.DataFrame(), pd.DataFrame(), f"there is no {given / USERS}"
    if (given / USERS).is_file() and (given / IMAGES).is_file():
        users, images = _read(given / USERS), _read(given / IMAGES)
        shown = preferences.digests
        strangers = ~preferences.users.user_id.isin(users.user_id)
        unknown = ~shown.isin(images.digest)
        why = ""
        if strangers.any():
            why = f"{given} is of others: it does not know {strangers.sum()} of {len(strangers)} users"
        elif unknown.any():
            why = f"{given} is of others: it does not know {unknown.sum()} of {len(unknown)} images"
        else:
            scenes = images.drop(columns="image_uid").drop_duplicates("digest")
            images = shown.rename_axis("image_uid").reset_index().merge(scenes, on="digest").drop(columns="digest")
    note = f"the users' true taste is not known: {why}" if why else "the users are simulated: their true taste is known"
    with atomic_path(out_dir) as fresh:
        fresh.mkdir()
        if not why:
            write_table(users, fresh / USERS)
            write_table(images, fresh / IMAGES)
        write_json(fresh / "truth.json", {"known": not why, "note": note})
    return note


def _read(file: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise InputError(
            f"not a table of a truth: {error}", file=file, fix="Restore it, or empty the folder"
        ) from error
