"""A few users and interpolations in miniature, for the report: the first of the plan, so none is picked."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import numpy as np
import pandas as pd
from PIL import Image

from ppd.diffusion.encoding.pixels import resized
from ppd.evaluation.plan import UNCONDITIONAL
from ppd.evaluation.report import InterpolationStrip, UserPage
from ppd.evaluation.tables import Images, Pixels
from ppd.evaluation.truth import TrueMeasures
from ppd.preferences.images import open_rgb
from ppd.preferences.store import Preferences
from ppd.users.support import FirstSupport

N_PAGES = 8
N_IMAGES = 8
N_INTERPOLATIONS = 3
PAGE_PX = 256
"""Larger images are shrunk, so that the page stays one that a browser opens."""


def user_pages(
    preferences: Preferences,
    profiles: Mapping[str, Sequence[str]],
    requests: pd.DataFrame,
    samples: Mapping[str, tuple[pd.DataFrame, Images]],
    compared: pd.DataFrame,
    truth: TrueMeasures | None,
) -> list[UserPage]:
    """Miniatures of the first unseen users of the plan: their pairs, the base's images, and theirs."""
    chosen = requests[requests.users == "unseen"].user_id.unique()[:N_PAGES].tolist()
    supports = FirstSupport(preferences, chosen)
    base, personal = (_thumbnails(*samples[model]) for model in ("base", "ppd"))
    same_seed = (compared.method == "ppd") & (compared.opponent == "base") & (compared.pairing == "same-seed")
    gains = compared[same_seed & compared.gain_sd.notna()].groupby("user_id").gain_sd.mean()
    pages = []
    for user_id in chosen:
        own = requests[requests.user_id == user_id].head(N_IMAGES)
        keys = list(zip(own.caption, own.seed.tolist(), strict=True))
        pages.append(
            UserPage(
                user_id=user_id,
                users="never seen in training",
                profile=profiles[user_id][0],
                truth=truth.taste(user_id) if truth is not None else "",
                pairs=[(_decoded(pair.preferred), _decoded(pair.rejected)) for pair in supports[user_id]],
                base=[base(UNCONDITIONAL, *key) for key in keys],
                personal=[personal(user_id, *key) for key in keys],
                gain_sd=float(gains.get(user_id, np.nan)),
            )
        )
    return pages


def interpolation_strips(points: pd.DataFrame, images: Pixels) -> list[InterpolationStrip]:
    """The first interpolations, each with its first caption; gains, if known, are means over all its captions."""
    columns = [column for column in ("gain_first", "gain_second") if column in points]
    strips = []
    for (first, second), rows in islice(points.groupby(["first", "second"], sort=False), N_INTERPOLATIONS):
        gains = rows.groupby("share")[columns].mean()
        shown = rows.index[rows.caption == rows.caption.iloc[0]]
        strips.append(
            InterpolationStrip(
                f"user {first}",
                f"user {second}",
                gains.index.tolist(),
                [_thumbnail(Image.fromarray(image)) for image in images[shown]],
                *([gains[column].tolist() for column in columns] or ([], [])),
            )
        )
    return strips


def _thumbnails(requests: pd.DataFrame, images: Images) -> Callable[[str, str, int], Pixels]:
    """Makes the miniature of an image that is named by `tables.SAMPLE`."""
    keys = zip(requests.user_id, requests.caption, requests.seed.tolist(), strict=True)
    row_of = {key: row for row, key in enumerate(keys)}
    return lambda *key: _thumbnail(Image.fromarray(images[row_of[key]]))


def _decoded(encoded: bytes) -> Pixels:
    return _thumbnail(open_rgb(encoded))


def _thumbnail(image: Image.Image) -> Pixels:
    """The centred square of an image, at most `PAGE_PX` wide."""
    return np.asarray(resized(image, min(PAGE_PX, *image.size)))
