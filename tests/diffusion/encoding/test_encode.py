import io
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ppd.diffusion.encoding.encode import EncodedCount, encode
from ppd.diffusion.encoding.pixels import resized, to_tensor
from ppd.diffusion.encoding.store import CAPTIONS, LATENTS, TEXT, Encoded
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.errors import DamagedFile, InputError
from ppd.preferences.inspection import digest
from ppd.preferences.schema import IMAGES
from ppd.preferences.store import IMAGE_INDEX, Preferences
from tests.test_files import room_for

ROOT = Path(__file__).parents[3]
PX = 8  # what the tiny codec takes


Encode = Callable[[Path], EncodedCount]


@pytest.fixture
def encode_to(preferences: Preferences, backbone: StableCascadeBackbone, tmp_path: Path) -> Encode:
    """Encode to a folder, the way all of these tests do."""
    return lambda out: encode(preferences, backbone, out, tmp_path / "work", image_px=PX, batch_size=50)


@pytest.fixture(scope="module")
def preferences(simulated: Path) -> Preferences:
    return Preferences.open(simulated / "preferences")


def test_every_trained_or_measured_image_has_its_latent_and_no_other(
    preferences: Preferences, backbone: StableCascadeBackbone, tmp_path: Path
) -> None:
    encode(preferences, backbone, tmp_path / "latents", tmp_path / "work", image_px=PX, batch_size=50)
    encoded = Encoded.open(tmp_path / "latents")
    used = preferences.pairs[preferences.pairs.role.isin(["train", "eval"])]
    assert set(encoded.image_row.index) == {*used.chosen_uid, *used.rejected_uid}
    assert set(encoded.caption_row.index) == set(preferences.captions.caption)

    uid, caption = used.chosen_uid.iloc[7], used.caption.iloc[7]
    image = resized(next(preferences.images([uid])), PX)
    alone = backbone.encode_images(to_tensor([image]))[0]
    torch.testing.assert_close(encoded.latents[encoded.image_row[uid]].float(), alone, atol=1e-3, rtol=1e-3)
    pooled = backbone.encode_captions([caption]).pooled[0]
    torch.testing.assert_close(encoded.text.pooled[encoded.caption_row[caption]], pooled)
    assert [p.name for p in tmp_path.iterdir()] == ["latents"], "nothing is left behind"


def grown(preferences: Preferences, folder: Path, n_new: int = 3) -> Preferences:
    """The log later: all but `n_new` images as they were, those with other bytes, and a caption nobody had used."""
    folder = shutil.copytree(preferences.folder, folder)
    used = preferences.pairs[preferences.pairs.role == "train"].chosen_uid.unique()[:n_new]
    index = []
    for part in sorted((folder / "images").iterdir()):
        table = pd.read_parquet(part)
        for row in table.index[table.image_uid.isin(used)]:
            image = Image.open(io.BytesIO(table.image[row])).convert("L").convert("RGB")
            image.save(encoded := io.BytesIO(), "PNG")
            table.at[row, "image"], table.at[row, "digest"] = encoded.getvalue(), digest(encoded.getvalue())
        pq.write_table(pa.Table.from_pandas(table, schema=IMAGES, preserve_index=False), part, row_group_size=50)
        index.append(table[["image_uid", "digest"]])
    pd.concat(index).to_parquet(folder / IMAGE_INDEX, index=False)
    captions = pd.concat([preferences.captions, pd.DataFrame({"caption": ["a tree"], "split": ["train"]})])
    captions.to_parquet(folder / "captions.parquet", index=False)
    return Preferences.open(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_known_by_content_is_not_encoded_again(
    preferences: Preferences, backbone: StableCascadeBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the result is that of a fresh run, to the last bit."""
    out = tmp_path / "latents"
    first = encode(preferences, backbone, out, tmp_path / "work", image_px=PX, batch_size=50)
    n_captions = len(preferences.captions)
    assert (first.kept_images, first.captions, first.kept_captions) == (0, n_captions, 0)
    before = contents(out)
    again = encode(preferences, backbone, out, tmp_path / "work", image_px=PX, batch_size=50)
    assert (again.images, again.kept_images, again.captions) == (0, first.images, 0)
    assert contents(out) == before

    later = grown(preferences, tmp_path / "later")
    fourth = encode(later, backbone, out, tmp_path / "work", image_px=PX, batch_size=50)
    assert (fourth.images, fourth.kept_images) == (3, first.images - 3)
    assert (fourth.captions, fourth.kept_captions) == (1, n_captions)
    assert contents(out) != before
    encode(later, backbone, tmp_path / "fresh", tmp_path / "work", image_px=PX, batch_size=50)
    assert contents(out) == contents(tmp_path / "fresh")


def test_other_encoders_or_another_size_encode_everything_again(
    preferences: Preferences, backbone: StableCascadeBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "latents"
    n = encode(preferences, backbone, out, tmp_path / "work", image_px=PX, batch_size=50).images
    assert encode(preferences, backbone, out, tmp_path / "work", image_px=2 * PX, batch_size=50).images == n
    monkeypatch.setattr(backbone.codec, "encoder_fingerprint", "another")
    assert encode(preferences, backbone, out, tmp_path / "work", image_px=2 * PX, batch_size=50).images == n
    backbone.text_encoder.text_projection.weight.data *= 1.1
    assert encode(preferences, backbone, out, tmp_path / "work", image_px=2 * PX, batch_size=50).kept_captions == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from ppd.diffusion.encoding.encode import encode
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.preferences.store import IMAGE_INDEX, Preferences
from tests.diffusion.conftest import FlatCodec

log, base, out, work, method, calls = sys.argv[1:]
backbone, made = StableCascadeBackbone.from_pretrained(base, codec=FlatCodec()), []
through = getattr(backbone, method)

def dying(batch):
    if len(made) == int(calls):
        os.kill(os.getpid(), signal.SIGKILL)
    made.append(batch)
    return through(batch)

setattr(backbone, method, dying)
encode(Preferences.open(Path(log)), backbone, Path(out), Path(work), image_px=8, batch_size=50)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("method", "calls"), [("encode_captions", 1), ("encode_images", 2)])
def test_what_a_killed_run_finished_is_kept_and_the_result_is_the_same(
    preferences: Preferences,
    backbone: StableCascadeBackbone,
    tiny_folder: Path,
    encode_to: Encode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    calls: int,
) -> None:
    """kill -9 in the middle of the captions, and of the images."""
    monkeypatch.setattr("ppd.diffusion.encoding.encode.CAPTION_BATCH", 8)
    script = "import ppd.diffusion.encoding.encode as e; e.CAPTION_BATCH = 8\n" + KILLED
    places = [preferences.folder, tiny_folder, tmp_path / "latents", tmp_path / "work"]
    command = [sys.executable, "-c", script, *map(str, places), method, str(calls)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "latents").exists()
    encoded = {"encode_captions": 0, "encode_images": 0}

    def counted(name: str) -> Callable[..., object]:
        through = getattr(backbone, name)

        def counting(batch: object) -> object:
            encoded[name] += 1
            return through(batch)

        return counting

    with monkeypatch.context() as patch:
        for name in encoded:
            patch.setattr(backbone, name, counted(name))
        count = encode_to(tmp_path / "latents")
    captions, images = -(-count.captions // 8), -(-count.images // 50)
    kept = {"encode_captions": calls, "encode_images": 0} if calls == 1 else {"encode_captions": captions} | {method: 2}
    assert encoded == {
        "encode_captions": captions - kept["encode_captions"],
        "encode_images": images - kept["encode_images"],
    }
    encode_to(tmp_path / "whole")
    assert contents(tmp_path / "latents") == contents(tmp_path / "whole")


def test_a_wide_image_gives_its_centre() -> None:
    image = Image.new("RGB", (30, 10), "red")
    image.paste("blue", (10, 0, 20, 10))
    assert set(resized(image, 5).get_flattened_data()) == {(0, 0, 255)}


def test_an_unfinished_folder_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ppd stage encode"):
        Encoded.open(tmp_path)


def test_a_full_disk_is_a_sentence_before_anything_is_encoded_and_room_lets_it_go_on(
    encode_to: Encode, tmp_path: Path
) -> None:
    """Not the death of the process, which writing to a map of a file without room is."""
    with pytest.raises(InputError, match=r"npy: .*nothing was changed"), room_for(4096):
        encode_to(tmp_path / "latents")
    assert not (tmp_path / "latents").exists()
    encode_to(tmp_path / "latents")
    encode_to(tmp_path / "whole")
    assert contents(tmp_path / "latents") == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", [LATENTS, "images.parquet", TEXT.format("tokens"), TEXT.format("pooled"), CAPTIONS])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_latents_are_never_trained_on_and_are_encoded_again(
    encode_to: Encode, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    out = tmp_path / "latents"
    first = encode_to(out)
    whole = contents(out)
    half = len(whole[name]) // 2
    first_page = 200  # of a table: pages carry checksums, its footer does not
    place = first_page if name.endswith(".parquet") else half
    (out / name).write_bytes(whole[name][:half] if damage == "cut" else flipped(whole[name], place))
    array_changed = name.endswith(".npy") and damage == "changed"
    with pytest.raises(DamagedFile, match=r"text-\*.npy" if array_changed and name != LATENTS else name):
        Encoded.open(out)
    again = encode_to(out)
    assert contents(out) == whole
    if array_changed:
        damaged = (again.images, again.captions)
        assert damaged == ((1, 0) if name == LATENTS else (0, 1)), "only the row that was damaged"
    else:
        assert (again.images, again.captions) == (first.images, first.captions)
        assert f"{name}: damaged" in capsys.readouterr().err


class Killed(Exception):
    pass


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_what_a_killed_run_left_is_checked_before_it_is_gone_on_from(
    encode_to: Encode,
    backbone: StableCascadeBackbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    through, batches = backbone.encode_images, []

    def dying(images: torch.Tensor) -> torch.Tensor:
        if len(batches) == 2:
            raise Killed
        batches.append(images)
        return through(images)

    with monkeypatch.context() as patch:
        patch.setattr(backbone, "encode_images", dying)
        with pytest.raises(Killed):
            encode_to(tmp_path / "latents")
    (part,) = (tmp_path / "work").glob(f"*/images/{LATENTS}")
    content = bytearray(part.read_bytes())
    written = next(place for place in range(128, len(content)) if content[place])
    part.write_bytes(content[:3000] if damage == "cut" else flipped(bytes(content), written))
    batches.clear()
    monkeypatch.setattr(backbone, "encode_images", lambda images: (batches.append(images), through(images))[1])
    n_images = encode_to(tmp_path / "latents").images
    said = capsys.readouterr().err
    assert "damaged" in said
    if damage == "cut":
        assert "Encoding of images starts over" in said
        assert len(batches) == -(-n_images // 50)
    else:
        assert "1 of 100 rows are not as they were written" in " ".join(said.split())
        assert len(batches) == -(-(n_images - 99) // 50), "the other rows of the two batches are kept"
    encode_to(tmp_path / "whole")
    assert contents(tmp_path / "latents") == contents(tmp_path / "whole")


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :]


def test_a_latent_that_is_no_number_names_its_image(
    encode_to: Encode, backbone: StableCascadeBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = backbone.encode_images

    def bad(images: torch.Tensor) -> torch.Tensor:
        latents = good(images)
        latents[7] = torch.inf
        return latents

    monkeypatch.setattr(backbone, "encode_images", bad)
    with pytest.raises(InputError, match=r"the latent of image \S+ is no number \(1 of 50 images"):
        encode_to(tmp_path / "latents")
    assert not (tmp_path / "latents").exists()
