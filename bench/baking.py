"""What a baked LoRA keeps of an adapter's gain, by the true taste: `python bench/baking.py [--root DIR] [--users 8]`.

For the first unseen users of an evaluation that has run (`dvc repro` in DIR): bake a plain LoRA for each, give its file
to peft in a bare base, draw the same captions and seeds as the evaluation drew, and compare with the same images of the
base. The share kept is the mean gain over the base, in SD of the base's images, of the LoRA over that of the adapter.
Each finished user is kept in runs/baking, so that a killed bench goes on; the result is written after each.
"""

import argparse
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import peft
import torch

from ppd.diffusion.adapter.checkpoint import adapter_identity, load_adapter, read_config
from ppd.diffusion.adapter.complete import read_complete
from ppd.diffusion.baking.run import ABOUT, Recipe, bake
from ppd.diffusion.model.load import load_backbone
from ppd.diffusion.sampling.run import sample_images
from ppd.diffusion.sampling.store import read_samples
from ppd.evaluation.win_rates import win_rates
from ppd.experiments.models import first_embeddings_of_users
from ppd.files import read_json, write_json
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.simulation.truth.judge import load_classifier
from ppd.simulation.truth.readings import read_features_of_file
from ppd.simulation.truth.utility import Tastes, judge
from ppd.statistics.bootstrap import crossed_ratio
from ppd.stored_tables import read_frame

RESULT = Path("bench/results/baking.json")
WORK = Path("runs/baking")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--root", type=Path, default=Path(), help="a repository in which the pipeline has run")
    arguments.add_argument("--users", type=int, default=8)
    arguments.add_argument("--rank", type=int, default=Recipe().rank)
    arguments.add_argument("--steps", type=int, default=Recipe().steps)
    arguments.add_argument("--images", type=int, default=Recipe().images)
    given = arguments.parse_args()
    layout = Layout(given.root)
    recipe = Recipe(rank=given.rank, steps=given.steps, images=given.images)
    verdicts = read_frame(layout.verdict("ground_truth"))
    verdicts = verdicts[(verdicts.method == "ppd") & (verdicts.opponent == "base") & (verdicts.users == "unseen")]
    done: list[str] = []
    for user_id in verdicts.user_id.unique()[: given.users]:
        if not (WORK / user_id / "seconds.json").exists():
            _bake_and_draw(layout, user_id, recipe)
        done.append(user_id)
        _write(layout, recipe, verdicts[verdicts.user_id.isin(done)], done)


def _bake_and_draw(layout: Layout, user_id: str, recipe: Recipe) -> None:
    """Leave the LoRA of a user, the images that a bare base with it draws, and the CPU seconds that baking took."""
    folder, adapter = layout.models / "ppd", WORK / user_id
    inference, _ = read_complete(folder)
    backbone = load_backbone(layout.root / read_config(folder).base.id, precision=inference.sampling.precision)
    captions = Preferences.open(layout.preferences).captions
    user, loaded = first_embeddings_of_users(layout)[user_id], load_adapter(folder, backbone)
    started = time.process_time()
    bake(
        backbone,
        loaded,
        user,
        captions.caption[captions.split == "train"].tolist(),
        inference.sampling,
        recipe,
        adapter / "lora",
        WORK / "unfinished",
        identity=adapter_identity(folder),
    )
    seconds = time.process_time() - started
    loaded.detach()
    requests, _ = read_samples(layout.sampled("ppd"))
    peft.PeftModel.from_pretrained(backbone.network, adapter / "lora")
    sample_images(
        requests[requests.user_id == user_id].reset_index(drop=True),
        backbone,
        inference.sampling,
        adapter / "images.parquet",
        adapter / "unfinished",
    )
    write_json(adapter / "seconds.json", seconds)


def _write(layout: Layout, recipe: Recipe, verdicts: pd.DataFrame, users: list[str]) -> None:
    classifier = load_classifier(layout.data / "models/attribute-classifier")
    files = [WORK / user_id / "images.parquet" for user_id in users]
    readings = pd.concat(
        [
            read_features_of_file("base", layout.sampled("base"), classifier),
            *[read_features_of_file("baked", file, classifier) for file in files],
        ]
    )
    comparisons = verdicts.drop(columns=["judge", "outcome", "gain_sd"]).assign(method="baked")
    baked = judge(comparisons, readings, Tastes.load(layout.truth))
    rates = win_rates(pd.concat([verdicts, baked], ignore_index=True))
    kept = {}
    for pairing, of_ppd in verdicts.groupby("pairing"):
        of_baked = baked[baked.pairing == pairing]
        share = crossed_ratio(of_baked.gain_sd.to_numpy(), of_ppd.gain_sd.to_numpy(), [of_ppd.user_id.to_numpy()])
        kept[str(pairing)] = {"share_of_gain": share.mean, "ci_low": share.low, "ci_high": share.high}
    abouts = [read_json(WORK / user_id / "lora" / ABOUT)["held_out"] for user_id in users]
    result = {
        "command": f"python bench/baking.py --users {len(users)} --rank {recipe.rank} --steps {recipe.steps} "
        f"--images {recipe.images}",
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads",
        "recipe": asdict(recipe),
        "n_users": len(users),
        "cpu_seconds": {user_id: round(read_json(WORK / user_id / "seconds.json"), 1) for user_id in users},
        "held_out": dict(zip(users, abouts, strict=True)),
        "kept": kept,
        "win_rates": rates,
    }
    write_json(RESULT, result)
    print(json.dumps({"n": len(users), "held_out": abouts[-1], "kept": kept}), flush=True)
    for rate in rates:
        print(
            rate["method"],
            rate["pairing"],
            [round(float(str(rate[k])), 3) for k in ("win_rate", "ci_low", "ci_high", "gain_sd")],
        )


if __name__ == "__main__":
    main()
