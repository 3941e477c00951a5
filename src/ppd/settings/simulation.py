"""The simulated users and their log (`ppd.simulation`)."""

from pydantic import Field

from ppd.settings.base import Component, Share


class PeopleSettings(Component):
    """The prior over simulated people and how they choose (`ppd.simulation.users`). Chosen by the ceiling alone."""

    two_trait_share: Share = 0.5
    strong: tuple[float, ...] = (2.0, 3.0)
    second: tuple[float, ...] = (1.0, 2.0)
    temperature: float = Field(1.0, gt=0)
    unreliable_share: Share = 0.05
    unreliable_temperature: float = Field(4.0, gt=0)
    indifference: float = Field(3.0, gt=0)


class LogSettings(Component):
    """The simulated log of choices (`ppd.simulation.log`)."""

    seed: int = 0
    n_users: int = Field(420, ge=1)
    rows_per_user: tuple[int, int] = (44, 60)
    kept_winner_share: Share = 0.15
    """Share of choices after which the winner stays for the next round."""
    tie_rate: Share = 0.135
    """How often a person without an opinion calls a tie; else they move on and leave no row."""
    unlabelled_share: Share = 0.01
    duplicate_share: Share = 0.005
    broken_image_share: Share = 0.002
    given_up_share: Share = 0.02
    """People who left fewer than four rows, beside the others."""
    image_quality: int = Field(80, ge=1, le=100)
