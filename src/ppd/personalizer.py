"""Four choices of a person in, pictures for that person out: everything a product needs at inference.

from ppd.personalizer import Personalizer, read_pairs

ppd = Personalizer.load("models/ppd")
ann, ben = ppd.embed(read_pairs("ann/")), ppd.embed(read_pairs("ben/"))
images = ppd.draw("a sticker of a fox", ann, n=4)
between = [ppd.draw("a sticker of a fox", u)[0] for u in interpolate(ann, ben, 5)]
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from ppd.device import this_device
from ppd.diffusion.adapter import load_adapter, read_config
from ppd.diffusion.sampling import Request, interpolate, sample
from ppd.diffusion.stable_cascade import StableCascadeBackbone
from ppd.diffusion.user_attention import UserAttention
from ppd.errors import InputError
from ppd.preferences.folder import Folder
from ppd.preferences.images import BadImage, inspect
from ppd.preferences.rows import Position, Refusal
from ppd.settings import PreferenceSettings, Settings
from ppd.vlm.conversation import Pair
from ppd.vlm.embedding import embed
from ppd.vlm.store import load_people
from ppd.vlm.transformers_backend import TransformersVlm
from ppd.vlm.whitening import Whitening

__all__ = ["Personalizer", "interpolate", "known_person", "read_pairs"]


@dataclass(frozen=True)
class Personalizer:
    """The base with an adapter attached, and the vision-language model that reads people."""

    backbone: StableCascadeBackbone
    adapter: UserAttention
    vlm: TransformersVlm
    whitening: Whitening
    settings: Settings

    @classmethod
    def load(
        cls,
        adapter: str | Path = "models/ppd",
        whitening: str | Path = "artifacts/whitening.safetensors",
        settings: Settings | None = None,
    ) -> Self:
        """Load the models that `settings` names (those of the sticker world by default) and the adapter.

        They run on the accelerator that accelerate finds. Raises InputError where the adapter was trained on another
        base or beside another whitening.
        """
        settings = settings or Settings()
        white = Whitening.load(whitening)
        config = read_config(adapter)
        if config.whitening != white.name:
            raise InputError(
                f"the adapter was trained beside the whitening {config.whitening}, but this is {white.name}",
                file=whitening,
                fix="Use the whitening of the run that trained the adapter",
            )
        device = this_device()
        backbone = StableCascadeBackbone.from_pretrained(
            settings.models.prior, precision=settings.sampling.precision, device=device
        )
        how = settings.embedding
        vlm = TransformersVlm.load(
            settings.models.vlm, device=device, precision=how.precision, batch_size=how.batch_size
        )
        return cls(backbone, load_adapter(adapter, backbone), vlm, white, settings)

    def embed(self, pairs: Sequence[Pair]) -> Tensor:
        """A person's embedding [rows, components] from their choices. Linear: mix two people by `interpolate`."""
        return self.whitening(embed(self.vlm, [pairs], self.settings.embedding).hidden)[0]

    def describe(self, pairs: Sequence[Pair]) -> str:
        """What the vision-language model writes about the person."""
        return embed(self.vlm, [pairs], self.settings.embedding).profiles[0]

    def draw(
        self, caption: str, user: Tensor | None = None, *, n: int = 1, seed: int = 0, strength: float | None = None
    ) -> list[Image.Image]:
        """`n` images of a caption from consecutive seeds; user None draws what the base would.

        strength: guidance on the user; 0 is the base, 1 as trained, beyond 1 exaggerates. None: as in the settings.
        """
        sampling = self.settings.sampling
        if strength is not None:
            sampling = sampling.model_copy(update={"user_guidance": strength})
        requests = [Request(caption, seed + i, user) for i in range(n)]
        with torch.inference_mode():
            return [Image.fromarray(image) for image in sample(self.backbone, requests, sampling, self.adapter)]


def known_person(
    user_id: str,
    users: str | Path = "artifacts/users",
    whitening: str | Path = "artifacts/whitening.safetensors",
) -> Tensor:
    """The embedding [rows, components] of a person of the log, as evaluation draws for them: their first group's."""
    people = load_people(sorted(Path(users).glob("*/embeddings.parquet"))).hidden
    if user_id not in people:
        raise InputError(f"no user {user_id!r} among {len(people)} who are embedded", file=users, column="user_id")
    return Whitening.load(whitening)(people[user_id])[0]


def read_pairs(folder: str | Path, preferences: PreferenceSettings | None = None) -> list[Pair]:
    """The choices of one person in a folder of one's own (`ppd.preferences.folder`), ties left out.

    preferences: what the columns are called, and how large an image may be. Raises InputError with file, row and reason
    for a row or an image that cannot be used, for two users, and for no choice at all.
    """
    preferences = preferences or PreferenceSettings()
    source = Folder.open(Path(folder), preferences.max_image_pixels, preferences.columns)
    pairs: list[Pair] = []
    users: Counter[str | None] = Counter()
    for batch in source.batches(Position(0, 0)):
        for row in batch.rows:
            if isinstance(row, Refusal):
                raise InputError(f"{row.reason}: {row.detail}", file=Path(folder) / row.file, row=row.row)
            for image in (row.image_0, row.image_1):
                if isinstance(found := inspect(image, source.max_image_pixels), BadImage):
                    raise InputError(f"{found.reason}: {found.detail}", file=Path(folder) / row.file, row=row.row)
            users[row.user_id] += 1
            if (
                not row.has_label
                or row.label_0 == row.label_1
                or row.image_0 is None
                or row.image_1 is None
                or row.caption is None
            ):
                continue
            chosen, rejected = (row.image_0, row.image_1) if row.label_0 == 1 else (row.image_1, row.image_0)
            pairs.append(Pair(row.caption, chosen, rejected))
    if len(users) > 1:
        raise InputError(f"choices of {len(users)} users; expected those of one", file=folder, column="user")
    if not pairs:
        raise InputError(
            "no choice between two images; expected at least one, four are what was trained on", file=folder
        )
    return pairs
