"""Stable Cascade's prior (Stage C) as a backbone, at any size: the checkpoint's config decides.

Facts about the model that are easy to get wrong, each checked by a test:
- the timestep stays in fp32: its embedding has phases up to 10,000 rad, which bf16 cannot hold;
- fp16 overflows; bf16 is fine;
- without `clip_img` the network drops the text tokens silently, so zeros are passed, as in its pipeline;
- the pooled text is [B, 1, D].
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from diffusers import DDPMWuerstchenScheduler, StableCascadeUNet
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_stable_cascade import SDCascadeAttnBlock
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModelWithProjection, PreTrainedTokenizerBase

from ppd.diffusion.model.attention import CrossAttention
from ppd.diffusion.model.backbone import Codec, Text
from ppd.diffusion.model.codecs import load_codec
from ppd.diffusion.model.fingerprint import fingerprint
from ppd.diffusion.model.memory import require_room
from ppd.diffusion.model.process import Cosine, Prediction
from ppd.diffusion.model.repeated_blocks import checkpoint_share
from ppd.diffusion.model.response_norm import faster_on_cpu
from ppd.errors import InputError
from ppd.settings import Precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class StableCascadeBackbone:
    """Stage C with its text encoder and an image codec, frozen and in eval mode (its dropout would move the loss).

    Text encoder and codec move to Stage C's device when they are first used: training needs neither there.
    """

    def __init__(
        self,
        *,
        unet: StableCascadeUNet,
        text_encoder: CLIPTextModelWithProjection,
        tokenizer: PreTrainedTokenizerBase,
        codec: Codec,
        prediction_type: Prediction = "epsilon",
        schedule_offset: float = 0.008,
        base_id: str = "in memory",
        revision: str = "local",
    ) -> None:
        if unet.config.clip_image_in_channels is None or unet.config.clip_text_in_channels is None:
            raise InputError(
                "this Stable Cascade config has no clip_image_in_channels or clip_text_in_channels: "
                "the network would drop the caption silently",
                file=base_id,
            )
        self.unet = unet.eval().requires_grad_(False)
        self._output = unet.clf[1].weight  # the network's own dtype and device search all its weights
        _keep_timesteps_exact(unet, self._output.dtype)
        faster_on_cpu(unet)
        self.text_encoder = text_encoder.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.codec = codec
        self.process = Cosine(prediction_type, schedule_offset)
        self.base_id = base_id
        self.revision = revision
        self.fingerprint = fingerprint(unet)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        codec: Codec | None = None,
        revision: str | None = None,
        precision: Precision = "fp32",
        device: torch.device | str = "cpu",
    ) -> Self:
        """Load `prior/`, `scheduler/`, `text_encoder/` and `tokenizer/` of a folder (or hub id) in the hub's layout.

        Without a `codec`, what lies in `codec/` is loaded: Stable Cascade's own or the nano one. The scheduler's config
        says what the network predicts: `prediction_type`, epsilon (the default) or v_prediction. Raises InputError for
        fp16, for a schedule that is not Stable Cascade's, and where memory is too small for the network.
        """
        if precision == "fp16":
            raise InputError("Stable Cascade overflows in fp16 and returns NaN", fix="Use precision: bf16 or fp32")
        schedule = dict(DDPMWuerstchenScheduler.load_config(folder, subfolder="scheduler", revision=revision))
        if schedule.get("scaler", 1.0) != 1.0:
            raise InputError(f"schedule with scaler {schedule['scaler']}; only 1.0 is known", file=folder)
        prediction_type = schedule.get("prediction_type", "epsilon")
        if prediction_type not in ("epsilon", "v_prediction"):
            raise InputError(
                f"prediction_type is {prediction_type!r}; expected 'epsilon' or 'v_prediction'",
                file=f"{folder}/scheduler/scheduler_config.json",
            )
        dtype = DTYPES[precision]
        config = StableCascadeUNet.load_config(folder, subfolder="prior", revision=revision)
        require_room(StableCascadeUNet, config, dtype, torch.device(device), str(folder))
        unet = StableCascadeUNet.from_pretrained(
            folder, subfolder="prior", revision=revision, torch_dtype=dtype, use_safetensors=True
        )
        text_encoder = CLIPTextModelWithProjection.from_pretrained(
            folder, subfolder="text_encoder", revision=revision, dtype=torch.float32, use_safetensors=True
        )
        return cls(
            unet=unet.to(device),
            text_encoder=text_encoder,
            tokenizer=AutoTokenizer.from_pretrained(
                folder, subfolder="tokenizer", revision=revision, trust_remote_code=False
            ),
            codec=codec or load_codec(folder, revision, dtype, device),
            prediction_type=prediction_type,
            schedule_offset=schedule.get("s", 0.008),
            base_id=str(folder),
            revision=revision or "local",
        )

    @property
    def network(self) -> StableCascadeUNet:
        return self.unet

    @property
    def device(self) -> torch.device:
        return self._output.device

    @property
    def encoders_fingerprint(self) -> str:
        return f"{fingerprint(self.text_encoder)}-{self.codec.encoder_fingerprint}"

    @property
    def latent_channels(self) -> int:
        return self.unet.config.in_channels

    @torch.no_grad()
    def encode_captions(self, captions: Sequence[str]) -> Text:
        """Captions -> last hidden states [B, T, D] and projected embedding [B, P]; too long ones are cut."""
        inputs = self.tokenizer(
            list(captions),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        encoded = self.text_encoder.to(self.device)(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], output_hidden_states=True
        )
        return Text(encoded.hidden_states[-1], encoded.text_embeds)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        return self.codec.encode(images.to(self.device))

    @torch.no_grad()
    def decode_latents(self, latents: Tensor, text: Text, randoms: Sequence[torch.Generator]) -> Tensor:
        return self.codec.decode(latents, text, randoms).clamp(0, 1)

    def predict(self, x_t: Tensor, t: Tensor, text: Text) -> Tensor:
        """ε̂ or v̂ [B, C, h, w] in fp32: the network's own output."""
        dtype = self._output.dtype
        (output,) = self.unet(
            sample=x_t.to(dtype),
            timestep_ratio=t.float(),
            clip_text_pooled=text.vectors[:, None].to(dtype),
            clip_text=text.tokens.to(dtype),
            clip_img=x_t.new_zeros(len(x_t), 1, self.unet.config.clip_image_in_channels, dtype=dtype),
            return_dict=False,
        )
        return output.float()

    def guide(self, near: Tensor, far: Tensor, strength: float) -> Tensor:
        return torch.lerp(far, near, strength)

    def text_lengths(self, text: Text) -> list[int]:
        return [text.tokens.shape[1]] * len(text)

    def attention_blocks(self) -> Mapping[str, Attention]:
        """Names as "down_0_2": side, level, place in the level."""
        sides = {"down": self.unet.down_blocks, "up": self.unet.up_blocks}
        return {
            f"{side}_{level}_{place}": block.attention
            for side, levels in sides.items()
            for level, blocks in enumerate(levels)
            for place, block in enumerate(blocks)
            if isinstance(block, SDCascadeAttnBlock)
        }

    def user_processor(self) -> CrossAttention:
        return CrossAttention()

    def repeated_blocks(self) -> Sequence[nn.Module]:
        return [block for level in (*self.unet.down_blocks, *self.unet.up_blocks) for block in level]

    def enable_gradient_checkpointing(self, share: float = 1.0) -> None:
        self.unet.enable_gradient_checkpointing(checkpoint_share(share))


def _keep_timesteps_exact(unet: StableCascadeUNet, dtype: torch.dtype) -> None:
    """Let the network embed t in the fp32 that it is given, and cast the embedding, not t, to its weights' dtype.

    So a bf16 network runs wholly in bf16: under autocast its norms would run in fp32 on a GPU, at half the speed.
    """
    embed = StableCascadeUNet.get_timestep_ratio_embedding
    unet.get_timestep_ratio_embedding = lambda t, *rest: embed(unet, t, *rest).to(dtype)
