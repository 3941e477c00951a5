import re
from pathlib import Path

import numpy as np
import pandas as pd

from ppd.evaluation.report import InterpolationStrip, Report, UserPage, write_report
from ppd.evaluation.win_rates import headline

ENTRY = {
    "method": "ppd",
    "opponent": "base",
    "users": "unseen",
    "judge": "ground-truth",
    "pairing": "independent",
    "n_users": 64,
    "n_comparisons": 512,
    "win_rate": 0.7654,
    "ci_low": 0.72,
    "ci_high": 0.81,
    "gain_sd": 0.66,
}


def picture(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, dtype=np.uint8)


def example(**changes: object) -> Report:
    pairs = [(picture(0), picture(9))] * 4
    base, personal = [picture(1)] * 8, [picture(2)] * 8
    user = UserPage("42", "unseen", 'likes <ink> & "dots"', "ink style", pairs, base, personal, 0.5)
    path = InterpolationStrip("42", "7", [0, 0.5, 1], [picture(i) for i in range(3)], [1, 0.5, 0], [0, 0.5, 1])
    curve = pd.DataFrame(
        {"step": [0, 1], "loss": [0.69, 0.6], "grad_norm": [1.0, 0.5], "held_out_accuracy": [0.5, 0.6]}
    )
    fields = {
        "win_rates": [ENTRY, {**ENTRY, "judge": "vlm", "win_rate": 0.71, "gain_sd": None}],
        "metrics": {"concept_accuracy.ppd": 0.97},
        "users": [user],
        "interpolations": [path],
        "curves": {"ppd": curve},
        "simulated": True,
        "origin": {"commit": "abc"},
    }
    return Report(**(fields | changes))  # type: ignore[arg-type]


def test_the_page_is_self_contained_and_says_what_is_simulated_first(tmp_path: Path) -> None:
    write_report(example(), tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page), "nothing is loaded from anywhere"
    body = re.sub("<[^>]+>", " ", page.split("<body>")[1]).strip()
    assert body.startswith("The people here are simulated.")
    assert "77 %" in page
    assert "[72, 81]" in page
    assert "likes &lt;ink&gt;" in page, "a model's words are text, not markup"


def test_the_headline_is_the_honest_number() -> None:
    same_seed = {**ENTRY, "pairing": "same-seed", "win_rate": 0.99}
    seen = {**ENTRY, "users": "seen", "win_rate": 0.98}
    by_vlm = {**ENTRY, "judge": "vlm", "win_rate": 0.97}
    assert headline([same_seed, seen, by_vlm, ENTRY]) == ENTRY
    assert headline([same_seed, seen, by_vlm]) == by_vlm, "with real people there is no truth to ask"
    assert headline([same_seed]) is None


def test_a_page_without_people_or_curves_still_renders(tmp_path: Path) -> None:
    write_report(
        example(users=[], interpolations=[], curves={}, win_rates=[], simulated=False), tmp_path / "index.html"
    )
    assert "simulated" not in (tmp_path / "index.html").read_text()


def test_what_people_judged_has_a_place_of_its_own(tmp_path: Path) -> None:
    people = {**ENTRY, "judge": "people", "n_users": 3, "n_comparisons": 24, "win_rate": 0.625, "gain_sd": None}
    write_report(example(win_rates=[ENTRY, people]), tmp_path / "index.html")
    page = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", (tmp_path / "index.html").read_text()))
    assert "Judged by people" in page
    assert "anyone unseen in training different 3 24 0.62 0.72–0.81" in page
    write_report(example(), tmp_path / "index.html")
    assert "Judged by people" not in (tmp_path / "index.html").read_text()
