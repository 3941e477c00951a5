import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image, UnidentifiedImageError

from ppd.preferences.schema import PICK_A_PIC
from ppd.settings import LogSettings, PeopleSettings
from ppd.simulation.log import simulate
from ppd.simulation.render import Atlas
from ppd.simulation.world import CONCEPTS, FEATURES, STYLES, Scenes, scene_features

SETTINGS = LogSettings(n_users=30, rows_per_user=(40, 44), broken_image_share=0.01, given_up_share=0.1)


@pytest.fixture(scope="module")
def folder(atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    simulate(SETTINGS, PeopleSettings(), atlas, folder / "choices", folder / "truth")
    return folder


@pytest.fixture(scope="module")
def log(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(f) for f in sorted((folder / "choices").iterdir())], ignore_index=True)


def test_it_has_the_schema_of_pick_a_pic(folder: Path) -> None:
    for shard in (folder / "choices").iterdir():
        assert pq.read_schema(shard).equals(PICK_A_PIC)


def test_it_is_deterministic(folder: Path, atlas: Atlas, tmp_path: Path) -> None:
    simulate(SETTINGS, PeopleSettings(), atlas, tmp_path / "choices", tmp_path / "truth")
    for kind in ("choices", "truth"):
        for file in sorted((folder / kind).iterdir()):
            assert file.read_bytes() == (tmp_path / kind / file.name).read_bytes()


def test_it_holds_the_dirt_of_a_real_log(log: pd.DataFrame) -> None:
    def broken(data: bytes) -> bool:
        try:
            Image.open(io.BytesIO(data)).load()
        except (OSError, UnidentifiedImageError):
            return True
        return False

    assert log.ranking_id.duplicated().any()
    assert (~log.has_label).any()
    assert log[~log.has_label].label_0.isna().all()
    assert sum(map(broken, log.jpg_0)) > 0
    assert (log.user_id.value_counts() < 4).any()
    assert 0.06 < (log.best_image_uid == "tie").mean() < 0.18
    consecutive = log.sort_values(["user_id", "created_at"]).drop_duplicates("ranking_id")
    previous = consecutive.shift()
    shared = (consecutive.user_id == previous.user_id) & (consecutive.image_0_uid == previous.best_image_uid)
    assert shared.mean() > 0.02, "a winner that stays for the next round"


def test_people_choose_what_their_taste_says(folder: Path, log: pd.DataFrame) -> None:
    people = pd.read_parquet(folder / "truth" / "people.parquet").set_index("user_id")
    shown = pd.read_parquet(folder / "truth" / "images.parquet").set_index("image_uid")
    factors = shown[list(FEATURES[len(STYLES) :])].to_numpy()
    scenes = Scenes(shown.concept.to_numpy(), shown["style"].to_numpy(), factors, shown.seed.to_numpy())
    features = pd.DataFrame(scene_features(scenes), index=shown.index)
    decided = log[log.label_0.isin([0.0, 1.0])]
    taste = people.loc[decided.user_id.astype(str), list(FEATURES)].to_numpy()
    gap = ((features.loc[decided.image_0_uid].to_numpy() - features.loc[decided.image_1_uid].to_numpy()) * taste).sum(
        axis=1
    )
    agrees = (gap > 0) == (decided.label_0.to_numpy() == 1)
    assert agrees[np.abs(gap) > 3].mean() > 0.9 > agrees[np.abs(gap) < 1].mean()
    concept = shown.loc[decided.image_0_uid].concept.map(lambda c: CONCEPTS[c])
    assert all(name in caption for name, caption in zip(concept, decided.caption, strict=True))
