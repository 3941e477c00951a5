"""Files are found however their paths are written, and only inside the folder."""

import os
import unicodedata

import pytest

from ppd.preferences.ids import BadValue
from ppd.preferences.image_files import ImageFiles


@pytest.fixture
def repository(tmp_path):
    """A DVC repository with a folder of choices, a cache of its own and one elsewhere, and a secret beside."""
    for folder in ("repo/.dvc/cache/files/md5/ab", "repo/data/choices/img", "shared/cache/files/md5/cd", "repo/src"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("repo/.dvc/cache/files/md5/ab/1", "shared/cache/files/md5/cd/2", "repo/src/secret", "secret"):
        (tmp_path / file).write_bytes(file.encode())
    return tmp_path


def refused(files, name):
    with pytest.raises(BadValue) as problem:
        files.read(name, "image_a")
    return problem.value.args[0]


def test_links_into_the_repositorys_own_cache(repository):
    choices = repository / "repo/data/choices"
    (choices / "img/1.png").symlink_to(repository / "repo/.dvc/cache/files/md5/ab/1")
    (choices / "img/relative.png").symlink_to("../../../.dvc/cache/files/md5/ab/1")
    os.link(repository / "repo/.dvc/cache/files/md5/ab/1", choices / "img/hard.png")
    (choices / "img/2.png").symlink_to(repository / "shared/cache/files/md5/cd/2")
    (choices / "img/code.png").symlink_to(repository / "repo/src/secret")
    (choices / "img/secret.png").symlink_to(repository / "secret")
    (choices / "img/config.png").symlink_to(repository / "repo/.dvc/config")
    (repository / "repo/.dvc/config").write_text("[core]\n    remote = x\n")
    files = ImageFiles(choices, 100)
    for name in ("img/1.png", "img/relative.png", "img/hard.png"):
        assert files.read(name, "image_a") == b"repo/.dvc/cache/files/md5/ab/1"
    for name in ("img/2.png", "img/code.png", "img/secret.png", "img/config.png"):
        assert refused(files, name) == "path_outside"


@pytest.mark.parametrize("config", ["config", "config.local"])
@pytest.mark.parametrize("absolute", [True, False])
def test_a_cache_that_dvc_was_told_to_keep_elsewhere(repository, config, absolute):
    choices = repository / "repo/data/choices"
    (choices / "img/2.png").symlink_to(repository / "shared/cache/files/md5/cd/2")
    place = repository / "shared/cache" if absolute else "../../shared/cache"
    (repository / "repo/.dvc" / config).write_text(
        f"[cache]\n    dir = {place}\n    type = symlink\n['remote \"r\"']\nurl = %x\n"
    )
    assert ImageFiles(choices, 100).read("img/2.png", "image_a") == b"shared/cache/files/md5/cd/2"


def test_a_link_that_leaves_the_cache_again_leads_out(repository):
    choices = repository / "repo/data/choices"
    (repository / "repo/.dvc/cache/files/md5/ab/3").symlink_to(repository / "secret")
    (choices / "img/3.png").symlink_to(repository / "repo/.dvc/cache/files/md5/ab/3")
    assert refused(ImageFiles(choices, 100), "img/3.png") == "path_outside"


def test_somebody_elses_cache_is_not_ours(repository):
    other = repository / "elsewhere/choices"
    other.mkdir(parents=True)
    (other / "1.png").symlink_to(repository / "repo/.dvc/cache/files/md5/ab/1")
    assert refused(ImageFiles(other, 100), "1.png") == "path_outside"


def test_the_folder_itself_may_be_a_link(repository):
    (repository / "repo/data/choices/img/4.png").write_bytes(b"4")
    (repository / "link").symlink_to(repository / "repo/data/choices")
    assert ImageFiles(repository / "link", 100).read("img/4.png", "image_a") == b"4"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("other", ["NFC", "NFD"])
def test_unicode_forms(tmp_path, form, other):
    name = unicodedata.normalize(form, "bilder/füchslein é.png")
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(b"fox")
    assert ImageFiles(tmp_path, 100).read(unicodedata.normalize(other, name), "image_a") == b"fox"


@pytest.mark.parametrize("name", ["img/a.PNG", "img\\a.png", "img\\a.PNG", ".\\img/a.png", " img/a.png ", "img//a.png"])
def test_paths_that_another_system_wrote(tmp_path, name):
    (tmp_path / "img").mkdir()
    (tmp_path / "img/a.png").write_bytes(b"a")
    assert ImageFiles(tmp_path, 100).read(name, "image_a") == b"a"


def test_what_is_written_comes_first(tmp_path):
    for name in ("img\\a.png", "a.PNG", "a.png", "e\u0301.png", "é.png"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "img").mkdir()
    (tmp_path / "img/a.png").write_bytes(b"other")
    for name in ("img\\a.png", "a.PNG", "a.png", "e\u0301.png", "é.png"):
        assert ImageFiles(tmp_path, 100).read(name, "image_a") == name.encode()


@pytest.mark.parametrize("name", ["..\\a.png", "img\\..\\..\\a.png", "C:\\a.png", "\\\\host\\a.png", "\\a.png"])
def test_windows_separators_are_no_way_out(tmp_path, name):
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "in").mkdir()
    assert refused(ImageFiles(tmp_path / "in", 100), name) in {"path_outside", "path_absolute"}
