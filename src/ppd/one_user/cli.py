"""`ppd adapter`: what belongs to one user alone."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ppd.layout import Layout

adapter = typer.Typer(
    help="A plain LoRA of one user: baked from the adapter of all, or trained on their choices.", no_args_is_help=True
)

Out = Annotated[Path, typer.Argument(help="The folder to write.")]


@adapter.command()
def bake(
    out: Out,
    user: Annotated[str | None, typer.Option(help="A user of the log, by user_id.")] = None,
    choices: Annotated[Path | None, typer.Option(help="Or a folder with one user's choices.csv and images.")] = None,
    model: Annotated[Path, typer.Option("--adapter", help="A complete adapter, as of models/.")] = Path("models/ppd"),
    captions: Annotated[Path | None, typer.Option(help="What it should draw, one caption a line; the log's.")] = None,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA.")] = 16,
    bias: Annotated[bool, typer.Option("--bias", help="Biases too: nearer, but not every tool reads them.")] = False,
    steps: Annotated[int, typer.Option(min=0, help="Steps of distillation; 0 leaves the closed form.")] = 300,
    base: Annotated[str | None, typer.Option(help="The base, where the adapter does not remember it right.")] = None,
    vlm: Annotated[str | None, typer.Option(help="The vision-language model, likewise.")] = None,
) -> None:
    """Make a plain LoRA of what an adapter does for one user, for tools that know nothing of it."""
    from ppd.diffusion.baking.run import Recipe
    from ppd.one_user.bake import bake_for_user

    fits = bake_for_user(
        Layout(),
        model,
        out,
        Recipe(rank=rank, bias=bias, steps=steps),
        user_id=user,
        choices=choices,
        captions=captions,
        base=base,
        vlm=vlm,
    )
    console = Console()
    for name, fit in fits.items():
        console.print(f"{name}: {fit.unexplained:.1%} of the user's effect missing, relative error", end=" ")
        console.print(f"{fit.relative_error:.3f}, on captions left out")
    console.print(f"{out}", soft_wrap=True)


@adapter.command("lora")
def train(
    out: Out,
    user: Annotated[str, typer.Option(help="A training user of the log, by user_id.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps: few, since one user's choices are few.")] = 100,
    params: Annotated[Path, typer.Option("--params", help="The settings file.")] = Path("params.yaml"),
) -> None:
    """Train a LoRA on one user's choices alone, by DPO: a complete adapter, which `ppd adapter bake` makes plain."""
    from ppd.one_user.train import train_for_one_user
    from ppd.settings import load_settings

    train_for_one_user(load_settings(params), Layout(), user, out, steps=steps)
    Console().print(f"{out}: sample with `ppd sample --adapter {out}`", soft_wrap=True)
