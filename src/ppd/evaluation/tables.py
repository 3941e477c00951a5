"""The columns of the tables that an evaluation passes on, and the key that names an image in all of them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""Images [N, H, W, 3], or one [H, W, 3]."""

Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
"""The images of a file: in memory, or read where they are used."""

SAMPLE = ("user_id", "caption", "seed")
"""An image of one model. Models that know no user have one for all: user_id ""."""

REQUESTS = ("users", *SAMPLE)
"""What is sampled for whom; users: seen | unseen in training."""

INTERPOLATIONS = ("first", "second", "share", *SAMPLE)
"""A point between two users; share is the second user's, user_id names the point."""

IMAGE_KEY = ["model", *SAMPLE]

COMPARISONS = (
    "users",
    "user_id",
    "caption",
    "method",
    "opponent",
    "pairing",
    "method_user",
    "method_seed",
    "opponent_model",
    "opponent_user",
    "opponent_seed",
    "first_of_pairing",
)
"""Two images and the user who compares them.

pairing: independent | same-seed. method_user, opponent_user: for whom the images were sampled. first_of_pairing: the
one that the VLM judge sees too. Opponent "ppd-shuffled" is ppd's image for another user.
"""

VERDICT = ("judge", "outcome", "gain_sd")
"""What a judge adds to a comparison.

outcome: 1 where the method's image is preferred, 0 where the opponent's is, 0.5 for a tie, NaN for none. gain_sd: what
the user truly gains, in standard deviations of the base's utility to them; NaN where that is not known.
"""


def with_columns(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The table with exactly these columns, in this order. Raises KeyError for one that it has not."""
    return table[list(columns)]
