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


MODELS = Path("data/models")
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]
Steps = Annotated[int | None, typer.Option(min=1, help="Train for so many steps instead.")]
SettingsFile = Annotated[Path | None, typer.Option(help="A settings.json, such as lies beside the weights.")]
HowMany = Annotated[int, typer.Option(min=32, help="How many images.")]
Kind = Annotated[
    Literal["cascade", "flow"],
    typer.Option(help="A small Stable Cascade, or a small Z-Image, which learns by flow matching and wants a GPU."),
]
PRIORS: dict[str, Literal["prior", "flow-prior"]] = {"cascade": "prior", "flow": "flow-prior"}


@pretrain.command("prior")
def train_prior(
    kind: Kind = "cascade",
    out: Annotated[
        Path | None, typer.Option(help="The model's folder; data/models/prior or data/models/flow-prior.")
    ] = None,
    device: Device = "cpu",
    steps: Steps = None,
    settings: SettingsFile = None,
    codec: Annotated[
        Path | None, typer.Option(help="Take this image codec. Else cascade trains one, and flow takes cascade's.")
    ] = None,
) -> None:
    """The text-to-image base (cascade: an hour and a half on one core; flow: minutes on a GPU)."""
    from ppd.pretrain import recipes

    recipes.pretrain(PRIORS[kind], out or MODELS / PRIORS[kind], device, settings, steps, codec)


@check.command("prior")
def check_prior(
    kind: Kind = "cascade",
    folder: Annotated[Path | None, typer.Option(help="The model's folder, if it is another than train's.")] = None,
    n: HowMany = 1024,
    text_guidance: Annotated[
        float | None, typer.Option(min=0, help="Of its samples; else cascade's is that of params.yaml, and flow's 1.")
    ] = None,
) -> None:
    """Measure the text-to-image base on held-out seeds; cascade is sampled as params.yaml says, flow in 20 steps."""
    from ppd.pretrain import recipes

    recipes.check(PRIORS[kind], folder or MODELS / PRIORS[kind], n, text_guidance)


def _add_recipe(name: Literal["vlm", "attribute-classifier", "clip"], what: str) -> None:
    """`ppd pretrain NAME`."""

    @pretrain.command(name, help=what)
    def train(
        out: Annotated[Path, typer.Option(help="The model's folder.")] = MODELS / name,
        device: Device = "cpu",
        steps: Steps = None,
        settings: SettingsFile = None,
    ) -> None:
        from ppd.pretrain import recipes

        recipes.pretrain(name, out, device, settings, steps)

    @check.command(name, help=f"Measure it on held-out renders and seeds: {what}")
    def measure(
        folder: Annotated[Path, typer.Option(help="The model's folder.")] = MODELS / name, n: HowMany = 1024
    ) -> None:
        from ppd.pretrain import recipes

        recipes.check(name, folder, n)


_add_recipe("vlm", "The vision-language model that knows people, a small LLaVA-OneVision (45 minutes on one core).")
_add_recipe("attribute-classifier", "What evaluation reads stickers with (ten minutes).")
_add_recipe("clip", "The small CLIP behind the caption score (ten minutes).")
