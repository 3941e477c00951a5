"""`ppd experiment`: what `experiments/dvc.yaml` calls."""

from pathlib import Path
from typing import Annotated

import typer

from ppd.errors import InputError
from ppd.layout import Layout

ParamsFile = Annotated[Path, typer.Option("--params", help="The pipeline's settings.")]
ExperimentsFile = Annotated[Path, typer.Option("--experiments", help="What is varied.")]

RENAMED = {"groundwork": "shared-inputs", "people": "users"}


def experiment(
    name: Annotated[str, typer.Argument(help="A stage of experiments/dvc.yaml.")],
    variant: Annotated[str | None, typer.Option(help="Which variant, for the stage ablation.")] = None,
    params: ParamsFile = Path("params.yaml"),
    experiments: ExperimentsFile = Path("experiments/params.yaml"),
) -> None:
    """Run one experiment; `dvc repro experiments/dvc.yaml` calls this for each that needs to run."""
    from ppd.experiments import stages
    from ppd.experiments.settings import ExperimentSettings
    from ppd.params import load_model
    from ppd.settings import load_settings
    from ppd.stage_times import timed

    settings, varied, layout = load_settings(params), load_model(experiments, ExperimentSettings), Layout()
    with timed(f"experiment {name}{f'@{variant}' if variant else ''}", layout.stage_times):
        match name, variant:
            case "shared-inputs", None:
                stages.shared_inputs(settings, varied, layout)
            case "ablation", str() if variant in varied.variants:
                stages.ablation(settings, varied, layout, variant)
            case "ablation", str():
                raise InputError(f"no variant {variant!r}; there are {', '.join(varied.variants)}", file=experiments)
            case "seeds", None:
                stages.seeds(settings, varied, layout)
            case "users", None:
                stages.users(settings, varied, layout)
            case "implicit", None:
                stages.implicit(settings, varied, layout)
            case "identification", None:
                stages.identification(settings, varied, layout)
            case "guidance", None:
                stages.guidance(settings, varied, layout)
            case "rewards", None:
                stages.rewards(settings, varied, layout)
            case "interpolation", None:
                stages.interpolation(settings, varied, layout)
            case "page", None:
                stages.page(settings, varied, layout)
            case ("groundwork" | "people") as old, _:
                raise InputError(f"the experiment {old!r} is called {RENAMED[old]!r} now")
            case _:
                raise InputError(
                    f"no experiment {name!r} takes these options",
                    fix="experiments/dvc.yaml holds every one with its command.",
                )
