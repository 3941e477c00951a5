"""What one visitor may ask of the studio, and all of them together."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Each has a sentence of its own where it is met (`ppd.studio.app`)."""

    enough_choices: int = 4
    """So many choices are what an adapter was trained on: the pictures come after them."""
    max_choices: int = 16
    """More would not fit in one conversation of the vision-language model."""
    max_listed: int = 100
    """Others in the list of whom one can mix with."""
    comparisons_a_round: int = 8
    max_comparisons: int = 96
    caption_chars: int = 200
    name_chars: int = 40
    body_bytes: int = 16_384
    max_pictures: int = 600
    """Drawn for one visitor."""
    max_waiting: int = 4
    """Jobs of one visitor in the queue."""
    max_queue: int = 80
    changes_a_minute: int = 120
    """Of one visitor; the first `changes_at_once` of them without a pause."""
    changes_at_once: int = 30
    arrivals_a_minute: int = 60
    """New visitors from one address."""
    entries_a_minute: int = 10
    """Passwords tried from one address."""
