"""What people chose: read from a log, checked, deduplicated, split, and served to every later stage."""

from ppd.preferences.ingest import ingest
from ppd.preferences.leakage import check_leakage
from ppd.preferences.store import Preferences
from ppd.preferences.summary import summarise

__all__ = ["Preferences", "check_leakage", "ingest", "summarise"]
