"""Where every file of the pipeline is: the only place that knows."""

from pathlib import Path


class Layout:
    """The paths that stages and experiments read and write, below the root of a repository (here, if not given)."""

    def __init__(self, root: Path = Path()) -> None:
        self.root = root
        # Inputs, as data.dvc tracks them.
        self.data = root / "data"
        self.choices = self.data / "choices"
        self.given_truth = self.data / "truth"
        self.stickers = self.data / "stickers"
        # What the stages leave. truth: the taste of this log's users, or a note that it is not known.
        self.preferences = root / "artifacts/preferences"
        self.truth = root / "artifacts/truth"
        self.latents = root / "artifacts/latents"
        self.users = root / "artifacts/users"
        self.manifest = root / "artifacts/users.parquet"
        self.whitening = root / "artifacts/whitening.safetensors"
        self.trained = root / "artifacts/trained"
        self.models = root / "models"
        self.samples = root / "artifacts/samples"
        self.verdicts = root / "artifacts/verdicts"
        self.reports = root / "reports"
        # The clock: a folder laid out like the repository for each re-evaluation, and a line in the history.
        self.human_verdicts = root / "evaluations/human.jsonl"
        self.reevaluations = root / "runs/reevaluations"
        self.history = root / "evaluations/history.jsonl"
        # Work in progress, which killed stages go on from, and what is worth keeping between runs.
        self.unfinished = root / "runs/unfinished"
        self.reference_errors = self.unfinished / "reference"
        self.answers = root / "runs/answers"
        self.stage_times = root / "runs/stage_times.jsonl"
        # The experiments. seeds: the headline run with other seeds, a folder of seed-N.
        self.shared_inputs = root / "artifacts/experiments/shared-inputs"
        self.seeds = root / "artifacts/experiments/seeds"
        self.experiment_results = root / "experiments/results"
        self.experiment_page = root / "docs/experiments.md"
        self.experiment_work = root / "runs/experiments"

    def shard(self, name: str) -> Path:
        """The embeddings of one shard's users."""
        return self.users / name / "embeddings.parquet"

    def shard_files(self) -> tuple[Path, ...]:
        """The embeddings of all shards that there are."""
        return tuple(sorted(self.users.glob("*/embeddings.parquet")))

    def sampled(self, method: str, what: str = "images") -> Path:
        """The images of a method; of ppd also those between users (`interpolations`)."""
        return self.samples / method / f"{what}.parquet"

    def verdict(self, what: str) -> Path:
        """A table of verdicts: vlm, choices, and with a truth ground_truth, readings, interpolations."""
        return self.verdicts / f"{what}.parquet"
