"""The nano LLaVA-OneVision: the library's own classes at a few million parameters, and a tokenizer of phrases."""

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Split
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from ppd.settings import Component
from ppd.simulation.users import TRAITS
from ppd.simulation.world import CONCEPTS, IMAGE_PX
from ppd.vlm.processor import ImageTextProcessor

PAD, UNKNOWN, USER, ASSISTANT, END = "<pad>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>"
IMAGE, VIDEO = "<image>", "<video>"
CONTROL = (PAD, UNKNOWN, USER, ASSISTANT, END, IMAGE, VIDEO)
PHRASES = ("a sticker of a", "a sticker of an", "which is preferred", "describe this person", *CONCEPTS, *TRAITS)
WORDS = ("preferred", "rejected", "first", "second", "likes", "and")
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% for item in message['content'] %}{{ item['text'] }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class ArchitectureSettings(Component):
    """Sizes of the nano model. One patch covers an image, so that an image costs two positions (with the newline)."""

    patch_px: int = IMAGE_PX
    vision_width: int = 192
    vision_layers: int = 3
    vision_heads: int = 4
    width: int = 128
    layers: int = 6
    heads: int = 4


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Every phrase of the sticker world is one token; words it does not know become <unk>."""
    vocabulary = {token: i for i, token in enumerate((*CONTROL, *PHRASES, *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = Lowercase()
    longest_first = sorted(PHRASES, key=len, reverse=True)
    tokenizer.pre_tokenizer = Split(
        Regex(r"\b(?:" + "|".join(longest_first) + r")\b|\w+|[^\w\s]"), behavior="removed", invert=True
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, eos_token=END, padding_side="left"
    )


def build_processor(settings: ArchitectureSettings) -> ImageTextProcessor:
    """Tokenizer, image processor and chat template of the nano model."""
    return ImageTextProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(
            size={"height": IMAGE_PX, "width": IMAGE_PX},
            image_grid_pinpoints=[[IMAGE_PX, IMAGE_PX]],
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        tokenizer=build_tokenizer(),
        num_image_tokens=(IMAGE_PX // settings.patch_px) ** 2,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )


def build_model(
    settings: ArchitectureSettings, tokenizer: PreTrainedTokenizerFast
) -> LlavaOnevisionForConditionalGeneration:
    """The model with random weights; seed torch before."""
    vision = SiglipVisionConfig(
        hidden_size=settings.vision_width,
        intermediate_size=2 * settings.vision_width,
        num_hidden_layers=settings.vision_layers,
        num_attention_heads=settings.vision_heads,
        image_size=IMAGE_PX,
        patch_size=settings.patch_px,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=3 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        video_token_index=tokenizer.convert_tokens_to_ids(VIDEO),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        image_grid_pinpoints=[[IMAGE_PX, IMAGE_PX]],
        tie_word_embeddings=True,
    )
    return LlavaOnevisionForConditionalGeneration(config)
