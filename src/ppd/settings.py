"""Settings of every component, one frozen model each; `params.yaml` holds them."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class Component(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PeopleSettings(Component):
    """The prior over simulated people and how they choose (`ppd.stickers.people`). Chosen by the ceiling alone."""

    two_trait_share: Share = 0.5
    strong: tuple[float, ...] = (2.0, 3.0)
    second: tuple[float, ...] = (1.0, 2.0)
    temperature: float = Field(1.0, gt=0)
    unreliable_share: Share = 0.05
    unreliable_temperature: float = Field(4.0, gt=0)
    indifference: float = Field(3.0, gt=0)
