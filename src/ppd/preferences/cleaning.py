"""Deciding what becomes of each raw row: a pair, a refusal, or a choice that was not made."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import NamedTuple

from ppd.preferences.images import BadImage
from ppd.preferences.inspection import GoodImage, digest, inspect
from ppd.preferences.rows import RawRow, Refusal

DECIDED = ((1.0, 0.0), (0.0, 1.0))
TIE = (0.5, 0.5)
_IMAGES_PER_TASK = 32  # so that handing tiny images to a thread does not cost more than decoding them


class Pair(NamedTuple):
    """A choice that can be learnt from; the fields of `ppd.preferences.schema.PAIRS`."""

    pair_id: int
    user_id: str
    caption: str
    chosen_uid: str
    rejected_uid: str
    created_us: int | None


class StoredImage(NamedTuple):
    """An image seen for the first time; `digest` is of its encoded bytes."""

    uid: str
    encoded: bytes
    width: int
    height: int
    digest: bytes


class Candidate(NamedTuple):
    """A pair whose values are sound and whose images, (uid, encoded bytes) each, are still to be looked at."""

    file: str
    row: int
    pair: Pair
    images: tuple[tuple[str, bytes | None], tuple[str, bytes | None]]


def check_values(row: RawRow) -> Candidate | Refusal | str:
    """Judge a row by its values alone, without its images.

    A string names why there is no choice to learn from though nothing is wrong: `no_label`, `not_different`, `tie`.
    """

    def refuse(reason: str, detail: str) -> Refusal:
        return Refusal(row.file, row.row, reason, detail)

    if row.has_label is False:
        return "no_label"
    if row.are_different is False:
        return "not_different"
    if row.has_label is None or row.are_different is None:
        return refuse("value_missing", "has_label or are_different")
    if row.ranking_id is None:
        return refuse("value_missing", "ranking_id")
    if row.user_id is None or not row.user_id.strip():
        return refuse("value_missing", "user_id")
    if row.caption is None or not row.caption.strip():
        return refuse("value_missing", "caption")
    if not row.uid_0 or not row.uid_1:
        return refuse("value_missing", "image_0_uid or image_1_uid")
    if row.uid_0 == row.uid_1:
        return refuse("same_image", f"both images are {row.uid_0}")
    if row.label_0 is None or row.label_1 is None or math.isnan(row.label_0) or math.isnan(row.label_1):
        return refuse("label_missing", f"has_label is true but the labels are {row.label_0}, {row.label_1}")
    labels = (row.label_0, row.label_1)
    if labels == TIE:
        return "tie"
    if labels not in DECIDED:
        return refuse("label_invalid", f"labels are {labels[0]}, {labels[1]}; expected 1/0, 0/1 or 0.5/0.5")
    chosen, rejected = (row.uid_0, row.uid_1) if labels == DECIDED[0] else (row.uid_1, row.uid_0)
    if row.best_uid != chosen:
        return refuse("label_disagrees", f"the labels choose {chosen}; best_image_uid is {row.best_uid}")
    pair = Pair(row.ranking_id, row.user_id, row.caption, chosen, rejected, row.created_us)
    return Candidate(row.file, row.row, pair, ((row.uid_0, row.image_0), (row.uid_1, row.image_1)))


@dataclass
class Cleaned:
    """What came of some rows, in their order."""

    pairs: list[Pair] = field(default_factory=list)
    images: list[StoredImage] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


class Cleaner:
    """Cleans batches in order and remembers what may come only once: rankings, pairs of a user, images.

    The outcome does not depend on `pool`, only the time does: a row is judged by what came before it in the log.
    It keeps two keys a pair and one digest an image, no image bytes.
    """

    def __init__(self, max_image_pixels: int, pool: Executor) -> None:
        self._max_image_pixels = max_image_pixels
        self._pool = pool
        self._rankings: set[int] = set()
        self._pair_keys: set[bytes] = set()
        self._digests: dict[str, bytes] = {}

    @property
    def digests(self) -> Mapping[str, bytes]:
        """uid -> digest of all images that were accepted, in that order."""
        return self._digests

    def remember(self, pairs: Iterable[Pair], digests: Iterable[tuple[str, bytes]]) -> None:
        """Take up what an interrupted run had already accepted: its pairs, and (uid, digest) of its images."""
        for pair in pairs:
            self._rankings.add(pair.pair_id)
            self._pair_keys.add(_pair_key(pair))
        self._digests.update(digests)

    def clean(self, rows: Sequence[RawRow | Refusal]) -> Cleaned:
        """Judge the rows of one batch. The first of several that contradict or repeat one another is kept."""
        cleaned = Cleaned()
        verdicts = [row if isinstance(row, Refusal) else check_values(row) for row in rows]
        images = [image for verdict in verdicts if isinstance(verdict, Candidate) for image in verdict.images]
        findings = iter(self._inspect(images))
        for verdict in verdicts:
            if isinstance(verdict, str):
                cleaned.dropped[verdict] += 1
            elif isinstance(verdict, Refusal):
                cleaned.refused.append(verdict)
            else:
                problem = self._accept(verdict, (next(findings), next(findings)), cleaned.images)
                if problem is None:
                    cleaned.pairs.append(verdict.pair)
                else:
                    cleaned.refused.append(Refusal(verdict.file, verdict.row, *problem))
        return cleaned

    def _inspect(self, images: list[tuple[str, bytes | None]]) -> list["_Finding"]:
        """Decode the images that are new, digest the others; in order, spread over the pool."""
        tasks: list[list[tuple[bytes | None, bool]]] = []
        fresh: set[tuple[str, bytes | None]] = set()
        for at, image in enumerate(images):
            uid, encoded = image
            decode = uid not in self._digests and image not in fresh
            fresh.add(image)
            if at % _IMAGES_PER_TASK == 0:
                tasks.append([])
            tasks[-1].append((encoded, decode))
        return [finding for task in self._pool.map(self._inspect_some, tasks) for finding in task]

    def _inspect_some(self, images: list[tuple[bytes | None, bool]]) -> list["_Finding"]:
        return [
            inspect(encoded, self._max_image_pixels) if decode or not encoded else digest(encoded)
            for encoded, decode in images
        ]

    def _accept(
        self, candidate: Candidate, findings: tuple["_Finding", "_Finding"], images: list[StoredImage]
    ) -> tuple[str, str] | None:
        """Register a pair and add its new images to `images`; or return (reason, detail) and change nothing."""
        pair = candidate.pair
        if pair.pair_id in self._rankings:
            return "duplicate_ranking", f"ranking_id {pair.pair_id} came before"
        key = _pair_key(pair)
        if key in self._pair_keys:
            return "duplicate_pair", f"user {pair.user_id} has judged these two images before"
        new: dict[str, StoredImage] = {}
        seen: list[bytes] = []
        for (uid, encoded), finding in zip(candidate.images, findings, strict=True):
            if isinstance(finding, bytes) and uid not in self._digests:
                # It was to be decoded with an earlier row of this batch, which then was refused.
                finding = inspect(encoded, self._max_image_pixels)
            if isinstance(finding, BadImage):
                return finding.reason, f"image {uid}: {finding.detail}"
            content = finding.digest if isinstance(finding, GoodImage) else finding
            if self._digests.get(uid, content) != content:
                return "image_conflict", f"image {uid} came before with other bytes"
            if isinstance(finding, GoodImage) and encoded and uid not in self._digests:
                new[uid] = StoredImage(uid, encoded, finding.width, finding.height, content)
            seen.append(content)
        if seen[0] == seen[1]:
            return "same_image", "both images have the same bytes"
        self._rankings.add(pair.pair_id)
        self._pair_keys.add(key)
        self._digests.update((uid, image.digest) for uid, image in new.items())
        images.extend(new.values())
        return None


_Finding = GoodImage | BadImage | bytes  # bytes: the digest of an image whose uid is known, not decoded again


def _pair_key(pair: Pair) -> bytes:
    first, second = sorted((pair.chosen_uid, pair.rejected_uid))
    return hashlib.blake2b(f"{pair.user_id}\0{first}\0{second}".encode(), digest_size=16).digest()
