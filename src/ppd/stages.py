"""The stages of dvc.yaml: settings in, files out.

A stage only says which part of the settings and which paths a component gets; dvc.yaml lists both. What a stage
computes lives in the component's own package, which is what dvc.yaml names as the stage's code. Components are imported
when their stage runs, so that reading a log of choices never waits for torch.
"""

from pathlib import Path

from ppd.settings import Settings

STICKERS = Path("data/stickers")
CHOICES = Path("data/choices")
TRUTH = Path("data/truth")
PREFERENCES = Path("artifacts/preferences")


def ingest(settings: Settings) -> None:
    """Validate, clean and split the log of choices."""
    from ppd.preferences.ingest import ingest

    ingest(settings.preferences, CHOICES, PREFERENCES)
