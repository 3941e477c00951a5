"""A studio that is served, with real models, on a port of this machine."""

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette

from ppd.personalizer import Personalizer
from ppd.studio.limits import Limits
from ppd.studio.serve import Paths, open_studio
from ppd.studio.studio import Studio
from tests.studio.browser import Browser
from tests.studio.small import paths, personalizer


@contextlib.contextmanager
def answering(app: Starlette) -> Iterator[str]:
    """The address of an application that a thread serves."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studio") / "adapter"


@pytest.fixture(scope="session")
def models(adapter: Path) -> Personalizer:
    return personalizer(adapter)


@pytest.fixture(scope="session")
def pools(models: Personalizer, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures to choose between, drawn once for all tests."""
    where = paths(tmp_path_factory.mktemp("pools"))
    with open_studio(models, adapter, where) as (studio, _):
        while not studio.is_open:
            time.sleep(0.05)
    return where.folder / "pools"


@dataclass(frozen=True)
class Served:
    """A studio, its address, and where it keeps what."""

    studio: Studio
    address: str
    paths: Paths

    def visitor(self) -> Browser:
        """Somebody new who has agreed."""
        return Browser.at(self.address)

    def rows(self, table: str) -> list[tuple[object, ...]]:
        return [tuple(row) for row in self.studio.database.all(f"SELECT * FROM {table}")]

    def everything(self) -> dict[str, list[tuple[object, ...]]]:
        """All that the studio knows of visitors."""
        tables = ("visitors", "showings", "votes", "drawings", "embeddings")
        return {table: self.rows(table) for table in tables} | {
            "pictures": [tuple(row) for row in self.studio.database.all("SELECT id FROM pictures WHERE visitor != ''")]
        }


Serve = Callable[..., contextlib.AbstractContextManager[Served]]


@pytest.fixture
def serve(models: Personalizer, adapter: Path, pools: Path, tmp_path: Path) -> Serve:
    """Start one, with limits or a password of its own."""

    @contextlib.contextmanager
    def start(
        limits: Limits | None = None, password: str | None = None, where: Paths | None = None
    ) -> Iterator[Served]:
        where = where or paths(tmp_path)
        shutil.copytree(pools, where.folder / "pools", dirs_exist_ok=True)
        opened = open_studio(models, adapter, where, limits=limits or Limits(), password=password)
        with opened as (studio, app), answering(app) as address:
            yield Served(studio, address, where)

    return start


@pytest.fixture
def served(serve: Serve) -> Iterator[Served]:
    with serve() as one:
        yield one
