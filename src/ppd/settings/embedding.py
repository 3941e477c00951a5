"""How users are embedded (`ppd.vlm.embedding`)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ppd.settings.base import Component, Share
from ppd.settings.server import ServerSettings

PromptVersion = Literal["short-1", "full-1"]
"""short: few words, all that a nano model's tokenizer knows; full: asks for the reasoning that the paper asks for."""


VlmPrecision = Literal["fp32", "bf16"]
"""bf16 halves a large model's memory. No fp16, in which the published 7B lies: its range is too small."""


class EmbeddingSettings(Component):
    """How a person's pairs become an embedding (`ppd.vlm.embedding`)."""

    prompt: PromptVersion = "short-1"
    read: Literal["prompt-end", "answer-end"] = "prompt-end"
    """Which hidden states: where the answer would begin, or at the last word of the written profile (the paper's)."""
    max_new_tokens: int = Field(8, ge=0)
    """Length of the written profile; 0 writes none, which needs `read: prompt-end`."""
    rows: tuple[int, ...] | None = (6,)
    """Which layers are kept: 0 is the input embedding, the last is the model's output; null keeps all."""
    directions: Literal["principal", "discriminant"] = "discriminant"
    """Which directions come first: those in which embeddings differ most, for whatever reason; or those in which a
    user's embeddings agree and users differ, which needs training users with two groups of choices."""
    components: int | None = Field(13, ge=1)
    """Whitening keeps so many directions of each row; null keeps all. `ppd data directions` says how many hold."""
    shrinkage: Share = 0.1
    """How far whitening draws the spectrum towards its mean, so that directions without signal are not blown up."""
    precision: VlmPrecision = "fp32"
    batch_size: int = Field(64, ge=1)
    """Groups in one forward; halved where that does not fit in memory."""
    server: ServerSettings | None = None
    """Writes the profiles in place of the local model, which then reads them: the same weights as models.vlm."""

    @model_validator(mode="after")
    def _something_to_read(self) -> Self:
        if self.read == "answer-end" and self.max_new_tokens == 0:
            raise ValueError("read: answer-end needs a written answer; set max_new_tokens above 0 or read: prompt-end")
        return self

    @model_validator(mode="after")
    def _a_server_writes_what_is_read(self) -> Self:
        if self.server is None:
            return self
        if self.read != "answer-end":
            raise ValueError("server: it writes profiles, which only read: answer-end reads; leave it null")
        if self.prompt == "short-1":
            raise ValueError("prompt: short-1 is what the nano model knows; a server needs prompt: full-1")
        if self.server.max_new_tokens != self.max_new_tokens:
            raise ValueError(
                f"server.max_new_tokens ({self.server.max_new_tokens}) is not max_new_tokens ({self.max_new_tokens})"
            )
        return self
