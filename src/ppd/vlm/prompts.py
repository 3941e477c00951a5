"""What is said to a vision-language model about one person: their pairs, then a question.

A pair is told as its caption, the preferred image, the rejected image (the order of PPD, arXiv 2501.06655, stage 1),
each image followed by the word for it: a causal model reads the word when it has seen the image, not before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ppd.settings import PromptVersion
from ppd.users.support import Pair

IMAGE = "<image>"
ANSWERS: tuple[Literal["first", "second"], ...] = ("first", "second")


@dataclass(frozen=True)
class Candidates:
    """Two images of one caption, in the order they are shown."""

    caption: str
    first: bytes
    second: bytes

    def swapped(self) -> "Candidates":
        """The same two the other way round."""
        return Candidates(self.caption, self.second, self.first)


@dataclass(frozen=True)
class Conversation:
    """One user turn: `text` holds an `<image>` mark for each of `images` (encoded files), in order."""

    text: str
    images: tuple[bytes, ...]


@dataclass(frozen=True)
class _Wording:
    introduction: str
    pair: str
    profile: str
    candidates: str


# A version's number goes up whenever a word of it changes: embeddings are keyed by it.
_WORDINGS: dict[PromptVersion, _Wording] = {
    "short-1": _Wording(
        introduction="",
        pair=f"{{caption}} {IMAGE} preferred {IMAGE} rejected ",
        profile="describe this person",
        candidates=f"{{caption}} {IMAGE} first {IMAGE} second which is preferred",
    ),
    "full-1": _Wording(
        introduction="One person was shown pairs of images. Both images of a pair were made for the same caption, and "
        "the person told which one they prefer.\n",
        pair=f"Pair {{number}}, made for the caption “{{caption}}”:\n{IMAGE}\nThe image above is the preferred one.\n"
        f"{IMAGE}\nThe image above is the rejected one.\n",
        profile="For each pair, describe the two images, then explain what sets the preferred one apart in style, "
        "quality and aesthetics. Leave aside what the caption asks for: it is the same for both. Close with a "
        "paragraph that begins with “User Profile:” and tells what this person likes and dislikes in an image.",
        candidates=f"Two new images were made for the caption “{{caption}}”:\n{IMAGE}\nThe image above is the first "
        f"one.\n{IMAGE}\nThe image above is the second one.\nWhich of the two would this person prefer? Answer with "
        "one word: first or second.",
    ),
}


def _tell_pairs(pairs: Sequence[Pair], wording: _Wording) -> tuple[str, tuple[bytes, ...]]:
    text = wording.introduction + "".join(
        wording.pair.format(number=i, caption=plain(pair.caption)) for i, pair in enumerate(pairs, start=1)
    )
    return text, tuple(image for pair in pairs for image in (pair.preferred, pair.rejected))


def plain(caption: str) -> str:
    """A caption that cannot be taken for an image mark or for control tokens of a chat.

    Until nothing changes: what is left of `<<image>>` when one mark is gone would be another.
    """
    before = None
    while before != caption:
        before = caption
        caption = caption.replace(IMAGE, "image").replace("<video>", "video").replace("<|", "< |").replace("|>", "| >")
    return caption


def profile_conversation(pairs: Sequence[Pair], prompt: PromptVersion) -> Conversation:
    """Ask for the profile of the person who made these choices; the embedding is read where this turn ends."""
    wording = _WORDINGS[prompt]
    text, images = _tell_pairs(pairs, wording)
    return Conversation(text + wording.profile, images)


def judge_conversation(pairs: Sequence[Pair], candidates: Candidates, prompt: PromptVersion) -> Conversation:
    """Ask which of two candidates the person who made these choices would prefer; the answer is one of `ANSWERS`."""
    wording = _WORDINGS[prompt]
    text, images = _tell_pairs(pairs, wording)
    question = wording.candidates.format(caption=plain(candidates.caption))
    return Conversation(text + question, (*images, candidates.first, candidates.second))
