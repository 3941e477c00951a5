"""What people chose: read from a log, checked, deduplicated, split, and served to every later stage.

`ingest.ingest` writes a folder, `store.Preferences` opens it; `leakage.check_leakage` and `summary.summarise` look
at it.
"""
