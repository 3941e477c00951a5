"""What questions to a server cost, and the point at which a run stops asking."""

from threading import Lock

from ppd.errors import InputError
from ppd.settings import ServerSettings
from ppd.vlm.prompts import Conversation
from ppd.vlm.reply import Reply

_CHARACTERS_PER_TOKEN = 3
"""English has about four; an estimate should rather be too high."""


def estimate(conversation: Conversation, server: ServerSettings) -> float:
    """What asking this will cost at most, about: the server's own count is known only afterwards."""
    prompt = len(conversation.text) / _CHARACTERS_PER_TOKEN + server.tokens_per_image * len(conversation.images)
    return _price(server, prompt, server.max_new_tokens)


def cost(reply: Reply, server: ServerSettings) -> float | None:
    """What a reply cost by the server's count; None where it does not count."""
    if reply.prompt_tokens is None or reply.answer_tokens is None:
        return None
    return _price(server, reply.prompt_tokens, reply.answer_tokens)


def _price(server: ServerSettings, prompt_tokens: float, answer_tokens: float) -> float:
    prices = (
        server.price_per_million_prompt_tokens * prompt_tokens + server.price_per_million_answer_tokens * answer_tokens
    )
    return prices / 1e6


class Budget:
    """Money of one run, shared by its threads: what questions under way may cost is set aside before they are asked.

    setting: what it is a part of in the settings, for messages.
    """

    def __init__(self, limit: float, setting: str = "judge.server") -> None:
        self.limit, self.setting, self.spent, self._set_aside = limit, setting, 0.0, 0.0
        self._lock = Lock()

    def reserve(self, amount: float) -> None:
        """Set money aside for a question; InputError where it could pass the limit."""
        with self._lock:
            if self.spent + self._set_aside + amount > self.limit:
                raise InputError(
                    f"the budget of {self.limit:g} is used up: {self.spent:.4f} spent, the next question may "
                    f"cost {amount:.4f}",
                    fix=f"Raise {self.setting}.budget and run it again: the answers so far are kept",
                )
            self._set_aside += amount

    def settle(self, reserved: float, spent: float) -> None:
        """A question is done: what was set aside for it, and what it did cost."""
        with self._lock:
            self._set_aside -= reserved
            self.spent += spent
