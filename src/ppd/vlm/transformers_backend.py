"""LLaVA-OneVision of any size through transformers: hidden states, probabilities of answers, text."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import HFValidationError
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LlavaOnevisionForConditionalGeneration
from transformers.utils import cached_file

from ppd.errors import InputError
from ppd.preferences.images import open_rgb
from ppd.settings import VlmPrecision
from ppd.users.embeddings import VlmRef
from ppd.vlm.last_position import BeforeAndAfter, states_at
from ppd.vlm.processor import ImageTextProcessor
from ppd.vlm.prompts import IMAGE, Conversation

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
POSITIONS_AT_ONCE = 1 << 15
"""The vision tower sees so many patches in one forward: 44 images of 27 x 27."""


@dataclass(frozen=True)
class Written:
    """What the model wrote, with hidden states of all layers, [layers + 1, width], float32.

    before: at the end of the prompt, as `hidden_at_end`; after: where the model read its own last word.
    """

    text: str
    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class _Batch:
    """Conversations as the language model reads them: embedded [N, length, width], mask [N, length] (1: a token)."""

    embedded: Tensor
    mask: Tensor

    @property
    def last(self) -> Tensor:
        """Last position of each row that is padded on the right: [N]."""
        return self.mask.sum(dim=1) - 1


class TransformersVlm:
    """A frozen LLaVA-OneVision. What a conversation gives does not depend on what it is batched with.

    Rows are padded on the right where nothing is generated: with causal attention nothing looks at the padding. Every
    image is seen once a batch, however often the batch shows it.
    """

    def __init__(
        self,
        model: LlavaOnevisionForConditionalGeneration,
        processor: ImageTextProcessor,
        *,
        ref: VlmRef,
        batch_size: int = 32,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.language = model.model.language_model
        self.processor = processor
        self.ref = ref
        self.batch_size = batch_size

    @staticmethod
    def load(
        checkpoint: str | Path,
        *,
        device: str | torch.device = "cpu",
        precision: VlmPrecision = "fp32",
        batch_size: int = 32,
    ) -> "TransformersVlm":
        """From a folder in the hub's layout or a hub id, whatever its own precision (the published 7B lies in fp16).

        Raises InputError where there is no such checkpoint.
        """
        try:
            # Pillow resizes alike everywhere; the library would take torchvision wherever it is installed.
            processor = ImageTextProcessor.from_pretrained(checkpoint, backend="pil")
            model = LlavaOnevisionForConditionalGeneration.from_pretrained(
                checkpoint, dtype=_DTYPES[precision], use_safetensors=True
            )
        except (OSError, HFValidationError) as error:
            raise InputError(
                f"no LLaVA-OneVision checkpoint: {error}", file=checkpoint, fix="Run `dvc pull`"
            ) from error
        # In the hub's cache a checkpoint lies in a folder that is named by its commit.
        local = Path(checkpoint).is_dir()
        revision = _folder_hash(Path(checkpoint)) if local else Path(cached_file(checkpoint, "config.json")).parent.name
        return TransformersVlm(
            model.to(device), processor, ref=VlmRef(str(checkpoint), revision), batch_size=batch_size
        )

    @property
    def n_rows(self) -> int:
        """Rows of an embedding: the input embedding and one a layer."""
        return int(self.model.config.text_config.num_hidden_layers) + 1

    @property
    def width(self) -> int:
        """Dimensions of a row."""
        return int(self.model.config.text_config.hidden_size)

    @torch.inference_mode()
    def hidden_at_end(self, conversations: Sequence[Conversation]) -> Tensor:
        """Hidden states of the last position of each prompt, where an answer would begin: [N, layers + 1, width]."""
        states = []
        for part in self._parts(conversations):
            batch = self._batch(part, padding_side="right")
            with states_at(self.language, batch.last) as latest:
                self.language(inputs_embeds=batch.embedded, attention_mask=batch.mask, use_cache=False)
            states.append(latest().float().cpu())
        return torch.cat(states)

    @torch.inference_mode()
    def write(self, conversations: Sequence[Conversation], *, max_new_tokens: int) -> list[Written]:
        """Greedy answer to each prompt, and the hidden states before and after it."""
        return [written for part in self._parts(conversations) for written in self._write(part, max_new_tokens)]

    def _write(self, conversations: Sequence[Conversation], max_new_tokens: int) -> list[Written]:
        batch = self._batch(conversations, padding_side="left")
        with states_at(self.language) as latest:
            riding = BeforeAndAfter(latest, self._ends)
            written = self.model.generate(
                inputs_embeds=batch.embedded,
                attention_mask=batch.mask,
                # All of it is said here: what a checkpoint brings (sampling, a repetition penalty) is not greedy.
                generation_config=GenerationConfig(
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    repetition_penalty=1.0,
                    eos_token_id=self._ends.tolist(),
                    pad_token_id=self.processor.tokenizer.pad_token_id,
                ),
                logits_processor=[riding],
            )
        texts = [self.processor.tokenizer.decode(self._said(tokens), skip_special_tokens=True) for tokens in written]
        states = zip(riding.before.float().cpu(), riding.after.float().cpu(), strict=True)
        return [Written(text.strip(), *both) for text, both in zip(texts, states, strict=True)]

    @property
    def _ends(self) -> Tensor:
        """Tokens that end a text."""
        ends = self.model.generation_config.eos_token_id
        ends = self.processor.tokenizer.eos_token_id if ends is None else ends
        return torch.tensor(ends, device=self.model.device).reshape(-1)

    def _said(self, tokens: Tensor) -> Tensor:
        """The new tokens before the first that ends a text."""
        ended = torch.isin(tokens, self._ends).nonzero()
        return tokens[: int(ended[0])] if len(ended) else tokens

    @torch.inference_mode()
    def answer_probabilities(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> Tensor:
        """Probability of each answer as the next word, among these answers: [N, answers], float32.

        Answers are told apart by their first token; InputError where these coincide.
        """
        probabilities = []
        for part in self._parts(conversations):
            batch = self._batch(part, padding_side="right")
            output = self.language(inputs_embeds=batch.embedded, attention_mask=batch.mask, use_cache=False)
            probabilities.append(self._answers(_at(output.last_hidden_state, batch.last), answers))
        return torch.cat(probabilities)

    @torch.inference_mode()
    def answers_about_one(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> Tensor:
        """`answer_probabilities` of conversations that begin alike, reading once what they share (a person's pairs).

        The shared beginning's keys and values are kept, and every conversation goes on from them. Equal to reading each
        conversation whole, up to rounding.
        """
        tokens = self._tokens(conversations)
        shared, n_images = self._shared(conversations, tokens)
        if shared == 0:
            return self.answer_probabilities(conversations, answers)
        beginning = self._embed([tokens[0][:shared]], [conversations[0].images[:n_images]], padding_side="right")
        read = self.language(inputs_embeds=beginning.embedded, use_cache=True).past_key_values
        probabilities = []
        for at in range(0, len(conversations), self.batch_size):
            part = slice(at, at + self.batch_size)
            rest = self._embed(
                [row[shared:] for row in tokens[part]],
                [conversation.images[n_images:] for conversation in conversations[part]],
                padding_side="right",
            )
            n = len(rest.mask)
            cache = DynamicCache(
                [(layer.keys.expand(n, -1, -1, -1), layer.values.expand(n, -1, -1, -1)) for layer in read.layers]
            )
            output = self.language(
                inputs_embeds=rest.embedded,
                attention_mask=torch.cat([rest.mask.new_ones(n, shared), rest.mask], dim=1),
                past_key_values=cache,
                use_cache=True,
            )
            probabilities.append(self._answers(_at(output.last_hidden_state, rest.last), answers))
        return torch.cat(probabilities)

    def _answers(self, hidden: Tensor, answers: Sequence[str]) -> Tensor:
        """[N, width] -> [N, answers]."""
        firsts = [self.processor.tokenizer(answer, add_special_tokens=False).input_ids[0] for answer in answers]
        if len(set(firsts)) < len(answers):
            raise InputError(f"this tokenizer begins {', '.join(answers)} with the same token")
        return self.model.lm_head(hidden)[:, firsts].float().softmax(dim=-1).cpu()

    def _parts(self, conversations: Sequence[Conversation]) -> list[Sequence[Conversation]]:
        return [conversations[i : i + self.batch_size] for i in range(0, len(conversations), self.batch_size)]

    def prompt(self, conversation: Conversation) -> str:
        """The text that the model reads, its answer to follow; `<image>` stands for an image."""
        turn = [{"role": "user", "content": [{"type": "text", "text": conversation.text}]}]
        return str(self.processor.apply_chat_template(turn, add_generation_prompt=True))

    @property
    def _positions_per_image(self) -> int:
        """Several images a conversation: each is its base patches and a newline."""
        default = self.processor.vision_feature_select_strategy == "default"  # drops the class token
        return int(self.processor.num_image_tokens) + 1 - int(default)

    def _tokens(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """Token ids of each; many of one text, such as both orders of two candidates, cost one."""
        prompts = {conversation.text: self.prompt(conversation) for conversation in conversations}
        shown = [prompt.replace(IMAGE, IMAGE * self._positions_per_image) for prompt in prompts.values()]
        tokens = dict(zip(prompts, self.processor.tokenizer(shown).input_ids, strict=True))
        return [tokens[conversation.text] for conversation in conversations]

    def _shared(self, conversations: Sequence[Conversation], tokens: Sequence[list[int]]) -> tuple[int, int]:
        """How many tokens, holding how many whole images, all of these begin with; each keeps a token to itself."""
        alike = _common_prefix([conversation.images for conversation in conversations])
        images = [i for i, token in enumerate(tokens[0]) if token == self.processor.image_token_id]
        starts = [*images[:: self._positions_per_image], len(tokens[0])]
        shared = min(_common_prefix(tokens), min(map(len, tokens)) - 1, starts[alike])
        whole = sum(start + self._positions_per_image <= shared for start in starts[:-1])
        return min(shared, starts[whole]), whole

    def _batch(self, conversations: Sequence[Conversation], padding_side: str) -> _Batch:
        tokens = self._tokens(conversations)
        return self._embed(tokens, [conversation.images for conversation in conversations], padding_side)

    def _embed(self, tokens: Sequence[list[int]], images: Sequence[Sequence[bytes]], padding_side: str) -> _Batch:
        """Tokens and the images they stand for, as input embeddings."""
        padded = self.processor.tokenizer.pad(
            {"input_ids": list(tokens)}, padding_side=padding_side, return_tensors="pt"
        ).to(self.model.device)
        embedded = self.language.embed_tokens(padded.input_ids)
        shown = [image for row in images for image in row]
        if shown:
            number = {image: i for i, image in enumerate(dict.fromkeys(shown))}
            seen = self._see(list(number))[[number[image] for image in shown]]
            places = (padded.input_ids == self.processor.image_token_id).unsqueeze(-1)
            if int(places.sum()) != seen.shape[0] * seen.shape[1]:
                raise InputError(f"{len(shown)} images for {int(places.sum()) // seen.shape[1]} {IMAGE} marks")
            embedded = embedded.masked_scatter(places, seen.to(embedded.dtype))
        return _Batch(embedded, padded.attention_mask)

    def _see(self, images: Sequence[bytes]) -> Tensor:
        """What the language model gets of each image: [N, positions, width]."""
        at_once = max(2, POSITIONS_AT_ONCE // self._positions_per_image)
        seen: list[Tensor] = []
        for start in range(0, len(images), at_once):
            pictures = [open_rgb(image) for image in images[start : start + at_once]]
            # Nested, as of one conversation. Alone, an image would be cut into high-resolution patches, and squeezed
            # where it is not square instead of padded; so it is never alone.
            shown = pictures if len(pictures) > 1 else pictures * 2
            inputs = self.processor.image_processor([shown], return_tensors="pt").to(self.model.device)
            features = self.model.model.get_image_features(
                inputs["pixel_values"].to(self.model.dtype), inputs["image_sizes"], batch_num_images=[len(shown)]
            )
            seen += features.pooler_output[: len(pictures)]
        return torch.stack(seen)


def _at(hidden: Tensor, last: Tensor) -> Tensor:
    """One position of each row: [N, length, width], [N] -> [N, width]."""
    return hidden[torch.arange(len(last), device=last.device), last]


def _common_prefix(rows: Sequence[Sequence[object]]) -> int:
    """How many first elements are the same in all rows."""
    length = 0
    for elements in zip(*rows, strict=False):
        if any(element != elements[0] for element in elements[1:]):
            break
        length += 1
    return length


def _folder_hash(folder: Path) -> str:
    """A hash of everything in a checkpoint's folder that can change what the model says."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in {".safetensors", ".jinja"} or file.name in _MEANINGFUL:
            digest.update(file.name.encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


_MEANINGFUL = {
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "tokenizer.json",
    "preprocessor_config.json",
}
