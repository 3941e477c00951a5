"""The captions' side of the nano models: a tokenizer of whole words and the shape of a small CLIP text encoder."""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BatchEncoding, PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
MAX_TOKENS = 10


def caption_tokenizer(captions: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a word of `captions`, begin and end marked; unknown words are <unk>. Saves in the hub's layout."""
    words = sorted({word for text in captions for word in text.lower().split()})
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    metrics = [(mark, vocabulary[mark]) for mark in ("<s>", "</s>")]
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=metrics)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=MAX_TOKENS,
    )


def chat_tokenizer(captions: Sequence[str]) -> PreTrainedTokenizerFast:
    """The same with a chat template that is the bare message: Z-Image's pipeline asks for one."""
    tokenizer = caption_tokenizer(captions)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return tokenizer


def tokenize(tokenizer: PreTrainedTokenizerFast, captions: Sequence[str]) -> BatchEncoding:
    """input_ids and attention_mask [N, MAX_TOKENS], padded and cut as `StableCascadeBackbone.encode_captions` does."""
    return tokenizer(
        list(captions),
        padding="max_length",
        max_length=MAX_TOKENS,
        truncation=True,
        return_tensors="pt",
        return_token_type_ids=False,
    )


def text_config(tokenizer: PreTrainedTokenizerFast, *, width: int, n_layers: int) -> dict[str, int]:
    """Arguments of a `CLIPTextConfig` that fits the tokenizer; heads of 32 channels, the projection keeps the width."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": n_layers,
        "num_attention_heads": width // 32,
        "max_position_embeddings": MAX_TOKENS,
        "projection_dim": width,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
