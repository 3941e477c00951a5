"""What an image is worth beside all that the base draws."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from ppd.errors import InputError
from ppd.evaluation.tables import IMAGE_KEY
from ppd.experiments.fresh_people import over, over_the_pool, write_fresh_people
from ppd.experiments.settings import ExperimentSettings
from ppd.layout import Layout
from ppd.settings import Settings
from ppd.simulation.truth.utility import Tastes
from ppd.simulation.world import FEATURES


def readings(model: str, rows: list[tuple[str, str, int, float]]) -> pd.DataFrame:
    """Images whose first feature alone says something: (user, caption, seed, feature)."""
    table = pd.DataFrame(rows, columns=[*IMAGE_KEY[1:], FEATURES[0]]).assign(model=model)
    table = table.assign(**dict.fromkeys(FEATURES[1:], 0.0), concept_right=True, in_manifold=True)
    return table.set_index(IMAGE_KEY)


BASE = readings("base", [("", "fox", seed, value) for seed, value in enumerate((-1.0, 0.0, 0.0, 1.0))])
OTHER = readings("base", [("", "cat", seed, 5.0) for seed in range(4)])
TASTES = Tastes(("likes", "hates"), np.outer([1.0, -1.0], np.eye(9)[0]))


def worth(base: pd.DataFrame, *drawn: tuple[str, str, int, float]) -> pd.DataFrame:
    table = readings("ppd", list(drawn)).reset_index().assign(training_seed=0)
    return over_the_pool(table, base, TASTES).set_index("user_id")


def test_an_image_wins_against_the_share_of_the_pool_that_its_user_likes_less():
    found = worth(BASE, ("likes", "fox", 7, 0.5), ("hates", "fox", 8, 0.5))
    assert found.wins.to_dict() == {"likes": 0.75, "hates": 0.25}
    assert found.gain_sd.to_dict() == pytest.approx({"likes": 0.5 / np.sqrt(0.5), "hates": -0.5 / np.sqrt(0.5)})


def test_a_tie_counts_half_and_other_captions_pictures_do_not_count():
    pool = pd.concat([BASE, OTHER])
    assert worth(pool, ("likes", "fox", 7, 0.0)).wins.item() == 0.5


def test_arms_that_draw_the_same_in_another_order_stand_beside_each_other():
    drawn = [("likes", "fox", 7, 0.5), ("hates", "fox", 8, -1.0), ("hates", "cat", 8, 5.0)]
    pool = pd.concat([BASE, OTHER])
    pd.testing.assert_frame_equal(worth(pool, *drawn), worth(pool, *reversed(drawn)))


def test_an_arm_with_one_training_stands_beside_that_training_of_the_first():
    drawn = {
        seed: readings("ppd", [("likes", "fox", 7, value)]).reset_index().assign(training_seed=seed)
        for seed, value in enumerate((0.5, 1.0))
    }
    first = over_the_pool(pd.concat(drawn.values()), BASE, TASTES)
    found = over(over_the_pool(drawn[1], BASE, TASTES), first)
    assert found["over_first"]["gain_sd"]["mean"] == 0
    assert found["over_first_by_seed"] == {"1": 0}


OURS = {"varies": "nothing", "value": "default", "strengths": [4]}


def test_what_all_arms_are_compared_with_is_trained_with_every_seed():
    with pytest.raises(ValidationError, match="ours, the first, must be trained with every seed"):
        ExperimentSettings.model_validate({"fresh_people": {"arms": {"ours": {**OURS, "n_seeds": 1}}}})


@pytest.mark.parametrize(
    ("how", "complaint"),
    [({"arms": {}}, "arms is empty"), ({"arms": {"ours": OURS}, "log_seed": 0}, "they would be the people of the log")],
)
def test_nobody_fresh_or_nothing_to_tell_apart_is_refused_before_anything_is_done(how, complaint, tmp_path):
    experiments = ExperimentSettings.model_validate({"fresh_people": how})
    with pytest.raises(InputError, match=complaint):
        write_fresh_people(Settings(), experiments, Layout(tmp_path))
    assert not list(tmp_path.iterdir())
