"""All that the studio asks of the models; one thread calls it, the queue's."""

import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ppd.diffusion.adapter.checkpoint import WEIGHTS
from ppd.diffusion.sampling.sampler import Request, sample
from ppd.files import content_name
from ppd.personalizer import Personalizer
from ppd.users.embeddings import load_embeddings
from ppd.users.support import Pair
from ppd.vlm.embedding import embed

AT_ONCE = 8
"""Pictures in one forward: what a visitor waits for is eight, and a batch is filled up with copies."""


@dataclass(frozen=True)
class Wish:
    """A picture to draw; user None: as the base draws."""

    caption: str
    seed: int
    user: Tensor | None = None


@dataclass(frozen=True)
class Models:
    """The personalizer, and the people of the log by their names: embeddings [groups, rows, components] of each."""

    ppd: Personalizer
    adapter: str
    """Names the adapter's weights."""
    log: dict[str, Tensor]
    profiles: dict[str, str]
    """What the model wrote about each of them."""

    @classmethod
    def load(cls, ppd: Personalizer, adapter: Path, users: Path) -> "Models":
        """users: the folder of embedded people of the log; without one, nobody of it is known."""
        ppd = dataclasses.replace(ppd, sampling=ppd.sampling.model_copy(update={"batch_size": AT_ONCE}))
        return cls(ppd, content_name(adapter / WEIGHTS), *_people_of_the_log(ppd, users))

    @property
    def base(self) -> str:
        """Names the base's weights."""
        return str(self.ppd.backbone.fingerprint)

    @cached_property
    def sampling(self) -> str:
        """How pictures are drawn, as JSON."""
        return self.ppd.sampling.model_dump_json()

    @property
    def reading(self) -> str:
        """Names all that a visitor's embedding depends on beside their choices."""
        return f"{self.ppd.vlm.ref.revision} {self.ppd.whitening.name} {self.ppd.embedding.model_dump_json()}"

    def made(self, **more: object) -> str:
        """What a picture's row says of its making, as JSON."""
        how = {"base": self.base, "adapter": self.adapter, "sampling": json.loads(self.sampling)}
        return json.dumps(how | more)

    def read(self, supports: Sequence[Sequence[Pair]]) -> tuple[Tensor, tuple[str, ...]]:
        """Embeddings [N, rows, components] of people from their choices, and what the model writes about each."""
        read = embed(self.ppd.vlm, supports, self.ppd.embedding)
        return self.ppd.whitening(read.hidden), read.profiles

    def draw(self, wishes: Sequence[Wish], strength: float = 1.0) -> list[bytes]:
        """PNG files, in the order of the wishes. strength: a multiple of the adapter's own guidance on the user."""
        guidance = strength * self.ppd.sampling.user_guidance
        sampling = self.ppd.sampling.model_copy(update={"user_guidance": guidance})
        requests = [Request(wish.caption, wish.seed, wish.user) for wish in wishes]
        with torch.inference_mode():
            images = sample(self.ppd.backbone, requests, sampling, self.ppd.adapter)
            return [_png(Image.fromarray(image)) for image in images]


def _people_of_the_log(ppd: Personalizer, users: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Embeddings, and what is written, of those who are embedded as this adapter's people are."""
    files = sorted(users.glob("*/embeddings.parquet"))
    if not files:
        return {}, {}
    people = load_embeddings(files)
    if people.vlm.revision != ppd.vlm.ref.revision:
        return {}, {}
    fitting = sorted(user for user, rows in people.hidden.items() if rows.shape[1:] == ppd.whitening.mean.shape)
    embeddings = {user: ppd.whitening(people.hidden[user]) for user in fitting}
    return embeddings, {user: people.profiles[user][0] for user in fitting}


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
