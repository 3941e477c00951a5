"""Starting the studio: what it may be reached by, and what it reads and writes."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from ppd.errors import InputError
from ppd.layout import Layout
from ppd.personalizer import Personalizer
from ppd.studio.choosing import ActiveChooser
from ppd.studio.database import Database
from ppd.studio.limits import Limits
from ppd.studio.models import Models
from ppd.studio.pool import Captions
from ppd.studio.publishing import Publisher, write_snapshot, write_verdicts
from ppd.studio.security import Keys, is_loopback
from ppd.studio.studio import MakeChooser, Studio
from ppd.studio.web.app import create_app

DATABASE = "studio.sqlite"


@dataclass(frozen=True)
class Paths:
    """What the studio reads and writes. choices None: no snapshot for ingestion is written."""

    folder: Path = Path("runs/studio")
    verdicts: Path = Layout().human_verdicts
    choices: Path | None = None
    preferences: Path = Layout().preferences
    users: Path = Layout().users
    captions: Path | None = None
    """Captions of one's own, one a line, in place of the log's."""

    @property
    def database(self) -> Path:
        """Everything the studio knows."""
        return self.folder / DATABASE


@dataclass(frozen=True)
class Access:
    """By what address, and for whom."""

    host: str = "127.0.0.1"
    port: int = 8765
    certificate: Path | None = None
    key: Path | None = None
    plain_http: bool = False
    password: str | None = None

    def check(self) -> None:
        """Raises `InputError` for what would send a password or pictures over a network in the clear."""
        if (self.certificate is None) != (self.key is None):
            raise InputError("TLS takes both --certificate and --key")
        for file in (self.certificate, self.key):
            if file is not None and not file.is_file():
                raise InputError("there is no such file", file=file)
        if not is_loopback(self.host) and self.certificate is None and not self.plain_http:
            raise InputError(
                f"{self.host} can be reached from other machines, and without TLS everybody on the way reads along",
                fix="Give --certificate and --key, or say --plain-http where something in front of it does TLS",
            )
        if self.password is not None and not self.password:
            raise InputError("the password is empty")

    @property
    def address(self) -> str:
        """What to open in a browser."""
        scheme = "https" if self.certificate else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}/"


def publish(database: Database, paths: Paths) -> None:
    """Write what leaves the studio: blind verdicts for the report, and choices where ingestion reads them."""
    write_verdicts(database, paths.verdicts)
    if paths.choices is not None:
        write_snapshot(paths.database, paths.choices)


@contextlib.contextmanager
def open_studio(
    ppd: Personalizer,
    adapter: Path,
    paths: Paths,
    *,
    limits: Limits | None = None,
    make_chooser: MakeChooser = ActiveChooser,
    password: str | None = None,
    loopback_only: bool = True,
) -> Iterator[tuple[Studio, Starlette]]:
    """A studio at work and its application; closed, and all of it published, at the end."""
    models = Models.load(ppd, adapter, paths.users)
    captions = Captions.of(paths.preferences, paths.captions)
    database = Database(paths.database)
    publisher = Publisher(lambda: publish(database, paths))
    studio = Studio(database, models, captions, paths.folder, limits or Limits(), make_chooser)
    keys = Keys(database.setting("secret"), password)
    try:
        studio.start()
        publisher.at_once()
        yield studio, create_app(studio, keys, publisher, loopback_only=loopback_only)
    finally:
        publisher.at_once()
        studio.close()


def serve(adapter: Path, paths: Paths, access: Access) -> None:
    """Load the models once and answer until interrupted."""
    access.check()
    sys.setswitchinterval(0.0005)  # small models hold the interpreter nearly always, and pages would wait for it
    ppd = Personalizer.load(adapter)
    with open_studio(ppd, adapter, paths, password=access.password, loopback_only=is_loopback(access.host)) as (_, app):
        config = uvicorn.Config(
            app,
            host=access.host,
            port=access.port,
            ssl_certfile=access.certificate,
            ssl_keyfile=access.key,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=3,
        )
        print(f"The studio: {access.address}  (Ctrl+C ends it; everything is kept in {paths.folder})", flush=True)
        uvicorn.Server(config).run()
