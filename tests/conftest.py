from pathlib import Path

import pytest

from ppd.stickers.render import Atlas

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def atlas() -> Atlas:
    return Atlas.load(ROOT / "data" / "stickers")
