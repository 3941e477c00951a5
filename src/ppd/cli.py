"""The `ppd` command.

Exit codes: 0 done, 1 failed, 2 wrong use or bad input. What a command needs is imported when it runs: `ppd --help`
answers at once.
"""

import json
import math
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ppd.errors import InputError
from ppd.experiments.cli import experiment
from ppd.files import unwritable
from ppd.layout import Layout
from ppd.one_user.cli import adapter as adapter_of_one_user
from ppd.pretrain.cli import pretrain
from ppd.studio.cli import studio

if TYPE_CHECKING:
    from torch import Tensor

    from ppd.personalizer import Personalizer

app = typer.Typer(
    name="ppd",
    help="Personalised preference fine-tuning of text-to-image models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="Look at the choices that people made.", no_args_is_help=True)
app.add_typer(data, name="data")
convert = typer.Typer(
    help="Rewrite published scorers that lie in other libraries' files, once, for `rewards`.", no_args_is_help=True
)
app.add_typer(convert, name="convert")
app.add_typer(adapter_of_one_user, name="adapter")
app.add_typer(pretrain, name="pretrain")
app.command()(studio)
app.command()(experiment)

ParamsFile = Annotated[Path, typer.Option("--params", help="The settings file.")]
Captions = Annotated[list[str], typer.Option(help="What to sample; may be given several times.")]
Out = Annotated[Path, typer.Option(help="Where the images go, one PNG each.")]
ImagesPerCaption = Annotated[int, typer.Option(min=1, help="Images of each caption.")]
FirstSeed = Annotated[int, typer.Option(min=0, help="The first seed.")]
Strength = Annotated[
    float | None, typer.Option(min=0, help="0: the base, 1: as trained, more exaggerates; else as the adapter says.")
]
Adapter = Annotated[Path, typer.Option(help="A complete adapter: a folder of models/, or what `ppd export` wrote.")]
Base = Annotated[str | None, typer.Option(help="The base, where it is not where the adapter remembers it.")]
Vlm = Annotated[str | None, typer.Option(help="The vision-language model, likewise.")]


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="A stage of dvc.yaml.")],
    shard: Annotated[str | None, typer.Option(help="Which shard of the users, such as s-03.")] = None,
    method: Annotated[str | None, typer.Option(help="Which method: ppd, dpo or sft; base is only sampled.")] = None,
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Run one stage of the pipeline; `dvc repro` calls this for every stage that needs to run."""
    from ppd import stages
    from ppd.launch import run_shared
    from ppd.settings import load_settings
    from ppd.stage_times import timed

    settings, layout = load_settings(params), Layout()
    options = {"--shard": shard, "--method": method, "--params": str(params)}
    given = [word for option, value in options.items() if value is not None for word in (option, value)]
    if (status := run_shared(name, settings, ["stage", name, *given])) is not None:
        sys.exit(status)
    label = f"{name}@{shard or method}" if shard or method else name
    with timed(label, layout.stage_times):
        match name, shard, method:
            case "ingest", None, None:
                stages.ingest(settings, layout)
            case "truth", None, None:
                stages.truth(settings, layout)
            case "encode", None, None:
                stages.encode(settings, layout)
            case "embed", str(), None:
                stages.embed(settings, layout, shard)
            case "users", None, None:
                stages.users(settings, layout)
            case "finetune", None, "ppd" | "dpo" | "sft":
                stages.finetune(settings, layout, method)
            case "adapter", None, "ppd" | "dpo" | "sft":
                stages.adapter(settings, layout, method)
            case "sample", None, "base" | "ppd" | "dpo" | "sft":
                stages.sample(settings, layout, method)
            case "judge", None, None:
                stages.judge(settings, layout)
            case "report", None, None:
                stages.report(settings, layout)
            case _:
                raise InputError(
                    f"no stage {name!r} takes these options", fix="dvc.yaml holds every stage with its command."
                )


@app.command()
def reevaluate(
    timestamp: Annotated[
        datetime | None, typer.Option("--date", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M"], help="UTC; now, if not given.")
    ] = None,
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Evaluate the current models again on fresh noises and captions; the win rates go to evaluations/history.jsonl.

    While a stage makes models or users it waits. A run that was killed goes on where it was.
    """
    from ppd import reevaluation
    from ppd.settings import load_settings

    line = reevaluation.reevaluate(Path.cwd(), load_settings(params), timestamp or datetime.now(UTC))
    Console().print(f"{line['date']}: {len(line['win_rates'])} win rates added to evaluations/history.jsonl")


@app.command()
def personalize(
    folder: Annotated[Path, typer.Argument(help="One user's choices: choices.csv and the images that it names.")],
    caption: Captions,
    out: Out = Path("runs/personalized"),
    n: ImagesPerCaption = 4,
    seed: FirstSeed = 0,
    strength: Strength = None,
    adapter: Adapter = Path("models/ppd"),
    base: Base = None,
    vlm: Vlm = None,
) -> None:
    """Read a new user's choices and sample for them."""
    from ppd.personalizer import Personalizer, read_pairs

    pairs = read_pairs(folder)
    ppd = Personalizer.load(adapter, base=base, vlm=vlm)
    Console().print(f"{len(pairs)} choices. The model says: {escape(ppd.describe(pairs) or '(nothing)')}")
    _sample(ppd, caption, ppd.embed(pairs), out, n, seed, strength)


@app.command()
def sample(
    caption: Captions,
    user: Annotated[str | None, typer.Option(help="A user of the log, by user_id; none: as the base samples.")] = None,
    out: Out = Path("runs/sampled"),
    n: ImagesPerCaption = 4,
    seed: FirstSeed = 0,
    strength: Strength = None,
    adapter: Adapter = Path("models/ppd"),
    base: Base = None,
    vlm: Vlm = None,
) -> None:
    """Sample for a user of the log, whose choices are embedded already."""
    from ppd.personalizer import Personalizer

    ppd = Personalizer.load(adapter, base=base, vlm=vlm)
    _sample(ppd, caption, ppd.known_user(user) if user is not None else None, out, n, seed, strength)


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    adapter: Adapter = Path("models/ppd"),
) -> None:
    """Write a complete adapter with its model card to one folder, ready to upload."""
    from ppd.diffusion.adapter.export import export_adapter

    export_adapter(adapter, out, Layout().reports)
    Console().print(f"{out}: load it with Personalizer.load, or `ppd personalize --adapter {out}`", soft_wrap=True)


@app.command()
def judge(
    folder: Annotated[Path, typer.Argument(help="One person's choices: choices.csv and the images that it names.")],
    image_a: Annotated[Path, typer.Argument(help="An image.")],
    image_b: Annotated[Path, typer.Argument(help="Another image of the same caption.")],
    caption: Annotated[str, typer.Option(help="What both images were made for.")],
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Which of two images would this person prefer? Asked in both orders; prints a, b, tie or void, as JSON."""
    from ppd.personalizer import read_pairs
    from ppd.settings import load_settings
    from ppd.vlm.judges import load_judge
    from ppd.vlm.prompts import Candidates

    settings = load_settings(params)
    pairs = read_pairs(folder, settings.preferences)
    first, second = (_image(file, settings.preferences.max_image_pixels) for file in (image_a, image_b))
    ask = load_judge(settings, Layout().answers, pairs, n_comparisons=1)
    (verdict,) = ask(pairs, [Candidates(caption, first, second)])
    p_a = None if math.isnan(verdict.p_a) else round(verdict.p_a, 4)
    said = {"shown": verdict.shown.said, "swapped": verdict.swapped.said}
    print(json.dumps({"winner": verdict.winner, "p_a": p_a, "said": said}))


@app.command("settings")
def print_settings(params: ParamsFile = Path("params.yaml")) -> None:
    """Check the settings file and print every value that will be used, as YAML."""
    from ruamel.yaml import YAML

    from ppd.settings import load_settings

    YAML().dump(load_settings(params).model_dump(mode="json"), sys.stdout)


@app.command()
def times() -> None:
    """How long each stage took when it last ran."""
    from ppd.stage_times import latest

    table = Table("stage", "started (UTC)", "wall", "CPU", "peak memory", title="Stages, last run of each")
    for run in latest(Layout().stage_times):
        table.add_row(
            run.stage, run.started[:19], f"{run.wall_s:.1f} s", f"{run.cpu_s:.1f} s", f"{run.peak_mib:.0f} MiB"
        )
    Console().print(table)


@app.command()
def doctor() -> None:
    """What this machine can run: devices, memory, disk, extras, checkpoints."""
    from ppd.doctor import examine

    colours = {"ok": "green", "low": "yellow", "missing": "yellow"}
    table = Table("", "", "found", "what to do", show_lines=False)
    for finding in examine(Path.cwd()):
        state = f"[{colours[finding.state]}]{finding.state}[/]"
        table.add_row(state, finding.topic, escape(finding.found), escape(finding.advice))
    Console().print(table)


@data.command()
def summary(
    picture: Annotated[Path, typer.Option(help="Where the contact sheets go.")] = Path("runs/choices.png"),
    users: Annotated[int, typer.Option(min=1, help="How many users the contact sheets show.")] = 6,
    people: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Counts of users, pairs and refusals after ingestion, and a picture of what a few people chose and rejected."""
    from ppd.preferences.summary import summarise

    if people is not None:
        raise InputError("the option --people is called --users now")
    console = Console()
    console.print(summarise(Layout().preferences, picture, users))
    console.print(f"Chosen beside rejected images of {users} users: {picture}")


@data.command()
def directions(
    show: Annotated[int, typer.Option(min=1, help="How many directions of each row are shown.")] = 24,
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Which directions of the embeddings tell users apart: what `embedding.components` should keep."""
    from ppd.preferences.store import Preferences
    from ppd.settings import load_settings
    from ppd.users.directions import RELIABLE, directions_of, n_reliable

    layout, settings = Layout(), load_settings(params).embedding
    rows = settings.rows
    for row, found in directions_of(Preferences.open(layout.preferences), layout.shard_files(), settings).items():
        title = f"row {rows[row] if rows else row}, {settings.directions} directions"
        table = Table("direction", "share of variance", "reliability", "95 %", title=title)
        for number, direction in enumerate(found[:show], start=1):
            interval = f"{direction['ci_low']:.2f} to {direction['ci_high']:.2f}"
            table.add_row(str(number), f"{direction['variance_share']:.3f}", f"{direction['mean']:.2f}", interval)
        Console().print(table)
        Console().print(
            f"The first {n_reliable(found)} have a reliability of {RELIABLE} and more: embedding.components."
        )


@convert.command("open-clip")
def convert_open_clip(
    checkpoint: Annotated[Path, typer.Argument(help="An OpenCLIP checkpoint, such as HPS_v2.1_compressed.pt.")],
    like: Annotated[Path, typer.Argument(help="A CLIP of the same architecture in the hub's layout.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
) -> None:
    """HPS v2 and other OpenCLIP weights -> a folder that transformers loads."""
    from ppd.rewards import convert

    convert.convert_open_clip(checkpoint, like, out)


@convert.command("aesthetic")
def convert_aesthetic(
    checkpoint: Annotated[Path, typer.Argument(help="sac+logos+ava1-l14-linearMSE.pth")],
    out: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
) -> None:
    """LAION's aesthetic head -> safetensors."""
    from ppd.rewards import convert

    convert.convert_aesthetic(checkpoint, out)


def _sample(
    ppd: "Personalizer",
    captions: list[str],
    user: "Tensor | None",
    out: Path,
    n: int,
    seed: int,
    strength: float | None,
) -> None:
    """n images of each caption for an embedding, one PNG each."""
    out.mkdir(parents=True, exist_ok=True)
    for number, caption in enumerate(captions):
        for i, image in enumerate(ppd.sample(caption, user, n=n, seed=seed, strength=strength)):
            image.save(out / f"{number:02d}-{seed + i:04d}.png")
    Console().print(f"{n * len(captions)} images: {out}")


def _image(file: Path, max_pixels: int) -> bytes:
    from ppd.preferences.images import BadImage
    from ppd.preferences.inspection import inspect

    try:
        encoded = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file) from error
    if isinstance(found := inspect(encoded, max_pixels), BadImage):
        raise InputError(f"{found.reason}: {found.detail}", file=file)
    return encoded


def main() -> None:
    """Entry point: runs the command; an InputError, or a disk that takes no more, is a sentence and exit code 2."""
    try:
        app()
    except InputError as error:
        _stop(str(error))
    except OSError as error:
        if (problem := unwritable(error)) is None:
            raise
        _stop(f"{error.filename or Path.cwd()}: {problem}. Make room or give permission, then run it again")


def _stop(sentence: str) -> NoReturn:
    Console(stderr=True).print(f"[bold red]ppd:[/] {escape(sentence)}", soft_wrap=True)
    sys.exit(2)
