"""The stages of experiments/dvc.yaml: settings in, files out; each only says which paths a component gets."""

from pathlib import Path

from ppd import stages
from ppd.experiments.paths import Paths
from ppd.experiments.settings import ExperimentSettings
from ppd.settings import Settings

RESULTS = Path("experiments/results")
SHARED_INPUTS = Path("artifacts/experiments/shared-inputs")
SEEDS = Path("artifacts/experiments/seeds")
WORK = Path("runs/experiments")
PAGE = Path("docs/experiments.md")


def paths(settings: Settings) -> Paths:
    """The paths of this repository."""
    shards = [f"s-{at:02}" for at in range(settings.preferences.n_shards)]
    return Paths(
        preferences=stages.PREFERENCES,
        latents=stages.LATENTS,
        users=tuple(stages.USERS / shard / "embeddings.parquet" for shard in shards),
        whitening=stages.WHITENING,
        models=stages.MODELS,
        samples=stages.SAMPLES,
        verdicts=stages.VERDICTS,
        answers=stages.ANSWERS,
        truth=stages.TRUTH,
        atlas=stages.STICKERS,
        reference=stages.UNFINISHED / "reference",
        shared_inputs=SHARED_INPUTS,
        seeds=SEEDS,
        results=RESULTS,
        work=WORK,
    )


def shared_inputs(settings: Settings, experiments: ExperimentSettings) -> None:
    """What many trials share."""
    from ppd.experiments.shared_inputs import lay

    lay(settings, experiments, stages.PREFERENCES, stages.STICKERS, SHARED_INPUTS)


def ablation(settings: Settings, experiments: ExperimentSettings, variant: str) -> None:
    """One variant with every seed."""
    from ppd.experiments.ablation import ablate

    ablate(settings, experiments, variant, paths(settings), RESULTS / "ablation" / f"{variant}.json")


def seeds(settings: Settings, experiments: ExperimentSettings) -> None:
    """The headline run with other seeds."""
    from ppd.experiments.seeds import train_seeds

    train_seeds(settings, experiments, paths(settings))


def people(settings: Settings, experiments: ExperimentSettings) -> None:
    """Table B."""
    from ppd.experiments.users import write_users

    write_users(settings, experiments, paths(settings), RESULTS / "people.json")


def implicit(settings: Settings, experiments: ExperimentSettings) -> None:
    """The fine-tuned model as a predictor of choices."""
    from ppd.experiments.prediction import write_prediction

    write_prediction(settings, experiments, paths(settings), RESULTS / "implicit.json")


def identification(settings: Settings, experiments: ExperimentSettings) -> None:
    """Which of N people left these choices?"""
    from ppd.experiments.identification import write_identification

    write_identification(
        settings,
        stages.PREFERENCES,
        SHARED_INPUTS,
        stages.TRUTH,
        RESULTS / "identification.json",
    )


def guidance(settings: Settings, experiments: ExperimentSettings) -> None:
    """How strongly to draw for a person."""
    from ppd.experiments.guidance import write_guidance

    write_guidance(settings, experiments, paths(settings), RESULTS / "guidance.json")


def rewards(settings: Settings, experiments: ExperimentSettings) -> None:
    """Table A."""
    from ppd.experiments.rewards import write_rewards

    write_rewards(settings, experiments, paths(settings), RESULTS / "rewards.json")


def interpolation(settings: Settings, experiments: ExperimentSettings) -> None:
    """Between two people, and beyond."""
    from ppd.experiments.interpolation import write_interpolation

    write_interpolation(settings, experiments, paths(settings), RESULTS / "interpolation.json")


def page(settings: Settings, experiments: ExperimentSettings) -> None:
    """docs/experiments.md and its plots, from the result files alone."""
    from ppd.experiments.page import write_page

    write_page(experiments, RESULTS, PAGE)
