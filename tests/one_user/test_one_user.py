from pathlib import Path

import pytest
import torch

from ppd.diffusion.model.backbone import Text
from ppd.diffusion.training.dataset import Pairs, TrainingData
from ppd.errors import InputError
from ppd.one_user.bake import read_captions
from ppd.one_user.train import of_one_user


@pytest.fixture
def data() -> TrainingData:
    """Users ann, ben and cat; cat is a validation user and has no training pairs."""

    def pairs(users: list[int]) -> Pairs:
        user = torch.tensor(users)
        return Pairs(user, torch.zeros_like(user), torch.arange(len(users)), torch.arange(len(users)) + 1)

    return TrainingData(
        latents=torch.zeros(6, 4, 2, 2),
        text=Text(torch.zeros(1, 3, 5), torch.zeros(1, 5)),
        embeddings=torch.zeros(3, 1, 2),
        first=torch.arange(4),
        train=pairs([0, 1, 0, 1, 1]),
        seen=pairs([1, 0]),
        held_out=pairs([2, 2]),
        pictures_hash="all",
        content_hash="all",
        user_ids=("ann", "ben", "cat"),
    )


def test_one_user_s_pairs_are_theirs_and_make_another_run(data: TrainingData) -> None:
    ben = of_one_user(data, "ben")
    assert ben.train.user.tolist() == [1, 1, 1]
    assert ben.train.chosen.tolist() == [1, 3, 4]
    assert ben.seen.user.tolist() == [1]
    assert len(ben.held_out) == 0
    ann = of_one_user(data, "ann")
    assert ben.content_hash not in (data.content_hash, ann.content_hash)
    assert ben.pictures_hash not in (data.pictures_hash, ann.pictures_hash)


@pytest.mark.parametrize("user_id", ["cat", "nobody"])
def test_who_has_no_training_pairs_gets_no_lora_of_their_own(data: TrainingData, user_id: str) -> None:
    with pytest.raises(InputError, match=f"user '{user_id}' has no training pairs"):
        of_one_user(data, user_id)


def test_captions_are_the_lines_of_a_text_file(tmp_path: Path) -> None:
    file = tmp_path / "captions.txt"
    file.write_text("a fox\n\n  a tree \n")
    assert read_captions(file) == ["a fox", "a tree"]
    file.write_text("\n")
    with pytest.raises(InputError, match=r"captions\.txt.*no caption in it"):
        read_captions(file)
    with pytest.raises(InputError, match="cannot be read as text"):
        read_captions(tmp_path / "nowhere.txt")
