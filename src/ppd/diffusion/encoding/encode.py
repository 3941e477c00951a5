"""Encode every image and caption of the preferences once, so that no epoch pays for it again.

What is kept is known by content: after a log has grown, only images with new bytes and captions with new words are
encoded. Batches always have one size, so that a latent does not depend on what it was encoded with. Nothing here grows
with the log but tables of names: latents and text go to files as they come, images are read in the order in which they
are stored, and read and decoded while the device encodes those before.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from ppd.diffusion.encoding.pixels import resized, to_tensor
from ppd.diffusion.encoding.prefetch import prefetched
from ppd.diffusion.encoding.rows import Rows
from ppd.diffusion.encoding.store import (
    CAPTIONS,
    IMAGES,
    LATENTS,
    SOURCE,
    TEXT,
    Encoded,
    text_arrays,
)
from ppd.diffusion.model.backbone import Backbone
from ppd.errors import DamagedFile, InputError
from ppd.files import atomic_path, clear_leftovers
from ppd.parts import this_part
from ppd.preferences.images import READING, open_rgb
from ppd.preferences.store import Preferences
from ppd.progress import progress_bar
from ppd.resumable import work_folder
from ppd.stored_tables import write_table

CAPTION_BATCH = 64

LATENTS_NAME = LATENTS.removesuffix(".npy")

Encoding = tuple[NDArray[np.int64], Mapping[str, np.ndarray]]
"""Which rows, and their arrays by name: [len(rows), ...]."""


@dataclass(frozen=True)
class EncodedCount:
    """How many images and captions were encoded, and how many were there already."""

    images: int
    kept_images: int
    captions: int
    kept_captions: int


def encode(
    preferences: Preferences, backbone: Backbone, out_dir: Path, unfinished: Path, *, image_px: int, batch_size: int
) -> EncodedCount:
    """Latents of all images that may be trained or measured on, and text of all captions, to `out_dir`.

    Images that only describe a person (support) are for the vision-language model alone and have no latents. What
    `out_dir` holds already is taken over, unless other encoders or another size made it, or it is damaged: then it is
    encoded again. Several processes may share the work (`ppd.parts`), each a stretch of what is stored: batches have
    one size, so no row depends on which. A killed run goes on with the rows that it finished, which are in
    `unfinished`; `out_dir` is replaced when all is done. Raises InputError for an image whose latent is no number, and
    where the disk is full.
    """
    pairs = preferences.pairs[preferences.pairs.role.isin(["train", "eval"])]
    uids = sorted({*pairs.chosen_uid, *pairs.rejected_uid})
    digests = preferences.digests.loc[uids]
    captions = sorted({*preferences.captions.caption})
    clear_leftovers(out_dir)
    source = json.dumps({"encoders": backbone.encoders_fingerprint, "image_px": image_px, "images": READING})
    known = _known(out_dir, source)
    damaged = {} if known is None else known.damaged()
    image_rows = _rows_of(digests, None if known is None else pd.Index(known.image_digest), damaged.get(LATENTS))
    caption_rows = _rows_of(pd.Series(captions), None if known is None else known.caption_row.index, damaged.get(TEXT))
    content = hashlib.sha256(b"".join(digests)).hexdigest()
    work = work_folder(unfinished, [source, batch_size, uids, content, captions])
    # Captions first: afterwards the text encoder has nothing left to do.
    text = _filled(
        work / "captions",
        len(captions),
        None if known is None else text_arrays(known.text),
        caption_rows,
        lambda missing: _encoded_captions(backbone, captions, missing),
    )
    images = _filled(
        work / "images",
        len(uids),
        None if known is None else {LATENTS_NAME: known.latents.numpy()},
        image_rows,
        lambda missing: _encoded_images(preferences, backbone, uids, missing, image_px, batch_size),
        lambda missing: missing[preferences.stored_order([uids[row] for row in missing])],
    )
    kept_images, kept_captions = int((image_rows >= 0).sum()), int((caption_rows >= 0).sum())
    counted = EncodedCount(len(uids) - kept_images, kept_images, len(captions) - kept_captions, kept_captions)
    if not this_part().is_first:
        return counted
    with atomic_path(out_dir) as fresh:
        fresh.mkdir()
        shutil.move(images.file(LATENTS_NAME), fresh / LATENTS)
        table = {"image_uid": uids, "digest": digests.to_numpy(), "checksum": images.checksums}
        write_table(pd.DataFrame(table), fresh / IMAGES)
        write_table(pd.DataFrame({"caption": captions, "checksum": text.checksums}), fresh / CAPTIONS)
        for name in text.names:
            shutil.move(text.file(name), fresh / TEXT.format(name))
        (fresh / SOURCE).write_text(source, encoding="utf-8")
    shutil.rmtree(unfinished)
    return counted


def _known(folder: Path, source: str) -> Encoded | None:
    """What an earlier run left, if the same encoders made it."""
    file = folder / SOURCE
    if not file.is_file() or file.read_bytes() != source.encode():
        return None
    try:
        return Encoded.open(folder, check=False)
    except InputError as error:
        Console(stderr=True).print(f"{error}\nEverything is encoded again.", soft_wrap=True, markup=False)
        return None


def _rows_of(wanted: pd.Series, known: pd.Index | None, damaged: np.ndarray | None = None) -> np.ndarray:
    """Where each wanted content lies among the known ones, -1 where it does not: int64 [len(wanted)].

    damaged: rows of the known ones that are not to be taken over.
    """
    if known is None:
        return np.full(len(wanted), -1)
    rows = pd.Series(range(len(known)), index=known)
    if damaged is not None:
        rows = rows.drop(rows.index[damaged])
    return wanted.map(rows[~rows.index.duplicated()]).fillna(-1).to_numpy(np.int64)


def _filled(
    folder: Path,
    n: int,
    known: Mapping[str, np.ndarray] | None,
    known_rows: NDArray[np.int64],
    encode: Callable[[NDArray[np.int64]], Iterator[Encoding]],
    in_order: Callable[[NDArray[np.int64]], NDArray[np.int64]] = lambda rows: rows,
) -> Rows:
    """n rows in `folder`: those that a killed run left there, those that are known, and the others, encoded.

    known_rows: where each row is among the known ones, -1 where it is not. encode: gives the rows asked for in batches.
    in_order: the rows in the order in which they are best read; of several processes each encodes a stretch of it.
    """
    part = this_part()
    if part.is_first:
        _take_over(folder, n, known, known_rows)
    part.wait_for_all()
    rows = _begun(folder, n)
    missing = np.arange(n) if rows is None else rows.missing()
    part.wait_for_all()  # before anybody writes: all have to see the same rows missing
    if not n:
        raise InputError(f"there are no {folder.name} to encode", fix="Ingest a log with pairs to train on")
    with progress_bar(console=Console(stderr=True, quiet=not part.is_first)) as progress:
        task = progress.add_task(f"encode {folder.name}", total=n, completed=n - len(missing))
        batches = encode(np.array_split(in_order(missing), part.count)[part.rank])
        if rows is None:
            begun = list(islice(batches, 1))
            if part.is_first:
                Rows.create(folder, n, begun[0][1])
            part.wait_for_all()
            rows, batches = Rows(folder), chain(begun, batches)
        for places, arrays in batches:
            rows.put(places, arrays)
            progress.advance(task, len(places) * part.count)  # the others are about as far
    part.wait_for_all()
    # The first one reads what all have written. It may be done with the folder before another comes to look.
    return Rows(folder) if part.is_first else rows


def _take_over(folder: Path, n: int, known: Mapping[str, np.ndarray] | None, known_rows: NDArray[np.int64]) -> None:
    """Put the known rows among those that a killed run left."""
    if known is None:
        return
    rows = _begun(folder, n) or Rows.create(folder, n, known)
    missing = rows.missing()
    there = missing[known_rows[missing] >= 0]
    rows.copy(there, known, known_rows[there])


def _begun(folder: Path, n: int) -> Rows | None:
    """What a killed run left, if it is still what it was."""
    try:
        rows = Rows(folder)
    except FileNotFoundError:
        return None
    except DamagedFile as error:
        Console(stderr=True).print(f"{error}\nEncoding of {folder.name} starts over.", soft_wrap=True, markup=False)
        return None
    return rows if len(rows) == n else None


def _encoded_captions(backbone: Backbone, captions: list[str], missing: NDArray[np.int64]) -> Iterator[Encoding]:
    for start in range(0, len(missing), CAPTION_BATCH):
        batch = missing[start : start + CAPTION_BATCH]
        words = [captions[row] for row in batch]
        text = backbone.encode_captions(words + words[:1] * (CAPTION_BATCH - len(words)))
        yield batch, text_arrays(text[: len(batch)])


def _encoded_images(
    preferences: Preferences,
    backbone: Backbone,
    uids: list[str],
    missing: NDArray[np.int64],
    image_px: int,
    batch_size: int,
) -> Iterator[Encoding]:
    wanted = [uids[row] for row in missing]
    # Large photographs take longer to decode and shrink than a GPU needs to encode them; Pillow works beside threads.
    with ThreadPoolExecutor() as pool:
        for places, squares in prefetched(_squares(preferences, wanted, image_px, batch_size, pool)):
            filled = squares + squares[:1] * (batch_size - len(squares))
            latents = backbone.encode_images(to_tensor(filled))[: len(places)].half().cpu().numpy()
            bad = [
                wanted[place] for place, latent in zip(places, latents, strict=True) if not np.isfinite(latent).all()
            ]
            if bad:
                raise InputError(
                    f"the latent of image {bad[0]} is no number ({len(bad)} of {len(places)} images of its batch)",
                    file=preferences.folder,
                    fix="The batches before it are kept. Look at the image, and at the encoder's precision",
                )
            yield missing[places], {LATENTS_NAME: latents}


def _squares(
    preferences: Preferences, uids: list[str], image_px: int, batch_size: int, pool: Executor
) -> Iterator[tuple[NDArray[np.int64], list[Image.Image]]]:
    """Batches of images as an encoder takes them, in the order in which they are stored, and their places in `uids`."""
    stored = preferences.stored_images(uids)
    while batch := list(islice(stored, batch_size)):
        places, encoded = zip(*batch, strict=True)
        yield np.array(places), [*pool.map(lambda image: resized(open_rgb(image), image_px), encoded)]
