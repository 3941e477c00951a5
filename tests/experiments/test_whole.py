"""All experiments, small: a tiny untrained prior, the shipped VLM, a few users, two seeds, a few steps."""

import json
from pathlib import Path
from pkgutil import resolve_name

import pytest

from ppd import stages
from ppd.experiments.ablation import write_ablation
from ppd.experiments.cli import EXPERIMENTS
from ppd.experiments.settings import ExperimentSettings
from ppd.experiments.shared_inputs import prepare_shared_inputs
from ppd.layout import Layout
from ppd.settings import (
    EvaluationSettings,
    FinetuneSettings,
    LogSettings,
    Method,
    PeopleSettings,
    PreferenceSettings,
    SamplingSettings,
    Settings,
)
from ppd.simulation.log import simulate
from ppd.simulation.render import Atlas
from tests.test_stages import tiny_prior

ROOT = Path(__file__).parents[2]
LAYOUT = Layout()
METHODS: tuple[Method, ...] = ("ppd", "dpo", "sft")
SETTINGS = Settings(
    preferences=PreferenceSettings(
        eval_caption_share=0.25, validation_user_share=0.25, test_user_share=0.25, max_groups=3, n_shards=1
    ),
    finetune=FinetuneSettings(precision="fp32", steps=2, pairs_per_step=4, micro_batch_pairs=4, evaluation_pairs=4),
    sampling=SamplingSettings(precision="fp32", steps=2, batch_size=8),
    evaluation=EvaluationSettings(n_unseen_users=3, n_seen_users=2, captions_per_user=2, n_seeds=4, n_interpolations=1),
)
VARIED = ExperimentSettings.model_validate(
    {
        "seeds": (0, 1),
        "n_workers": 1,
        "trial": {"sampling_steps": 2, "captions_per_user": 2, "confirmed": ("default",)},
        "variants": {
            "default": {"varies": "nothing", "value": "default"},
            "raw": {"varies": "whitening", "value": "none", "whitened": False, "changes": {"embedding": {"rows": [1]}}},
            "users-2": {"varies": "training users", "value": "2", "n_users": 2, "pairs_share": 0.5},
            "whole": {"varies": "what is trained", "value": "all", "whole_network": True},
        },
        "sampling": {"grid": ((0.0, 1.0), (0.5, 2.0))},
        "fresh_people": {
            "n_users": 3,
            "arms": {
                "ours": {"varies": "nothing", "value": "default", "strengths": (2.0,)},
                "slow": {
                    "varies": "learning rate",
                    "value": "small",
                    "changes": {"finetune": {"learning_rate": 1e-5}},
                    "strengths": (2.0, 3.0),
                    "n_seeds": 1,
                },
            },
        },
        "best_of_n": {"n": (2, 4), "n_ours": (2,), "pool": 8, "captions_per_user": 1},
        "rewards": {"finetune": {"steps": 2}, "n_seeds": 2, "shares": (0.0, 1.0), "seeds_per_interpolation": 1},
        "interpolation": {"n_interpolations": 1, "captions_per_interpolation": 1, "shares": (-0.5, 0.0, 1.0)},
        # On the tiny prior too: what differs with the base is the backbone's, and tested there.
        "flow": {"stability": {"steps": 2}, "betas": (5, 50), "winner_anchors": (0, 1)},
    }
)

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """Stands for an end that nothing can catch."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the pipeline has run up to the judge, and the shared inputs of the experiments."""
    folder = tmp_path_factory.mktemp("experiments")
    data = folder / "data"
    (data / "models").mkdir(parents=True)
    for shared in ("stickers", "models/vlm", "models/attribute-classifier", "models/clip"):
        (data / shared).symlink_to(ROOT / "data" / shared)
    tiny_prior(data / "models" / "prior")
    log = LogSettings(n_users=20, rows_per_user=(24, 28))
    simulate(log, PeopleSettings(), Atlas.load(data / "stickers"), data / "choices", data / "truth")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("ppd.simulation.truth.image_quality.N_REAL", 32)
        stages.ingest(SETTINGS, LAYOUT)
        stages.truth(SETTINGS, LAYOUT)
        stages.encode(SETTINGS, LAYOUT)
        stages.embed(SETTINGS, LAYOUT, "s-00")
        stages.users(SETTINGS, LAYOUT)
        for method in METHODS:
            stages.finetune(SETTINGS, LAYOUT, method)
            stages.adapter(SETTINGS, LAYOUT, method)
        for model in ("base", *METHODS):
            stages.sample(SETTINGS, LAYOUT, model)
        stages.judge(SETTINGS, LAYOUT)
        prepare_shared_inputs(SETTINGS, VARIED, LAYOUT)
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def result(name: str) -> dict[str, object]:
    return json.loads((LAYOUT.experiment_results / f"{name}.json").read_text())


def test_a_killed_ablation_goes_on_where_it_was(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ppd.experiments.trial as trial

    trained: list[int] = []
    train, evaluate = trial.train, trial.evaluate

    def counting(settings: Settings, *args: object, **options: object) -> None:
        trained.append(settings.finetune.seed)
        train(settings, *args, **options)

    def killed(settings: Settings, *args: object) -> None:
        if settings.finetune.seed == 1:
            raise Killed
        evaluate(settings, *args)

    monkeypatch.setattr(trial, "train", counting)
    monkeypatch.setattr(trial, "evaluate", killed)
    with pytest.raises(Killed):
        write_ablation(SETTINGS, VARIED, LAYOUT, "default")
    assert not (LAYOUT.experiment_results / "ablation").exists()
    monkeypatch.setattr(trial, "evaluate", evaluate)
    write_ablation(SETTINGS, VARIED, LAYOUT, "default")
    assert trained == [0, 1]
    after_kill = result("ablation/default")
    write_ablation(SETTINGS, VARIED, LAYOUT, "default")
    assert trained == [0, 1, 0, 1]
    again = result("ablation/default")
    assert after_kill.pop("train_cpu_s") and again.pop("train_cpu_s")
    assert after_kill == again


def test_every_experiment_ends_in_a_result_and_all_of_them_in_the_page(here: Path) -> None:
    for variant in VARIED.variants:
        write_ablation(SETTINGS, VARIED, LAYOUT, variant)
    for name in [name for name in EXPERIMENTS if name not in ("shared-inputs", "ablation")]:
        resolve_name(EXPERIMENTS[name])(SETTINGS, VARIED, LAYOUT)
    page = LAYOUT.experiment_page.read_text()
    for title in (
        "Table A",
        "Table B",
        "Implicit reward",
        "left these choices",
        "Ablations",
        "fresh people",
        "Scaling",
        "Between two",
        "flow matching",
    ):
        assert f"{title}" in page
    assert "Not run yet" not in page
    assert not any(LAYOUT.experiment_work.glob("*/*"))
    rates = result("users")["win_rates"]
    assert {rate["opponent"] for rate in rates if rate["method"] == "ppd"} == {"base", "dpo", "sft", "ppd-shuffled"}
    assert {(rate["judge"], rate["users"]) for rate in rates} == {
        (judge, users) for judge in ("ground-truth", "vlm") for users in ("seen", "unseen")
    }
    assert set(result("users")["by_seed"]) == {"0", "1"}
    first, slow, slow_and_strong = result("fresh_people")["rows"]
    assert set(first["over_first"]["gain_sd"].values()) == {0.0}
    assert slow["gain_sd"]["mean"] != first["gain_sd"]["mean"] != slow_and_strong["gain_sd"]["mean"]
    assert slow["over_first_by_seed"] == {"0": pytest.approx(slow["over_first"]["gain_sd"]["mean"])}
    assert set(first["over_first_by_seed"]) == {"0", "1"}
    narrowed = result("ablation/users-2")
    assert narrowed["n_train_users"] == 2
    assert narrowed["n_train_pairs"] < result("ablation/default")["n_train_pairs"]
    assert (result("ablation/whole")["users"]["validation"]["gain_by_user"]
            != result("ablation/default")["users"]["validation"]["gain_by_user"])  # fmt: skip
