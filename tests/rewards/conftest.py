from pathlib import Path

import pytest

from tests.tiny import write_clip


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights in the hub's layout."""
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder, ("a red fox", "a blue key", "an owl"))
    return folder
