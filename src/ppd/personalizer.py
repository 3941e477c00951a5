"""Four choices of a user in, images for that user out: everything a product needs at inference.

from ppd.personalizer import Personalizer, interpolate, read_pairs

ppd = Personalizer.load("models/ppd")
ann, ben = ppd.embed(read_pairs("examples/ann")), ppd.embed(read_pairs("examples/ben"))
images = ppd.sample("a sticker of a fox", ann, n=4)
between = [ppd.sample("a sticker of a fox", user)[0] for user in interpolate(ann, ben, 5)]
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
from ppd.diffusion.adapter.checkpoint import load_adapter, read_config
from ppd.diffusion.adapter.complete import read_complete
from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.model.load import load_backbone
from ppd.diffusion.sampling.sampler import Request, interpolate
from ppd.diffusion.sampling.sampler import sample as sample_requests
from ppd.errors import InputError
from ppd.layout import Layout
from ppd.preferences.folder import Folder
from ppd.preferences.images import BadImage
from ppd.preferences.inspection import inspect
from ppd.preferences.rows import Position, Refusal
from ppd.settings import EmbeddingSettings, PreferenceSettings, SamplingSettings
from ppd.users.embeddings import load_embeddings
from ppd.users.support import Pair
from ppd.users.whitening import Whitening
from ppd.vlm.embedding import embed
from ppd.vlm.transformers_backend import TransformersVlm

__all__ = ["Personalizer", "interpolate", "read_pairs"]


@dataclass(frozen=True)
class Personalizer:
    """The base with an adapter attached, and the vision-language model that reads users."""

    backbone: Backbone
    adapter: UserAttention
    vlm: TransformersVlm
    whitening: Whitening
    embedding: EmbeddingSettings
    sampling: SamplingSettings

    @classmethod
    def load(
        cls, adapter: str | Path = "models/ppd", *, base: str | Path | None = None, vlm: str | Path | None = None
    ) -> Self:
        """Load a complete adapter (what `dvc repro` leaves in models/, or `ppd export` anywhere) and its two models.

        base, vlm: folders or hub ids, where they are not where the adapter remembers them. They run on the accelerator
        that accelerate finds. Raises InputError where either is not the model that the adapter was trained with.
        """
        folder = Path(adapter)
        config, (inference, whitening) = read_config(folder), read_complete(folder)
        recipe, device = inference.embedding, this_device()
        backbone = load_backbone(base or config.base.id, precision=inference.sampling.precision, device=device)
        reader = TransformersVlm.load(vlm or recipe.vlm, device=device, precision=recipe.precision)
        if reader.ref.revision != recipe.revision:
            raise InputError(
                f"users were read by {recipe.vlm} ({recipe.revision}), but this is {reader.ref.revision}",
                file=vlm or recipe.vlm,
                fix="Name the model that the adapter was trained with",
            )
        how = EmbeddingSettings(**recipe.model_dump(include={"prompt", "read", "max_new_tokens", "rows", "precision"}))
        return cls(backbone, load_adapter(folder, backbone), reader, whitening, how, inference.sampling)

    def embed(self, pairs: Sequence[Pair]) -> Tensor:
        """A user's embedding [rows, components] from their choices. Linear: mix two users by `interpolate`."""
        return self.whitening(embed(self.vlm, [pairs], self.embedding).hidden)[0]

    def describe(self, pairs: Sequence[Pair]) -> str:
        """What the vision-language model writes about the user."""
        return embed(self.vlm, [pairs], self.embedding).profiles[0]

    def known_user(self, user_id: str, layout: Layout | None = None) -> Tensor:
        """The embedding [rows, components] of a user of the log, as evaluation samples for them: their first group's.

        layout: the repository that embedded them; this one, if not given. Raises InputError for a user it does not
        know.
        """
        layout = layout or Layout()
        embeddings = load_embeddings(layout.shard_files())
        if user_id not in embeddings.hidden:
            found = f"no user {user_id!r} among {len(embeddings.hidden)} who are embedded"
            raise InputError(found, file=layout.users, column="user_id")
        return self.whitening(embeddings.hidden[user_id])[0]

    def sample(
        self, caption: str, user: Tensor | None = None, *, n: int = 1, seed: int = 0, strength: float | None = None
    ) -> list[Image.Image]:
        """`n` images of a caption from consecutive seeds; user None samples what the base would.

        strength: guidance on the user; 0 is the base, 1 as trained, beyond 1 exaggerates. None: as the adapter says,
        which also says at which noise levels the user acts (`sampling.user_interval` of `params.yaml` at training).
        """
        sampling = self.sampling
        if strength is not None:
            sampling = sampling.model_copy(update={"user_guidance": strength})
        requests = [Request(caption, seed + i, user) for i in range(n)]
        with torch.inference_mode():
            return [
                Image.fromarray(image) for image in sample_requests(self.backbone, requests, sampling, self.adapter)
            ]


def read_pairs(folder: str | Path, preferences: PreferenceSettings | None = None) -> list[Pair]:
    """The choices of one user in a folder of one's own (`ppd.preferences.folder`), ties left out.

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
