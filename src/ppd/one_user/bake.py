"""A complete adapter and a user -> a plain LoRA in a folder (`ppd.diffusion.baking`)."""

from pathlib import Path

from ppd.device import this_device
from ppd.diffusion.adapter.checkpoint import adapter_identity, load_adapter, read_config
from ppd.diffusion.adapter.complete import read_complete
from ppd.diffusion.adapter.plain_lora import save_plain_lora
from ppd.diffusion.baking.distill import Fit
from ppd.diffusion.baking.run import Recipe, bake
from ppd.diffusion.model.load import load_backbone
from ppd.errors import InputError
from ppd.layout import Layout
from ppd.personalizer import Personalizer, read_pairs
from ppd.preferences.store import Preferences
from ppd.users.manifest import whitened


def bake_for_user(
    layout: Layout,
    adapter: Path,
    out: Path,
    recipe: Recipe,
    *,
    user_id: str | None,
    choices: Path | None,
    captions: Path | None,
    base: str | None,
    vlm: str | None,
) -> dict[str, Fit]:
    """Bake `adapter` for a user of the log (user_id) or for whoever made `choices`; one of the two.

    captions: a text file, one caption a line; without it those of the log are used. An adapter of low-rank weights
    alone is a plain LoRA already: it is written as it is, and nothing is returned. Raises InputError where nothing says
    who or what.
    """
    inference, whitening = read_complete(adapter)
    config = read_config(adapter)
    if not config.blocks:
        backbone = load_backbone(base or config.base.id, precision="fp32")
        lora = load_adapter(adapter, backbone).lora
        save_plain_lora(out, {} if lora is None else lora.as_peft(), backbone.network)
        return {}
    if (user_id is None) == (choices is None):
        raise InputError("who is it for?", fix="Give either --user, someone of the log, or --choices, a folder")
    wanted = read_captions(captions) if captions else Preferences.open(layout.preferences).captions.caption.tolist()
    if choices is not None:
        ppd = Personalizer.load(adapter, base=base, vlm=vlm)
        backbone, loaded, user = ppd.backbone, ppd.adapter, ppd.embed(read_pairs(choices))
    else:
        users = whitened(layout.shard_files(), whitening)
        if user_id not in users:
            found = f"no user {user_id!r} among {len(users)} who are embedded"
            raise InputError(found, file=layout.users, column="user_id")
        user = users[user_id][0]
        backbone = load_backbone(base or config.base.id, precision=inference.sampling.precision, device=this_device())
        loaded = load_adapter(adapter, backbone)
    return bake(
        backbone,
        loaded,
        user,
        wanted,
        inference.sampling,
        recipe,
        out,
        layout.unfinished / "bake",
        identity=adapter_identity(adapter),
    )


def read_captions(file: Path) -> list[str]:
    """One caption a line; empty lines do not count. Raises InputError where there is none."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as text ({error})", file=file) from error
    if not (found := [line for line in lines if line]):
        raise InputError("no caption in it; expected one a line", file=file)
    return found
