"""`ppd pretrain`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ppd.layout import Layout

pretrain = typer.Typer(
    help="Recipes that built the small models and data under data/. Nobody needs them to run.", no_args_is_help=True
)
check = typer.Typer(help="Measure the small models and write their cards.", no_args_is_help=True)
pretrain.add_typer(check, name="check")


@pretrain.command("log")
def simulate_log(params: Annotated[Path, typer.Option(help="The settings file.")] = Path("params.yaml")) -> None:
    """The simulated log of choices and the truth behind it: data/choices and data/truth (a minute)."""
    from ppd.settings import load_settings
    from ppd.simulation.log import simulate
    from ppd.simulation.render import Atlas

    settings, layout = load_settings(params), Layout()
    simulate(settings.log, settings.people, Atlas.load(layout.stickers), layout.choices, layout.given_truth)


def _add_recipe(name: Literal["prior", "vlm", "attribute-classifier", "clip"], what: str) -> None:
    """`ppd pretrain NAME`."""

    @pretrain.command(name, help=what)
    def train(
        out: Annotated[Path, typer.Option(help="The model's folder.")] = Path("data/models") / name,
        device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
        steps: Annotated[int | None, typer.Option(min=1, help="Train for so many steps instead.")] = None,
        settings: Annotated[Path | None, typer.Option(help="A settings.json, such as lies beside the weights.")] = None,
        codec: Annotated[Path | None, typer.Option(help="For the prior: take this codec, train none.")] = None,
    ) -> None:
        from ppd.pretrain import recipes

        recipes.pretrain(name, out, device, settings, steps, codec)

    @check.command(name, help=f"Measure it on held-out renders and seeds: {what}")
    def measure(
        folder: Annotated[Path, typer.Option(help="The model's folder.")] = Path("data/models") / name,
        n: Annotated[int, typer.Option(min=32, help="How many images.")] = 1024,
        text_guidance: Annotated[float, typer.Option(min=0, help="Of the prior's samples.")] = 1.0,
    ) -> None:
        from ppd.pretrain import recipes

        recipes.check(name, folder, n, text_guidance)


_add_recipe("prior", "The text-to-image base, a small Stable Cascade (an hour and a half on one core).")
_add_recipe("vlm", "The vision-language model that knows people, a small LLaVA-OneVision (45 minutes on one core).")
_add_recipe("attribute-classifier", "What evaluation reads stickers with (ten minutes).")
_add_recipe("clip", "The small CLIP behind the caption score (ten minutes).")
