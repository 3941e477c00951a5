"""A model behind a server, which is asked over HTTP."""

import json
from typing import Self

from pydantic import Field, JsonValue, model_validator

from ppd.settings.base import Component


class ServerSettings(Component):
    """An OpenAI-compatible chat endpoint: GPT-4o, or what vLLM serves. It judges (`ppd.vlm.server_judge`) or writes
    profiles (`ppd.vlm.server_writer`)."""

    url: str = Field(pattern=r"^https?://\S+$")
    """What comes before /chat/completions, such as http://localhost:8000/v1."""
    model: str
    key_variable: str | None
    """Environment variable that holds the API key, read when the first question is asked; null sends none."""
    price_per_million_prompt_tokens: float = Field(ge=0)
    price_per_million_answer_tokens: float = Field(ge=0)
    """Prices change, so none is assumed; 0 for a server of your own. `budget` is in the same currency."""
    budget: float = Field(ge=0)
    """What one run may spend; it stops before the question that could pass it. Answers that it has are kept."""
    tokens_per_image: int = Field(ge=1)
    """What the server counts for an image: for the estimate before the run; afterwards it says itself."""
    max_new_tokens: int = Field(16, ge=1)
    """A model that thinks before it answers needs hundreds or thousands."""
    max_tokens_field: str | None = Field("max_completion_tokens", pattern=r"^\w+$")
    """What the request calls it: older servers know `max_tokens` alone; null leaves it out."""
    temperature: float | None = Field(0.0, ge=0)
    """null leaves it out, for models that accept only their own."""
    extra_body: dict[str, JsonValue] = Field(default_factory=dict)
    """More fields of the request, as they are, such as `reasoning_effort: low`."""
    concurrency: int = Field(8, ge=1)
    """Questions under way at a time."""
    timeout_s: float = Field(60.0, gt=0)
    """For the whole of a response."""
    attempts: int = Field(6, ge=1)
    first_wait_s: float = Field(1.0, ge=0)
    """Before the second attempt; it doubles each time, with jitter, and a server that says how long is believed."""

    @model_validator(mode="after")
    def _each_field_of_the_request_once(self) -> Self:
        ours = {"model", "messages", "temperature"}
        if self.max_tokens_field in ours:
            raise ValueError(f"max_tokens_field: {self.max_tokens_field} is another field of the request")
        if taken := sorted(self.extra_body.keys() & (ours | {self.max_tokens_field, "stream", "n"})):
            raise ValueError(
                f"extra_body holds {', '.join(map(str, taken))}: stream and n cannot be changed, and the others have "
                "settings of their own (model, temperature, max_tokens_field with max_new_tokens)"
            )
        try:
            json.dumps(self.extra_body, allow_nan=False)
        except ValueError as error:
            raise ValueError(f"extra_body cannot be sent as JSON: {error}") from error
        return self
