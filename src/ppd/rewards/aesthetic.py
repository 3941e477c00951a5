"""LAION's aesthetic score: a stack of linear layers on CLIP ViT-L/14, fitted to people's ratings from 1 to 10.

Without activations in between the stack is one linear map; it is kept as published so that its weights load strictly.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ppd.errors import InputError
from ppd.rewards.clip_score import ClipScorer
from ppd.rewards.scorer import Images


class AestheticHead(nn.Module):
    """Unit CLIP vectors [N, width] -> ratings [N]; the layout of christophschuhmann/improved-aesthetic-predictor."""

    def __init__(self, width: int = 768) -> None:
        super().__init__()
        # The dropouts do nothing here, but they count: the linear layers are numbers 0, 2, 4, 6 and 7.
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, embedded: Tensor) -> Tensor:
        return self.layers(embedded)[:, 0]


class AestheticScorer:
    """How good an image looks, whatever its caption."""

    def __init__(self, clip: ClipScorer, head: AestheticHead) -> None:
        self.clip = clip
        self.head = head.eval().requires_grad_(False)

    @classmethod
    def from_pretrained(cls, clip: str | Path, head: str | Path, *, device: torch.device | str = "cpu") -> Self:
        """From a CLIP in the hub's layout and the head's safetensors (`ppd convert aesthetic`)."""
        scorer = ClipScorer.from_pretrained(clip, device=device)
        network = AestheticHead(scorer.model.config.projection_dim)
        try:
            network.load_state_dict(load_file(head))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise InputError(
                f"not an aesthetic head for this CLIP: {error}", file=head, fix="`ppd convert aesthetic` makes one"
            ) from error
        return cls(scorer, network)

    def __call__(self, images: Images, captions: Sequence[str]) -> NDArray[np.float64]:
        """Ratings of N images, about 1 to 10: [N]. Captions are not read."""
        with torch.inference_mode():
            return self.head(self.clip.embed_images(images)).double().numpy()
