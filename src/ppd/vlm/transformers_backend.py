"""LLaVA-OneVision of any size through transformers: hidden states, probabilities of answers, text."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size
from huggingface_hub.errors import HFValidationError
from rich.console import Console
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LlavaOnevisionForConditionalGeneration
from transformers.utils import cached_file

from ppd.bf16_on_cpu import lacks_bf16
from ppd.errors import InputError
from ppd.settings import VlmPrecision
from ppd.users.embeddings import VlmRef
from ppd.vlm.last_position import BeforeAndAfter, states_at
from ppd.vlm.processor import ImageTextProcessor
from ppd.vlm.prompts import IMAGE, Conversation, plain
from ppd.vlm.revision import folder_hash
from ppd.vlm.vision import Prepared, Vision

Read = TypeVar("Read")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


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
        self.vision = Vision(self.model, processor)
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
        if precision == "bf16" and lacks_bf16(device):
            precision = "fp32"
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
        revision = folder_hash(Path(checkpoint)) if local else Path(cached_file(checkpoint, "config.json")).parent.name
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
    def hidden_at_end(
        self,
        conversations: Sequence[Conversation],
        rows: Sequence[int] | None = None,
        answers: Sequence[Sequence[int]] | None = None,
    ) -> Tensor:
        """Hidden states of the last position of each prompt, where an answer would begin: [N, rows, width].

        rows: which layers, from 0, the input embedding; all `n_rows` of them if None. Layers above the highest are not
        run. answers: tokens of an answer to each prompt; the states are then those where its last token was read.
        """

        def read(part: slice, images: Prepared) -> Tensor:
            tokens = self._tokens(conversations[part])
            if answers is not None:
                tokens = [[*prompt, *answer] for prompt, answer in zip(tokens, answers[part], strict=True)]
            batch = self._embed(tokens, [conversation.images for conversation in conversations[part]], "right", images)
            with states_at(self.language, batch.last, rows) as latest:
                # Causal, and padded on the right: without a mask the same positions are read, by faster kernels.
                self.language(inputs_embeds=batch.embedded, use_cache=False)
            return latest().float().cpu()

        return torch.cat(self._in_parts(conversations, read))

    @torch.inference_mode()
    def write(self, conversations: Sequence[Conversation], *, max_new_tokens: int) -> list[Written]:
        """Greedy answer to each prompt, and the hidden states before and after it."""

        def read(part: slice, images: Prepared) -> list[Written]:
            return self._write(conversations[part], max_new_tokens, images)

        return [written for part in self._in_parts(conversations, read) for written in part]

    def n_positions(self, conversation: Conversation) -> int:
        """How long a prompt is, images included."""
        return len(self._tokens([conversation])[0])

    def tokens_of(self, answer: str) -> list[int]:
        """The tokens of an answer, as it would be read back; what looks like an image mark is none."""
        return list(self.processor.tokenizer(plain(answer), add_special_tokens=False).input_ids)

    def _in_parts(self, conversations: Sequence[Conversation], read: Callable[[slice, Prepared], Read]) -> list[Read]:
        """What `read` gives of each batch. The images of the next one are prepared meanwhile.

        A batch that does not fit in the device's memory is halved, and so are those after it.
        """
        results: list[Read] = []
        start, ahead = 0, self._prepare(conversations[: self.batch_size])
        while start < len(conversations):
            images, end = ahead, start + self.batch_size
            ahead = self._prepare(conversations[end : end + self.batch_size])
            try:
                results.append(read(slice(start, end), images))
                start = end
            except RuntimeError as error:
                if self.batch_size == 1 or not should_reduce_batch_size(error):
                    raise
                self.batch_size = (self.batch_size + 1) // 2
                words = f"a batch does not fit in the memory of {self.model.device}: from here on {self.batch_size}"
                Console(stderr=True).print(words, soft_wrap=True)
                ahead = self._prepare(conversations[start : start + self.batch_size])
        return results

    def _prepare(self, conversations: Sequence[Conversation]) -> Prepared:
        return self.vision.prepare(_different(conversation.images for conversation in conversations))

    def _write(self, conversations: Sequence[Conversation], max_new_tokens: int, images: Prepared) -> list[Written]:
        shown = [conversation.images for conversation in conversations]
        batch = self._embed(self._tokens(conversations), shown, "left", images)
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

        def read(part: slice, images: Prepared) -> Tensor:
            shown = [conversation.images for conversation in conversations[part]]
            batch = self._embed(self._tokens(conversations[part]), shown, "right", images)
            output = self.language(inputs_embeds=batch.embedded, use_cache=False)
            return self._answers(_at(output.last_hidden_state, batch.last), answers)

        return torch.cat(self._in_parts(conversations, read))

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

    def prompt(self, conversation: Conversation) -> str:
        """The text that the model reads, its answer to follow; `<image>` stands for an image."""
        turn = [{"role": "user", "content": [{"type": "text", "text": conversation.text}]}]
        return str(self.processor.apply_chat_template(turn, add_generation_prompt=True))

    def _tokens(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """Token ids of each; many of one text, such as both orders of two candidates, cost one."""
        prompts = {conversation.text: self.prompt(conversation) for conversation in conversations}
        shown = [prompt.replace(IMAGE, IMAGE * self.vision.positions_per_image) for prompt in prompts.values()]
        tokens = dict(zip(prompts, self.processor.tokenizer(shown).input_ids, strict=True))
        return [tokens[conversation.text] for conversation in conversations]

    def _shared(self, conversations: Sequence[Conversation], tokens: Sequence[list[int]]) -> tuple[int, int]:
        """How many tokens, holding how many whole images, all of these begin with; each keeps a token to itself."""
        alike = _common_prefix([conversation.images for conversation in conversations])
        images = [i for i, token in enumerate(tokens[0]) if token == self.processor.image_token_id]
        starts = [*images[:: self.vision.positions_per_image], len(tokens[0])]
        shared = min(_common_prefix(tokens), min(map(len, tokens)) - 1, starts[alike])
        whole = sum(start + self.vision.positions_per_image <= shared for start in starts[:-1])
        return min(shared, starts[whole]), whole

    def _embed(
        self,
        tokens: Sequence[list[int]],
        images: Sequence[Sequence[bytes]],
        padding_side: str,
        prepared: Prepared | None = None,
    ) -> _Batch:
        """Tokens and the images they stand for, as input embeddings. prepared: of these images, each once."""
        padded = self.processor.tokenizer.pad(
            {"input_ids": list(tokens)}, padding_side=padding_side, return_tensors="pt"
        ).to(self.model.device)
        embedded = self.language.embed_tokens(padded.input_ids)
        if any(images):
            different = _different(images)
            number = {image: i for i, image in enumerate(different)}
            shown = [number[image] for row in images for image in row]
            seen = self.vision.see(prepared or self.vision.prepare(different))[shown]
            places = (padded.input_ids == self.processor.image_token_id).unsqueeze(-1)
            if int(places.sum()) != seen.shape[0] * seen.shape[1]:
                raise InputError(f"{len(shown)} images for {int(places.sum()) // seen.shape[1]} {IMAGE} marks")
            embedded = embedded.masked_scatter(places, seen.to(embedded.dtype))
        return _Batch(embedded, padded.attention_mask)


def _different(images: Iterable[Sequence[bytes]]) -> list[bytes]:
    """Every image once, in the order in which they come."""
    return list(dict.fromkeys(image for row in images for image in row))


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
