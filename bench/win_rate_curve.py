"""What training time buys: win rates of ppd after runs of several lengths and seeds, on people it never saw.

    python bench/win_rate_curve.py --steps 100 250 500 1000 --people validation
    python bench/win_rate_curve.py --steps 1000 --seeds 0 1 2 --people test

Needs what `dvc repro` leaves up to `sample-base`. Each run is one of its own (its learning rate falls to 0 at its last
step), drawn for with the settings of params.yaml and judged by the true taste. Prints a table and writes
bench/results/win_rate_curve-PEOPLE.json. A killed run goes on.
"""

import argparse
import json
import time
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from ppd import stages
from ppd.diffusion.adapter import load_adapter, read_config
from ppd.diffusion.assemble import training_data
from ppd.diffusion.drawing import draw, read_drawn
from ppd.diffusion.encoding import Encoded
from ppd.diffusion.finetune import finetune
from ppd.diffusion.stable_cascade import StableCascadeBackbone
from ppd.evaluation.ground_truth import Tastes, judge
from ppd.evaluation.plan import images, meetings, requests
from ppd.evaluation.seen import seen
from ppd.evaluation.win_rates import win_rates
from ppd.preferences.store import Preferences
from ppd.settings import EvaluationSettings, Settings, load_settings
from ppd.stickers.reader import FactorReader
from ppd.vlm.people import whitened
from ppd.vlm.store import load_people
from ppd.vlm.whitening import Whitening

WORK = Path("runs/win_rate_curve")
SHOWN = ("base", "ppd-shuffled")


def evaluate(
    settings: Settings, people: EvaluationSettings, steps: int, seed: int, preferences: Preferences
) -> list[dict[str, object]]:
    """Train one run, draw for unseen people, and return its win rates with what it cost."""
    files = [stages.USERS / shard / "embeddings.parquet" for shard in sorted(preferences.users.shard.unique())]
    whitening = Whitening.load(stages.WHITENING)
    embeddings = whitened(load_people(files), whitening)
    folder = WORK / f"steps-{steps}-seed-{seed}"
    if not (folder / "config.json").exists():
        run = settings.finetune.model_copy(update={"steps": steps, "seed": seed})
        data = training_data(preferences, Encoded.open(stages.LATENTS), embeddings)
        backbone = StableCascadeBackbone.from_pretrained(settings.models.prior, precision=run.precision)
        started = time.process_time()
        finetune(backbone, data, run, "ppd", folder, WORK / f"{folder.name}.work", origin={"whitening": whitening.name})
        (WORK / f"{folder.name}.cpu_s").write_text(str(time.process_time() - started))
    backbone = StableCascadeBackbone.from_pretrained(settings.models.prior, precision=settings.sampling.precision)
    asked = requests(preferences, people)
    reader = FactorReader.from_pretrained(settings.models.reader).eval()
    tables = []
    for model in ("base", "ppd"):
        adapter = load_adapter(folder, backbone) if model == "ppd" else None
        identity = read_config(folder).model_dump_json() if model == "ppd" else ""
        drawn = WORK / f"{people.people}-{folder.name if model == 'ppd' else 'base'}.parquet"
        if not drawn.exists():
            users = {user_id: groups[0] for user_id, groups in embeddings.items()} if model == "ppd" else {}
            wanted = images(asked, model, people)
            draw(wanted, backbone, settings.sampling, drawn, adapter=adapter, people=users, identity=identity)
        tables.append(seen(model, *read_drawn(drawn), reader))
    planned = meetings(asked, people)
    planned = planned[(planned.method == "ppd") & planned.opponent.isin(SHOWN) & (planned.users == "unseen")]
    rates = win_rates(judge(planned, pd.concat(tables), Tastes.load(stages.TRUTH)))
    cpu_s = float((WORK / f"{folder.name}.cpu_s").read_text())
    cost = {"steps": steps, "seed": seed, "cpu_s": cpu_s, "concept_accuracy": float(tables[1].concept_right.mean())}
    return [cost | rate for rate in rates]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 250, 500, 1000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--people", choices=["validation", "test"], default="validation")
    options = parser.parse_args()
    settings = load_settings("params.yaml")
    preferences = Preferences.open(stages.PREFERENCES)
    n = int((preferences.users.split == options.people).sum())
    people = settings.evaluation.model_copy(
        update={
            "people": options.people,
            "n_unseen_people": min(n, settings.evaluation.n_unseen_people),
            "n_seen_people": 2,
        }
    )
    rows = [
        row
        for steps in options.steps
        for seed in options.seeds
        for row in evaluate(settings, people, steps, seed, preferences)
    ]
    title = f"ppd, unseen people ({options.people})"
    table = Table("steps", "seed", "CPU min", "over", "seeds", "win rate", "gain (SD)", "concept accuracy", title=title)
    for row in rows:
        rate = f"{row['win_rate']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
        cells = (row["steps"], row["seed"], f"{float(str(row['cpu_s'])) / 60:.1f}", row["opponent"], row["pairing"])
        table.add_row(*map(str, cells), rate, f"{row['gain_sd']:.2f}", f"{row['concept_accuracy']:.3f}")
    Console(width=140).print(table)
    out = Path(f"bench/results/win_rate_curve-{options.people}.json")
    out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
