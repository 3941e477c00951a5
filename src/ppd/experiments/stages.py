"""The stages of experiments/dvc.yaml: settings in, files out; each only says which paths a component gets."""

from ppd.experiments.settings import ExperimentSettings
from ppd.layout import Layout
from ppd.settings import Settings


def shared_inputs(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """What many trials share."""
    from ppd.experiments.shared_inputs import prepare_shared_inputs

    prepare_shared_inputs(settings, experiments, layout)


def ablation(settings: Settings, experiments: ExperimentSettings, layout: Layout, variant: str) -> None:
    """One variant with every seed."""
    from ppd.experiments.ablation import ablate

    ablate(settings, experiments, variant, layout, layout.experiment_results / "ablation" / f"{variant}.json")


def seeds(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """The headline run with other seeds."""
    from ppd.experiments.seeds import train_seeds

    train_seeds(settings, experiments, layout)


def users(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Table B."""
    from ppd.experiments.users import write_users

    write_users(settings, experiments, layout, layout.experiment_results / "users.json")


def implicit(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """The fine-tuned model as a predictor of choices."""
    from ppd.experiments.prediction import write_prediction

    write_prediction(settings, experiments, layout, layout.experiment_results / "implicit.json")


def identification(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Which of N users left these choices?"""
    from ppd.experiments.identification import write_identification

    write_identification(settings, layout, layout.experiment_results / "identification.json")


def guidance(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """How strongly to sample for a user."""
    from ppd.experiments.guidance import write_guidance

    write_guidance(settings, experiments, layout, layout.experiment_results / "guidance.json")


def rewards(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Table A."""
    from ppd.experiments.rewards import write_rewards

    write_rewards(settings, experiments, layout, layout.experiment_results / "rewards.json")


def interpolation(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Between two users, and beyond."""
    from ppd.experiments.interpolation import write_interpolation

    write_interpolation(settings, experiments, layout, layout.experiment_results / "interpolation.json")


def page(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """docs/experiments.md and its plots, from the result files alone."""
    from ppd.experiments.page import write_page

    write_page(experiments, layout.experiment_results, layout.experiment_page)
