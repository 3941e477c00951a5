"""Where the pipeline's files are that experiments read, and where they keep their own."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """All of them relative to the repository's root; a job in another process gets them along."""

    preferences: Path
    latents: Path
    users: tuple[Path, ...]
    """The shards' embeddings."""
    whitening: Path
    models: Path
    samples: Path
    verdicts: Path
    answers: Path
    """Where the answers of a judge on a server are kept."""
    truth: Path
    atlas: Path
    reference: Path
    """Where the base's errors are kept for all runs with the same draws."""
    shared_inputs: Path
    """What `ppd.experiments.shared_inputs` leaves."""
    seeds: Path
    """The headline run with other seeds: a folder of seed-N."""
    results: Path
    work: Path
    """What killed runs go on from."""
