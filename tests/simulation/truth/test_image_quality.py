import pandas as pd
import pytest

from ppd.evaluation.tables import IMAGE_KEY
from ppd.simulation.truth.image_quality import concept_accuracy, style_shares


def test_each_model_is_measured_on_its_own_images() -> None:
    rows = [("base", "", c, s, True, 0) for c in ("fox", "owl") for s in range(4)]
    rows += [("ppd", "a", c, s, c == "fox", s % 4) for c in ("fox", "owl") for s in range(4)]
    table = pd.DataFrame(rows, columns=[*IMAGE_KEY, "concept_right", "style"]).set_index(IMAGE_KEY)
    metrics = concept_accuracy(table) | style_shares(table)
    assert metrics["concept_accuracy.base"] == 1
    assert metrics["concept_accuracy.ppd"] == pytest.approx(0.5)
    assert metrics["concept_accuracy.ppd.ci_low"] == 0, "all or nothing by caption: the interval says so"
    assert metrics["style_share.base.paper"] == 1
    assert metrics["style_share.ppd.pixel"] == pytest.approx(0.25)
