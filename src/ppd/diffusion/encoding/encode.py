"""Encode every image and caption of the preferences once, so that no epoch pays for it again.

What is kept is known by content: after a log has grown, only images with new bytes and captions with new words are
encoded. Batches always have one size, so that a latent does not depend on what it was encoded with.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from rich.console import Console

from ppd.diffusion.encoding.pixels import resized, to_tensor
from ppd.diffusion.encoding.store import CAPTIONS, IMAGES, LATENTS, SOURCE, TEXT, Encoded, damaged_rows, row_checksums
from ppd.diffusion.model.backbone import Backbone, Text
from ppd.errors import DamagedFile, InputError
from ppd.files import atomic_path, clear_leftovers, writing
from ppd.preferences.images import READING
from ppd.preferences.store import Preferences
from ppd.progress import progress_bar
from ppd.resumable import work_folder
from ppd.stored_tables import write_table
from ppd.stored_tensors import save_tensors

CAPTION_BATCH = 64
COPY_ROWS = 4096
CHECKSUMS = "checksums.npy"


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
    encoded again. A killed run goes on at its last finished batch, which is in `unfinished`; `out_dir` is replaced when
    all is done. Raises InputError for an image whose latent is no number, and where the disk is full.
    """
    pairs = preferences.pairs[preferences.pairs.role.isin(["train", "eval"])]
    uids = sorted({*pairs.chosen_uid, *pairs.rejected_uid})
    digests = preferences.digests.loc[uids]
    captions = sorted({*preferences.captions.caption})
    clear_leftovers(out_dir)
    source = json.dumps({"encoders": backbone.encoders_fingerprint, "image_px": image_px, "images": READING})
    known = _known(out_dir, source)
    damaged = None if known is None else damaged_rows(known)
    image_rows = _rows_of(digests, None if known is None else pd.Index(known.image_digest), damaged)
    caption_rows = _rows_of(pd.Series(captions), None if known is None else known.caption_row.index)
    content = hashlib.sha256(b"".join(digests)).hexdigest()
    work = work_folder(unfinished, [source, batch_size, uids, image_rows.tolist(), content])
    checksums = _encode_images(preferences, backbone, uids, image_rows, known, work, image_px, batch_size)
    text = _encode_captions(backbone, captions, caption_rows, known)
    with atomic_path(out_dir) as fresh:
        fresh.mkdir()
        shutil.move(work / LATENTS, fresh / LATENTS)
        images = {"image_uid": uids, "digest": digests.to_numpy(), "checksum": checksums}
        write_table(pd.DataFrame(images), fresh / IMAGES)
        write_table(pd.DataFrame({"caption": captions}), fresh / CAPTIONS)
        save_tensors({"tokens": text.tokens, "pooled": text.pooled}, fresh / TEXT)
        (fresh / SOURCE).write_text(source, encoding="utf-8")
    shutil.rmtree(unfinished)
    kept_images, kept_captions = int((image_rows >= 0).sum()), int((caption_rows >= 0).sum())
    return EncodedCount(len(uids) - kept_images, kept_images, len(captions) - kept_captions, kept_captions)


def _known(folder: Path, source: str) -> Encoded | None:
    """What an earlier run left, if the same encoders made it."""
    file = folder / SOURCE
    if not file.is_file() or file.read_bytes() != source.encode():
        return None
    try:
        return Encoded.open(folder, check_latents=False)
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


def _encode_images(
    preferences: Preferences,
    backbone: Backbone,
    uids: list[str],
    known_rows: np.ndarray,
    known: Encoded | None,
    work: Path,
    image_px: int,
    batch_size: int,
) -> np.ndarray:
    """Fill work/latents.npy: the known rows first, then the others from the first batch not marked as done.

    Returns the checksum of each row [len(uids)].
    """
    missing = np.flatnonzero(known_rows < 0)
    marker = work / "done"
    stored, checksums, done = _stored(work, missing, batch_size)
    if stored is None and known is not None:
        stored, checksums = _create(work, (len(uids), *known.latents.shape[1:]))
        _copy_rows(known.latents.numpy(), known_rows, stored)
        _copy_rows(known.checksum.to_numpy(), known_rows, checksums)
    # Large photographs take longer to shrink than a GPU needs to encode them; Pillow works beside other threads.
    with progress_bar() as progress, ThreadPoolExecutor() as pool:
        task = progress.add_task("encode", total=len(uids), completed=len(uids) - len(missing) + done)
        for rows, images in _batches(preferences, uids, missing[done:], batch_size):
            squares = [*pool.map(lambda image: resized(image, image_px), images)]
            filled = squares + squares[:1] * (batch_size - len(squares))
            latents = backbone.encode_images(to_tensor(filled))[: len(rows)].half().cpu().numpy()
            if not np.isfinite(latents).all():
                wrong = [uids[row] for row, latent in zip(rows, latents, strict=True) if not np.isfinite(latent).all()]
                raise InputError(
                    f"the latent of image {wrong[0]} is no number ({len(wrong)} of {len(rows)} images of its batch)",
                    file=preferences.folder,
                    fix="The batches before it are kept. Look at the image, and at the encoder's precision",
                )
            if stored is None or checksums is None:
                stored, checksums = _create(work, (len(uids), *latents.shape[1:]))
            stored[rows], checksums[rows] = latents, row_checksums(latents)
            stored.flush()
            checksums.flush()
            done += len(rows)
            with atomic_path(marker) as fresh:
                fresh.write_text(str(done))
            progress.advance(task, len(rows))
    return np.empty(0, np.uint32) if checksums is None else np.array(checksums)


def _stored(work: Path, missing: np.ndarray, batch_size: int) -> tuple[np.memmap | None, np.memmap | None, int]:
    """What a killed run left in `work`: latents, checksums, and how many of the missing rows they hold undamaged."""
    try:
        done = int((work / "done").read_text())
        for name in (LATENTS, CHECKSUMS):
            np.load(work / name, mmap_mode="r")  # raises where the file was cut; to be written, it would be filled up
        stored = np.lib.format.open_memmap(work / LATENTS, mode="r+")
        checksums = np.lib.format.open_memmap(work / CHECKSUMS, mode="r+")
        intact = row_checksums(stored[missing[:done]]) == checksums[missing[:done]]
    except FileNotFoundError:
        return None, None, 0
    except (ValueError, IndexError) as error:
        words = DamagedFile(error, work)
        Console(stderr=True).print(f"{words}\nEncoding starts over.", soft_wrap=True, markup=False)
        return None, None, 0
    if not intact.all():
        done = int(np.argmin(intact)) // batch_size * batch_size
        words = DamagedFile("checksums differ", work / LATENTS)
        Console(stderr=True).print(f"{words}\nIt goes on after {done} images.", soft_wrap=True, markup=False)
    return stored, checksums, done


def _create(work: Path, shape: tuple[int, ...]) -> tuple[np.memmap, np.memmap]:
    """Room for the latents and their checksums. All of it is taken at once: a full disk is an error here, while
    writing to a map of a file without room would kill the process."""
    room = []
    for name, dtype, size in ((LATENTS, np.dtype(np.float16), shape), (CHECKSUMS, np.dtype(np.uint32), shape[:1])):
        with writing(work / name), (work / name).open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": size}
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
            length = start + int(np.prod(size)) * dtype.itemsize
            file.flush()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, length)
            file.truncate(length)
        room.append(np.lib.format.open_memmap(work / name, mode="r+"))
    latents, checksums = room
    return latents, checksums


def _copy_rows(source: np.ndarray, source_rows: np.ndarray, target: np.ndarray) -> None:
    """target[i] = source[source_rows[i]] where that is not -1, some thousand rows at a time."""
    for start in range(0, len(target), COPY_ROWS):
        rows = source_rows[start : start + COPY_ROWS]
        target[start : start + COPY_ROWS][rows >= 0] = source[rows[rows >= 0]]


def _batches(
    preferences: Preferences, uids: list[str], rows: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, list[Image.Image]]]:
    images = preferences.images([uids[row] for row in rows], chunk=batch_size)
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        yield batch, [next(images) for _ in batch]


def _encode_captions(backbone: Backbone, captions: list[str], known_rows: np.ndarray, known: Encoded | None) -> Text:
    """Text of all captions on the CPU: tens of thousands are tens of GB, more than a device holds beside a model."""
    missing = [caption for caption, row in zip(captions, known_rows, strict=True) if row < 0]
    parts = [] if known is None else [known.text]
    for start in range(0, len(missing), CAPTION_BATCH):
        batch = missing[start : start + CAPTION_BATCH]
        text = backbone.encode_captions(batch + batch[:1] * (CAPTION_BATCH - len(batch)))
        parts.append(text[: len(batch)].to(torch.device("cpu")))
    n_known = 0 if known is None else len(known.text)
    rows = known_rows.copy()
    rows[known_rows < 0] = n_known + np.arange(len(missing))
    return Text.cat(parts)[torch.from_numpy(rows)]
