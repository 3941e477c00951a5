"""Z-Image as a backbone (ZImageTransformer2DModel, arXiv 2511.22699), at any size: the checkpoint's config decides.

Facts about the model that are easy to get wrong, each checked by a test against its pipeline:
- the network answers with x_0 − ε, the negative of a flow's velocity, and its clock runs from 0 (noise) to 1 (image);
- captions have lengths: the network is given the tokens that there are, and fills up by itself;
- the text is Qwen3's, in a chat template, read before its last layer;
- a picture's last digit depends on how long the other captions of its batch are (`text_lengths`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF, ZImageTransformerBlock
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ppd.diffusion.model.backbone import Codec, Text
from ppd.diffusion.model.fingerprint import fingerprint
from ppd.diffusion.model.frozen import DTYPES, IN_MEMORY, FrozenBase, Origin, load_network
from ppd.diffusion.model.process import RectifiedFlow
from ppd.diffusion.model.single_stream import ImageTokens, SingleStreamAttention
from ppd.settings import Precision

PATCH = 2
TOKENS = 256
"""A caption with its chat template is cut after so many; the pipeline's own limit, 512, would double what is kept."""


class ZImageBackbone(FrozenBase):
    """Frozen, in eval mode. Text encoder and codec move to the network's device when they are first used."""

    repeated = (ZImageTransformerBlock,)

    def __init__(
        self,
        *,
        transformer: ZImageTransformer2DModel,
        text_encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        codec: Codec,
        process: RectifiedFlow,
        origin: Origin = IN_MEMORY,
    ) -> None:
        super().__init__(transformer, codec, origin)
        self.text_encoder = text_encoder.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.process = process
        self._image_tokens = ImageTokens()

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        codec: Codec,
        revision: str | None = None,
        precision: Precision = "fp32",
        device: torch.device | str = "cpu",
    ) -> Self:
        """Load `transformer/`, `scheduler/`, `text_encoder/` and `tokenizer/` of a folder (or hub id).

        The text encoder, half as large as the network, is loaded in the same precision. Raises InputError where memory
        is too small for the network.
        """
        return cls(
            transformer=load_network(ZImageTransformer2DModel, str(folder), "transformer", revision, precision, device),
            text_encoder=AutoModel.from_pretrained(
                folder, subfolder="text_encoder", revision=revision, dtype=DTYPES[precision], use_safetensors=True,
                trust_remote_code=False,
            ),
            tokenizer=AutoTokenizer.from_pretrained(
                folder, subfolder="tokenizer", revision=revision, trust_remote_code=False
            ),
            codec=codec,
            process=RectifiedFlow(
                FlowMatchEulerDiscreteScheduler.load_config(folder, subfolder="scheduler", revision=revision)
            ),
            origin=(str(folder), revision or "local"),
        )  # fmt: skip

    @property
    def encoders_fingerprint(self) -> str:
        return f"{fingerprint(self.text_encoder)}-{self.codec.encoder_fingerprint}"

    @torch.no_grad()
    def encode_captions(self, captions: Sequence[str]) -> Text:
        """Captions -> hidden states before the last layer [B, T, D], T the same always, and how many are theirs."""
        turns = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": caption}], tokenize=False, add_generation_prompt=True, enable_thinking=True
            )
            for caption in captions
        ]
        inputs = self.tokenizer(
            turns,
            padding="max_length",
            max_length=min(TOKENS, self.tokenizer.model_max_length),
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        mask = inputs["attention_mask"].bool()
        hidden = self.text_encoder.to(self.device)(
            input_ids=inputs["input_ids"], attention_mask=mask, output_hidden_states=True
        ).hidden_states[-2]
        tokens = torch.zeros_like(hidden, dtype=torch.float32)  # numpy, which stores them, knows no bf16
        for row, (states, is_word) in enumerate(zip(hidden, mask, strict=True)):
            tokens[row, : is_word.sum()] = states[is_word].float()
        return Text(tokens, lengths=mask.sum(dim=1).cpu())

    def predict(self, x_t: Tensor, t: Tensor, text: Text) -> Tensor:
        """The velocity ε − x_0 [B, C, h, w] in fp32: the network's own output, negated."""
        if text.lengths is None:
            raise ValueError("Z-Image reads captions of different lengths")
        self._image_tokens.n = (x_t.shape[2] // PATCH) * (x_t.shape[3] // PATCH)
        tokens = text.tokens.to(self.dtype)
        captions = [row[:n] for row, n in zip(tokens, text.lengths.tolist(), strict=True)]
        images = list(x_t.to(self.dtype).unsqueeze(2).unbind())  # [C, 1, h, w] each
        (outputs,) = self.network(images, (1000 - t * 1000) / 1000, captions, return_dict=False)
        return -torch.stack([output.float() for output in outputs]).squeeze(2)

    def guide(self, near: Tensor, far: Tensor, strength: float) -> Tensor:
        return near + (strength - 1) * (near - far)

    def attention_blocks(self) -> Mapping[str, Attention]:
        """Where image tokens are among the queries: "noise_refiner_0" and on, then "layers_0" and on."""
        parts = ("noise_refiner", "layers")
        return {
            f"{part}_{place}": block.attention
            for part in parts
            for place, block in enumerate(self.network.get_submodule(part))
        }

    def user_processor(self) -> SingleStreamAttention:
        return SingleStreamAttention(self._image_tokens)

    def text_lengths(self, text: Text) -> list[int]:
        """As the network fills captions up: to a multiple of 32 tokens."""
        if text.lengths is None:
            raise ValueError("Z-Image reads captions of different lengths")
        return [-(-n // SEQ_MULTI_OF) * SEQ_MULTI_OF for n in text.lengths.tolist()]
