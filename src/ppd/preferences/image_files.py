"""The files that a table names: found however its paths are written, and only inside the folder."""

import configparser
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from ppd.preferences.ids import BadValue

_BYTES_A_PIXEL = 8  # of the largest format allowed, 16-bit RGBA without any compression


class ImageFiles:
    """Reads images in a folder, which may be links into the cache of the repository that the folder belongs to."""

    def __init__(self, root: Path, max_image_pixels: int) -> None:
        self._root = root
        self._max_bytes = max_image_pixels * _BYTES_A_PIXEL
        self._allowed = [root.resolve(), *_dvc_caches(root)]

    def read(self, name: str, column: str) -> bytes:
        """The bytes of an image file. Raises `BadValue` for a path that leads out, is not there or is huge."""
        shown = f"{column} {name[:200]!r}"
        windows = PureWindowsPath(name)
        if PurePosixPath(name).is_absolute() or windows.drive or windows.root:
            raise BadValue("path_absolute", f"{shown}; expected a path relative to the folder")
        if ".." in windows.parts:  # knows both kinds of slash
            raise BadValue("path_outside", f"{shown} has a '..'")
        try:
            path = self._found(name)
            if not any(path.is_relative_to(allowed) for allowed in self._allowed):
                raise BadValue("path_outside", f"{shown} leads out of the folder")
            if path.stat().st_size > self._max_bytes:
                raise BadValue("image_too_large", f"{shown} has {path.stat().st_size} bytes")
            return path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
            raise BadValue("image_missing", f"{shown}: {error.__class__.__name__}") from error

    def _found(self, name: str) -> Path:
        """The file behind all links. Raises the error of the name as it is written where none of the forms is there."""
        missing: OSError | None = None
        for form in _forms(name):
            try:
                return (self._root / form).resolve(strict=True)
            except OSError as error:
                missing = missing or error
        raise missing or FileNotFoundError(name)


def _forms(name: str) -> Iterator[str]:
    """A path as it is written, then with Windows separators, without spaces around it, in the other Unicode forms.

    Of each also with its extension in the other case.
    """
    seen: set[str] = set()
    for slashes in (name, name.replace("\\", "/"), name.replace("\\", "/").strip()):
        for form in (slashes, unicodedata.normalize("NFC", slashes), unicodedata.normalize("NFD", slashes)):
            stem, dot, extension = form.rpartition(".")
            for path in (form, stem + dot + extension.lower(), stem + dot + extension.upper()):
                if path not in seen:
                    seen.add(path)
                    yield path


def _dvc_caches(root: Path) -> list[Path]:
    """The cache of the DVC repository that the folder lies in: with `cache.type: symlink` images are links into it."""
    for folder in (root.absolute(), root.resolve()):
        for parent in (folder, *folder.parents):
            if (parent / ".dvc").is_dir():
                return [(parent / ".dvc" / place).resolve() for place in ("cache", *_configured(parent / ".dvc"))]
    return []


def _configured(dvc: Path) -> list[str]:
    """`cache.dir` as DVC's files of settings have it: absolute, or relative to them."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read([dvc / "config", dvc / "config.local"], encoding="utf-8")
        return [parser["cache"]["dir"]]
    except (configparser.Error, KeyError, UnicodeDecodeError):
        return []
