"""`ppd studio`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ppd.errors import InputError
from ppd.layout import Layout


def studio(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where it answers.")] = 8765,
    adapter: Annotated[Path, typer.Option(help="A trained adapter.")] = Path("models/ppd"),
    host: Annotated[str, typer.Option(help="An address of this machine; beyond it TLS is needed.")] = "127.0.0.1",
    folder: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path("runs/studio"),
    captions: Annotated[Path | None, typer.Option(help="Captions of your own, one a line; else the log's.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="For TLS: the certificate, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="For TLS: its key, PEM.")] = None,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Beyond this machine without TLS, where a proxy adds it.")
    ] = False,
    password_file: Annotated[Path | None, typer.Option(help="A file whose first line visitors have to know.")] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Write the choices where ingestion reads them, and end.")
    ] = False,
    params: Annotated[Path, typer.Option(help="The settings file.")] = Path("params.yaml"),
) -> None:
    """A web page for visitors: they choose four times, see their pictures, and judge blind (docs/studio.md)."""
    from ppd.settings import load_settings
    from ppd.studio.database import Database
    from ppd.studio.serve import Access, Paths, serve
    from ppd.studio.serve import publish as write

    settings = load_settings(params)
    ingested = publish or settings.preferences.source_format == "studio"
    paths = Paths(folder=folder, captions=captions, choices=Layout().choices if ingested else None)
    if publish:
        write(Database(paths.database), paths)
        Console().print(f"Choices: {paths.choices}; blind verdicts: {paths.verdicts}")
        return
    password = None
    if password_file is not None:
        try:
            password = password_file.read_text(encoding="utf-8").split("\n")[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the password cannot be read ({error})", file=password_file) from error
    access = Access(host, port, certificate, key, plain_http, password)
    serve(adapter, paths, access)
