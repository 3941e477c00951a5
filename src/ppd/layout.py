"""Where every file of the pipeline is: the only place that knows."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The paths that stages and experiments read and write, below the root of a repository (here, if not given)."""

    root: Path = Path()

    @property
    def data(self) -> Path:
        """All inputs; what data.dvc tracks."""
        return self.root / "data"

    @property
    def choices(self) -> Path:
        """The log of choices, as it came."""
        return self.data / "choices"

    @property
    def given_truth(self) -> Path:
        """The true taste of simulated users, as it came with their log."""
        return self.data / "truth"

    @property
    def stickers(self) -> Path:
        """The art that the sticker world is rendered from."""
        return self.data / "stickers"

    @property
    def preferences(self) -> Path:
        return self.root / "artifacts/preferences"

    @property
    def truth(self) -> Path:
        """The true taste of the users of this log, or a note that it is not known."""
        return self.root / "artifacts/truth"

    @property
    def latents(self) -> Path:
        return self.root / "artifacts/latents"

    @property
    def users(self) -> Path:
        """A folder of embeddings for each shard."""
        return self.root / "artifacts/users"

    @property
    def manifest(self) -> Path:
        return self.root / "artifacts/users.parquet"

    @property
    def whitening(self) -> Path:
        return self.root / "artifacts/whitening.safetensors"

    @property
    def models(self) -> Path:
        """A folder for each method's adapter."""
        return self.root / "models"

    @property
    def samples(self) -> Path:
        """A folder of images for each method."""
        return self.root / "artifacts/samples"

    @property
    def verdicts(self) -> Path:
        return self.root / "artifacts/verdicts"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def history(self) -> Path:
        """One line for each re-evaluation."""
        return self.root / "evaluations/history.jsonl"

    @property
    def reevaluations(self) -> Path:
        """A folder laid out like the repository for each re-evaluation."""
        return self.root / "runs/reevaluations"

    @property
    def unfinished(self) -> Path:
        """What a killed training goes on from."""
        return self.root / "runs/unfinished"

    @property
    def reference_errors(self) -> Path:
        """The base's errors, shared by all runs with the same draws."""
        return self.unfinished / "reference"

    @property
    def answers(self) -> Path:
        """The answers of a judge on a server."""
        return self.root / "runs/answers"

    @property
    def stage_times(self) -> Path:
        return self.root / "runs/stage_times.jsonl"

    @property
    def experiment_results(self) -> Path:
        return self.root / "experiments/results"

    @property
    def experiment_page(self) -> Path:
        return self.root / "docs/experiments.md"

    @property
    def shared_inputs(self) -> Path:
        """What many experiments read, made once."""
        return self.root / "artifacts/experiments/shared-inputs"

    @property
    def seeds(self) -> Path:
        """The headline run with other seeds: a folder of seed-N."""
        return self.root / "artifacts/experiments/seeds"

    @property
    def experiment_work(self) -> Path:
        """What killed experiments go on from."""
        return self.root / "runs/experiments"

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
