"""`ppd experiment`: what `experiments/dvc.yaml` calls."""

from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated

import typer

from ppd.errors import InputError
from ppd.layout import Layout

EXPERIMENTS = {
    "shared-inputs": "ppd.experiments.shared_inputs:prepare_shared_inputs",
    "ablation": "ppd.experiments.ablation:write_ablation",
    "seeds": "ppd.experiments.seeds:train_seeds",
    "users": "ppd.experiments.users:write_users",
    "implicit": "ppd.experiments.prediction:write_prediction",
    "identification": "ppd.experiments.identification:write_identification",
    "sampling": "ppd.experiments.sampling:write_sampling",
    "decomposition": "ppd.experiments.decomposition:write_decomposition",
    "best-of-n": "ppd.experiments.best_of_n:write_best_of_n",
    "fresh-people": "ppd.experiments.fresh_people:write_fresh_people",
    "rewards": "ppd.experiments.rewards:write_rewards",
    "interpolation": "ppd.experiments.interpolation:write_interpolation",
    "flow": "ppd.experiments.flow:write_flow",
    "page": "ppd.experiments.page:write_page",
}
"""What runs each: a function of both settings and the layout, and of the variant for "ablation"; imported when run."""
RENAMED = {"groundwork": "shared-inputs", "people": "users", "guidance": "sampling"}


def experiment(
    name: Annotated[str, typer.Argument(help="A stage of experiments/dvc.yaml.")],
    variant: Annotated[str | None, typer.Option(help="Which variant, for the stage ablation.")] = None,
    params: Annotated[Path, typer.Option(help="The pipeline's settings.")] = Path("params.yaml"),
    experiments: Annotated[Path, typer.Option(help="What is varied.")] = Path("experiments/params.yaml"),
) -> None:
    """Run one experiment; `dvc repro experiments/dvc.yaml` calls this for each that needs to run."""
    from ppd.experiments.settings import ExperimentSettings
    from ppd.params import load_model
    from ppd.settings import load_settings
    from ppd.stage_times import timed

    if name in RENAMED:
        raise InputError(f"the experiment {name!r} is called {RENAMED[name]!r} now")
    if name not in EXPERIMENTS or (name == "ablation") != (variant is not None):
        fix = "experiments/dvc.yaml holds every one with its command."
        raise InputError(f"no experiment {name!r} takes these options", fix=fix)
    settings, varied, layout = load_settings(params), load_model(experiments, ExperimentSettings), Layout()
    if variant is not None and variant not in varied.variants:
        raise InputError(f"no variant {variant!r}; there are {', '.join(varied.variants)}", file=experiments)
    options = () if variant is None else (variant,)
    with timed("@".join((f"experiment {name}", *options)), layout.stage_times):
        resolve_name(EXPERIMENTS[name])(settings, varied, layout, *options)
