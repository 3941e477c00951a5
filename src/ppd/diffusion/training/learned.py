"""Is anything about users being learned? Said early in a run, while it still costs little to stop it."""

import numpy as np
from torch import Tensor

from ppd.diffusion.training.objective import Stats
from ppd.settings import FinetuneSettings
from ppd.statistics.bootstrap import clustered_mean

STILL = 0.01
"""Below this mean of |β/2·m| the sigmoid of the loss has not left its middle: the adapter is still the base."""


def personal_gap(own: Tensor, shuffled: Tensor, user: Tensor) -> Stats:
    """How much more often a pair is told right with its user's embedding than with another's, and how far it moved.

    own, shuffled: margins m [N]; user: [N]. user_gap with a 95 % interval, bootstrapped over users; mean |m| as moved.
    """
    right = [((m < 0).double() + 0.5 * (m == 0).double()).cpu().numpy() for m in (own, shuffled)]
    gap = clustered_mean(np.asarray(right[0] - right[1]), user.cpu().numpy())
    found = {"user_gap": gap.mean, "user_gap_low": gap.low, "user_gap_high": gap.high}
    return found | {"moved": float(own.abs().mean()), "n_pairs": float(len(own))}


def complaint(row: Stats, settings: FinetuneSettings) -> str | None:
    """What to say after an evaluation that shows nothing of users, and what to change; None where it shows something.

    row: a row of training, with what `personal_gap` found on held-out users.
    """
    step, gap = int(row["step"]), row.get("held_out_user_gap")
    if gap is None or step == 0 or row["held_out_user_gap_low"] > 0:
        return None
    found = (
        f"after {step * settings.pairs_per_step:,} pairs nothing is known of users: on {row['held_out_n_pairs']:.0f} "
        f"choices of users held out the model is right {row['held_out_accuracy']:.3f} of the time with the user's "
        f"embedding and {row['held_out_accuracy_shuffled_user']:.3f} with another's (difference {gap:+.3f} "
        f"[{row['held_out_user_gap_low']:+.3f}, {row['held_out_user_gap_high']:+.3f}])"
    )
    pull = settings.loss.beta / 2 * row["held_out_moved"]
    if pull < STILL:
        why = (
            f"The adapter is still the base: β/2 times the margin is {pull:.1e} on average. Raise learning_rate (a "
            "step of AdamW moves a weight by at most about that much, and the user's values begin at zero), or beta"
        )
    else:
        why = (
            "The adapter moves, but alike for everybody: it may need more pairs. If the next evaluation says the same, "
            "look at what the embedding holds (embedding.rows, embedding.read, fewer embedding.components) and whether "
            "timesteps dwell at high noise"
        )
    return f"{found}. {why}."
