"""A complete adapter for others: one folder with a model card that says what it is, where it came from, what it won."""

import json
import shutil
from pathlib import Path

from ppd.diffusion.adapter.checkpoint import AdapterConfig, read_config
from ppd.diffusion.adapter.complete import FILES, read_complete
from ppd.errors import InputError
from ppd.files import atomic_path


def export_adapter(adapter: Path, out_dir: Path, reports: Path) -> None:
    """Copy the complete adapter to `out_dir`, with README.md; win rates are those in `reports`, if it has any.

    Raises InputError for an adapter that is not complete, and for a folder that holds something else.
    """
    read_complete(adapter)
    if out_dir.exists() and any(file.name not in (*FILES, "README.md") for file in out_dir.iterdir()):
        raise InputError("it holds other files, which would be lost", file=out_dir, fix="Name a new folder")
    with atomic_path(out_dir) as fresh:
        fresh.mkdir()
        for name in FILES:
            shutil.copyfile(adapter / name, fresh / name)
        (fresh / "README.md").write_text(model_card(read_config(adapter), reports / "win_rates.json"), encoding="utf-8")


def model_card(config: AdapterConfig, win_rates: Path) -> str:
    """The card, in the form that model hubs read: metadata between dashes, then text."""
    if config.inference is None:
        raise ValueError("only complete adapters have a card")
    reads, sampling = config.inference.embedding, config.inference.sampling
    training = config.training
    lines = [
        "---",
        "library_name: ppd",
        "pipeline_tag: text-to-image",
        f"base_model: {config.base.id}",
        "---",
        "",
        f"# An adapter of {config.base.id} for many users",
        "",
        f"Trained by {config.method} on the choices of many users. It samples for a user who is known by a few choices "
        "between two images, also for one that it was not trained on.",
        "",
        "```python",
        "from ppd.personalizer import Personalizer, read_pairs",
        "",
        'ppd = Personalizer.load("this folder", base="the base", vlm="the vision-language model")',
        'image = ppd.sample("a caption", ppd.embed(read_pairs("choices of one user")))[0]',
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| base | {config.base.id}, revision {config.base.revision}, fingerprint {config.base.fingerprint} |",
        f"| users are read by | {reads.vlm}, {reads.revision}; rows {list(reads.rows)}, {reads.read} |",
        f"| code | {config.commit or 'not known'} |",
        f"| data | {config.data_hash} |",
        *_low_rank_lines(config),
        f"| training | {training.get('steps')} steps of {training.get('pairs_per_step')} pairs, "
        f"learning rate {training.get('learning_rate')}, loss {json.dumps(training.get('loss'))} |",
        "",
        f"It is meant to be sampled with user guidance {sampling.user_guidance:g} at noise levels "
        f"{sampling.user_interval[0]:g} < t <= {sampling.user_interval[1]:g}, and as the base at all others.",
        "",
        *_win_rate_lines(win_rates),
        "The licences of the base, of the vision-language model and of the choices apply to what is made with it.",
    ]
    return "\n".join(lines) + "\n"


def _low_rank_lines(config: AdapterConfig) -> list[str]:
    if config.lora is None:
        return []
    beside = "beside the attention to the user" if config.blocks else "and nothing else: every user is the same"
    layers = ", ".join(config.lora.targets)
    return [f"| low-rank weights | of {layers} at rank {config.lora.rank}, alpha {config.lora.alpha}, {beside} |"]


def _win_rate_lines(file: Path) -> list[str]:
    if not file.is_file():
        return []
    rates = [r for r in json.loads(file.read_text()) if r["method"] == "ppd" and r["pairing"] == "independent"]
    rows = [
        f"| {r['opponent']} | {r['users']} | {r['judge']} | {r['win_rate']:.3f} "
        f"[{r['ci_low']:.3f}, {r['ci_high']:.3f}] | {r['n_users']} | {r['n_comparisons']} |"
        for r in rates
    ]
    head = ["| over | users | judge | win rate, 95 % | n users | n comparisons |", "|---|---|---|---|---|---|"]
    return ["Win rates, images from different noise:", "", *head, *rows, ""]
