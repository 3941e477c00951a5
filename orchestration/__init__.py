"""The Dagster side of the pipeline: assets made from dvc.yaml, checks, sensors, schedules. No torch here."""
