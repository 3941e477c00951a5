"""A LoRA of one user: trained on their own choices and nobody else's, as personal fine-tuning is mostly done."""

import shutil
from dataclasses import replace
from pathlib import Path

from ppd.device import this_device
from ppd.diffusion.adapter.complete import complete_adapter
from ppd.diffusion.encoding.store import Encoded
from ppd.diffusion.model.load import load_backbone
from ppd.diffusion.training.assemble import training_data
from ppd.diffusion.training.dataset import TrainingData
from ppd.diffusion.training.run import finetune
from ppd.errors import InputError
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.settings import LoraSettings, Settings
from ppd.users.manifest import whitened
from ppd.users.whitening import Whitening


def train_for_one_user(settings: Settings, layout: Layout, user_id: str, out: Path, *, steps: int) -> None:
    """Train low-rank weights by DPO on the training pairs of `user_id`; leave a complete adapter in `out`.

    `finetune` says how, but for `steps` and for `lora.alone`, which is true here. A killed run goes on where it was.
    """
    whitening = Whitening.load(layout.whitening)
    embeddings = whitened(layout.shard_files(), whitening)
    data = training_data(Preferences.open(layout.preferences), Encoded.open(layout.latents), embeddings)
    lora = (settings.finetune.lora or LoraSettings()).model_copy(update={"alone": True})
    how = settings.finetune.model_copy(update={"lora": lora, "steps": steps})
    backbone = load_backbone(settings.models.prior, precision=how.precision, device=this_device())
    work = layout.unfinished / "one-user"
    trained = work / "trained"
    finetune(
        backbone,
        of_one_user(data, user_id),
        how,
        "dpo",
        trained,
        layout.unfinished / "one-user-steps",
        origin={"whitening": whitening.name},
    )
    complete_adapter(trained, layout.whitening, settings.sampling, out)
    shutil.rmtree(work)


def of_one_user(data: TrainingData, user_id: str) -> TrainingData:
    """The same data with the pairs of one user: their training pairs to learn from, their held-out ones as `seen`.

    Raises InputError for a user without training pairs, as those who were kept unseen.
    """
    user = data.user_ids.index(user_id) if user_id in data.user_ids else -1
    train, seen = (pairs[pairs.user == user] for pairs in (data.train, data.seen))
    if not len(train):
        raise InputError(
            f"user {user_id!r} has no training pairs",
            fix="Only users of the split `train` in artifacts/preferences/users.parquet have some",
        )
    nobody = data.held_out[data.held_out.user == -1]
    return replace(
        data,
        train=train,
        seen=seen,
        held_out=nobody,
        pictures_hash=f"{data.pictures_hash}-{user_id}",
        content_hash=f"{data.content_hash}-{user_id}",
    )
