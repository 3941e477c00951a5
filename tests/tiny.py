"""Tiny checkpoints of the real classes with random weights, saved in the hub's folder layout.

What passes on these is loaded by the same `from_pretrained` as the published weights; only the sizes differ. The image
encoder is the whole EfficientNetV2-S: it has one size.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DDPMWuerstchenScheduler, StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from ppd.diffusion.model.efficientnet import WEIGHTS, EfficientNetEncoder
from ppd.pretrain.text import caption_tokenizer, text_config
from ppd.rewards.aesthetic import AestheticHead
from ppd.users.support import Pair
from ppd.vlm.processor import ImageTextProcessor
from ppd.vlm.prompts import profile_conversation

TEXT_WIDTH, POOLED_WIDTH = 12, 10
VLM_PX, VLM_PATCH = 28, 14
CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
CHAT_TEMPLATE = (
    # As the published one does: items of type image go before the text, wherever they stand in the turn.
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }} "
    "{% for item in turn['content'] if item['type'] == 'image' %}<image>{% endfor %}"
    "{% for item in turn['content'] if item['type'] == 'text' %}{{ '\\n' + item['text'] }}{% endfor %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}"
)


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A token a word, eight at most."""
    vocabulary = ["<pad>", "<end>", "<unk>", *words]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", model_max_length=8
    )


def write_prior(folder: Path, tokenizer: PreTrainedTokenizerFast, *, channels: int, patch_size: int = 1) -> None:
    """prior/, scheduler/, text_encoder/, tokenizer/ of a Stable Cascade; dropout .1, as in the real one."""
    torch.manual_seed(0)
    unet = StableCascadeUNet(
        in_channels=channels,
        out_channels=channels,
        timestep_ratio_embedding_dim=16,
        patch_size=patch_size,
        conditioning_dim=16,
        block_out_channels=(16, 24),
        num_attention_heads=(2, 3),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        clip_text_in_channels=TEXT_WIDTH,
        clip_text_pooled_in_channels=POOLED_WIDTH,
        clip_image_in_channels=8,
        clip_seq=2,
        dropout=(0.1, 0.1),
    )
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=24,
        projection_dim=POOLED_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    unet.save_pretrained(folder / "prior")
    DDPMWuerstchenScheduler().save_pretrained(folder / "scheduler")
    CLIPTextModelWithProjection(text_config).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")


def write_codec(folder: Path) -> None:
    """effnet_encoder.safetensors, decoder/, vqgan/, scheduler/ as in stabilityai/stable-cascade."""
    torch.manual_seed(1)
    folder.mkdir(parents=True, exist_ok=True)
    encoder = EfficientNetEncoder()
    for norm in encoder.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = None
    with torch.no_grad():  # so that the norms' statistics are those of some images, as after training
        encoder.train()(torch.nn.functional.interpolate(torch.rand(32, 3, 6, 6), size=96))
    save_file(encoder.state_dict(), folder / WEIGHTS)
    StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        timestep_ratio_embedding_dim=16,
        patch_size=2,
        conditioning_dim=16,
        block_out_channels=(8, 16),
        num_attention_heads=(0, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(2, 1),
        block_types_per_layer=(
            ("SDCascadeResBlock", "SDCascadeTimestepBlock"),
            ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
        ),
        clip_text_pooled_in_channels=POOLED_WIDTH,
        clip_seq=2,
        effnet_in_channels=16,
        pixel_mapper_in_channels=3,
        dropout=(0, 0.1),
        timestep_conditioning_type=("sca",),
    ).save_pretrained(folder / "decoder")
    PaellaVQModel(bottleneck_blocks=1, embed_dim=16, num_vq_embeddings=32).save_pretrained(folder / "vqgan")
    DDPMWuerstchenScheduler().save_pretrained(folder / "scheduler")


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and some merges, with Qwen2's control tokens: reads and writes any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(CHAT), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    prompt = profile_conversation([Pair("a sticker of a fox", b"", b"")], "full-1").text
    tokenizer.train_from_iterator([prompt], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>", padding_side="left"
    )


def write_vlm(folder: Path, *, px: int = VLM_PX, pinpoints: Sequence[Sequence[int]] = ((VLM_PX, VLM_PX),)) -> None:
    """A LLaVA-OneVision that understands the full prompt's words: three layers, four patches an image by default."""
    torch.manual_seed(2)
    tokenizer = chat_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    grid = [list(size) for size in pinpoints]
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=px,
        patch_size=VLM_PATCH,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=token("<|endoftext|>"),
        eos_token_id=token("<|im_end|>"),
        pad_token_id=token("<|endoftext|>"),
    )
    LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=token("<image>"),
            video_token_index=token("<video>"),
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            image_grid_pinpoints=grid,
        )
    ).save_pretrained(folder)
    ImageTextProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(
            size={"height": px, "width": px},
            image_grid_pinpoints=grid,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        tokenizer=tokenizer,
        num_image_tokens=(px // VLM_PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


CLIP_WIDTH = 24


def write_clip(folder: Path, captions: Sequence[str]) -> None:
    """A CLIP that reads these captions, its towers of different widths as ViT-H/14's are; logit_scale 3."""
    torch.manual_seed(3)
    tokenizer = caption_tokenizer(captions)
    vision = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3}
    model = CLIPModel(
        CLIPConfig(
            text_config=text_config(tokenizer, width=32, n_layers=2) | {"hidden_act": "gelu", "intermediate_size": 128},
            vision_config=vision | {"image_size": 32, "patch_size": 16, "hidden_act": "gelu"},
            projection_dim=CLIP_WIDTH,
        )
    )
    for parameter in model.parameters():  # larger than the library's initial ones, so that contents matter
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.logit_scale.data.fill_(3.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def write_aesthetic_head(file: Path) -> None:
    """LAION's head for `write_clip`, under the published names."""
    torch.manual_seed(4)
    save_file(AestheticHead(CLIP_WIDTH).state_dict(), file)
