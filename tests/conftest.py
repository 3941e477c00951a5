from pathlib import Path

import pytest

from ppd.preferences.ingest import ingest
from ppd.settings import LogSettings, PeopleSettings, PreferenceSettings
from ppd.simulation.log import simulate
from ppd.simulation.render import Atlas

ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: begun last, it would run alone for minutes, one process of four."""
    items.sort(key=lambda item: "test_short_soak" not in item.nodeid)


@pytest.fixture(scope="session")
def atlas() -> Atlas:
    return Atlas.load(ROOT / "data" / "stickers")


@pytest.fixture(scope="session")
def simulated(atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """choices/, truth/ and preferences/ of a few simulated people: a small log, ingested."""
    folder = tmp_path_factory.mktemp("simulated")
    log = LogSettings(n_users=24, rows_per_user=(40, 44))
    simulate(log, PeopleSettings(), atlas, folder / "choices", folder / "truth")
    splits = PreferenceSettings(eval_caption_share=0.25, validation_user_share=0.2, test_user_share=0.2)
    ingest(splits, folder / "choices", folder / "preferences")
    return folder
