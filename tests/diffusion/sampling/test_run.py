from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import ppd.diffusion.sampling.run as module
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.sampling.run import sample_images
from ppd.diffusion.sampling.store import open_samples, read_samples
from ppd.errors import InputError
from ppd.settings import SamplingSettings

SETTINGS = SamplingSettings(precision="fp32", steps=2, batch_size=2, latent_size=(4, 4))
REQUESTS = pd.DataFrame(
    [("", caption, seed) for caption in ("a fox", "a tree", "a cat") for seed in range(5)],
    columns=["user_id", "caption", "seed"],
)


def test_a_killed_run_goes_on_and_ends_the_same(
    backbone: StableCascadeBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample_images(REQUESTS, backbone, SETTINGS, tmp_path / "whole.parquet", tmp_path / "unfinished")
    real, calls = module.sample, []

    def dying(*args: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "sample", dying)
    with pytest.raises(KeyboardInterrupt):
        sample_images(REQUESTS, backbone, SETTINGS, tmp_path / "images.parquet", tmp_path / "unfinished")
    assert not (tmp_path / "images.parquet").exists()
    sample_images(REQUESTS, backbone, SETTINGS, tmp_path / "images.parquet", tmp_path / "unfinished")
    assert len(calls) == 3, "the first part was kept"
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "images.parquet"), pd.read_parquet(tmp_path / "whole.parquet")
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.parquet", "whole.parquet"]


def test_other_requests_do_not_continue_an_interrupted_run(
    backbone: StableCascadeBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.sample

    def dying(*args: object) -> object:
        if args[1][0].seed == 3:  # type: ignore[index]
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "sample", dying)
    with pytest.raises(KeyboardInterrupt):
        sample_images(REQUESTS, backbone, SETTINGS, tmp_path / "images.parquet", tmp_path / "unfinished")
    monkeypatch.setattr(module, "sample", real)
    other = SETTINGS.model_copy(update={"steps": 3})
    sample_images(REQUESTS, backbone, other, tmp_path / "images.parquet", tmp_path / "unfinished")
    sample_images(REQUESTS, backbone, other, tmp_path / "afresh.parquet", tmp_path / "unfinished")
    np.testing.assert_array_equal(
        read_samples(tmp_path / "images.parquet")[1], read_samples(tmp_path / "afresh.parquet")[1]
    )


def test_images_come_back_as_they_were_drawn(backbone: StableCascadeBackbone, tmp_path: Path) -> None:
    sample_images(REQUESTS, backbone, SETTINGS, tmp_path / "all.parquet", tmp_path / "unfinished")
    sample_images(REQUESTS.iloc[[7]], backbone, SETTINGS, tmp_path / "one.parquet", tmp_path / "unfinished")
    requests, images = read_samples(tmp_path / "all.parquet")
    pd.testing.assert_frame_equal(requests, REQUESTS)
    np.testing.assert_array_equal(read_samples(tmp_path / "one.parquet")[1][0], images[7])


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_part_is_sampled_again(
    backbone: StableCascadeBackbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    def killed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    sample_images(REQUESTS, backbone, SETTINGS, tmp_path / "whole.parquet", tmp_path / "unfinished")
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_samples", killed)
        with pytest.raises(KeyboardInterrupt):
            sample_images(REQUESTS, backbone, SETTINGS, tmp_path / "images.parquet", tmp_path / "unfinished")
    parts = sorted((tmp_path / "unfinished").glob("*/*.parquet"))
    content = bytearray(parts[1].read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[content.index(b"IDAT") + 9] ^= 1
    parts[1].write_bytes(content)
    sampled: list[int] = []
    real = module.sample
    monkeypatch.setattr(module, "sample", lambda *args: (sampled.append(len(args[1])), real(*args))[1])
    sample_images(REQUESTS, backbone, SETTINGS, tmp_path / "images.parquet", tmp_path / "unfinished")
    assert sampled == [7], "the second part alone"
    assert f"{parts[1].name}: damaged" in capsys.readouterr().err
    assert (tmp_path / "images.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_an_image_of_no_number_names_its_request(backbone: StableCascadeBackbone, tmp_path: Path) -> None:
    with torch.no_grad():
        backbone.unet.clf[1].weight[0] = torch.nan
    with pytest.raises(InputError, match="the image of caption 'a fox', seed 0 is no number"):
        sample_images(REQUESTS, backbone, SETTINGS, tmp_path / "images.parquet", tmp_path / "unfinished")
    assert not (tmp_path / "images.parquet").exists()


def test_images_are_read_where_they_are_used(
    backbone: StableCascadeBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order, a row group at a time; the ones of one row group are read once."""
    monkeypatch.setattr("ppd.diffusion.sampling.store._GROUP_BYTES", 500)
    sample_images(REQUESTS, backbone, SETTINGS, tmp_path / "all.parquet", tmp_path / "unfinished")
    pngs = pd.read_parquet(tmp_path / "all.parquet").png.tolist()
    requests, images = open_samples(tmp_path / "all.parquet")
    whole = read_samples(tmp_path / "all.parquet")[1]
    pd.testing.assert_frame_equal(requests, REQUESTS)
    assert len(images) == len(whole) == len(REQUESTS)
    n_groups = pq.read_metadata(tmp_path / "all.parquet").num_row_groups
    assert 3 < n_groups < len(REQUESTS)
    read, read_row_group = [], pq.ParquetFile.read_row_group

    def counted(*args: object, **options: object) -> object:
        read.append(args)
        return read_row_group(*args, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    np.testing.assert_array_equal(np.stack(images[:]), whole)
    assert len(read) == n_groups
    for place in (14, 0, 7):
        np.testing.assert_array_equal(images[place], whole[place])
        assert images.png(place) == pngs[place]
    assert len(read) <= n_groups + 3
    np.testing.assert_array_equal(images[4:6], whole[4:6])
    with pytest.raises(IndexError):
        images[len(REQUESTS)]
