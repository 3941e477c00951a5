"""What batching and reading a person's pairs once save: `python bench/vlm_speed.py` (one core, about two minutes).

Judging, 16 comparisons of each person in both orders, always in batches of 32 prompts: with the pairs' keys and values
reused; without, but every image of a batch seen once; and as transformers does it, every prompt by itself through the
library's processor and model. Embedding: people in batches and one by one. Interleaved rounds in one process, CPU time;
medians, and the range of the ratios over the rounds.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from ppd.pretrain.vlm_quality import Gallery
from ppd.settings import EmbeddingSettings, JudgeSettings
from ppd.simulation import seeds
from ppd.simulation.render import Atlas
from ppd.users.support import Pair
from ppd.vlm.embedding import embed
from ppd.vlm.judging import VlmJudge
from ppd.vlm.prompts import ANSWERS, Candidates, judge_conversation
from ppd.vlm.transformers_backend import TransformersVlm

OUT = Path("bench/results/vlm_speed.json")
N_PEOPLE, N_PAIRS, N_COMPARISONS = 8, 4, 16


@torch.inference_mode()
def library_way(vlm: TransformersVlm, pairs: list[Pair], candidates: list[Candidates]) -> list[float]:
    """P("first") of both orders by the library's processor and model alone, in batches."""
    asked = [order for two in candidates for order in (two, two.swapped())]
    words = [vlm.processor.tokenizer.convert_tokens_to_ids(word) for word in ANSWERS]
    answers: list[float] = []
    for at in range(0, len(asked), vlm.batch_size):
        conversations = [judge_conversation(pairs, order, "short-1") for order in asked[at : at + vlm.batch_size]]
        pictures = [[Image.open(io.BytesIO(image)).convert("RGB") for image in c.images] for c in conversations]
        prompts = [vlm.prompt(conversation) for conversation in conversations]
        inputs = vlm.processor(text=prompts, images=pictures, return_tensors="pt", padding=True)
        logits = vlm.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1, words]
        answers += logits.softmax(-1)[:, 0].tolist()
    return answers


def cpu_seconds(act: Callable[[], object]) -> float:
    started = time.process_time()
    act()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    vlm = TransformersVlm.load("data/models/vlm", batch_size=32)
    gallery = Gallery(Atlas.load("data/stickers"), seeds.rng("evaluation", "vlm", "speed"), 4096)
    rng = seeds.rng("evaluation", "vlm", "speed", "pairs")
    told = gallery.shelf.draw_pairs(rng, (N_PEOPLE, N_PAIRS))
    asked = gallery.shelf.draw_pairs(rng, (N_PEOPLE, N_COMPARISONS))
    many = gallery.shelf.draw_pairs(rng, (64, N_PAIRS))
    for rows in (told, asked, many):
        gallery.show(np.unique(rows))
    people = [
        (gallery.pairs(pairs), gallery.candidates(questions)) for pairs, questions in zip(told, asked, strict=True)
    ]
    groups = [gallery.pairs(rows) for rows in many]
    reusing, plain = (VlmJudge(vlm, JudgeSettings(), reuse_pairs=reuse) for reuse in (True, False))
    silent = EmbeddingSettings(rows=None, max_new_tokens=0)

    difference = max(
        abs(p - q)
        for pairs, questions in people
        for verdict, (p_shown, p_swapped) in zip(
            reusing(pairs, questions), np.reshape(library_way(vlm, pairs, questions), (-1, 2)).tolist(), strict=True
        )
        for p, q in ((verdict.shown.p_first, p_shown), (verdict.swapped.p_first, p_swapped))
    )
    n_judged, n_embedded = N_PEOPLE * N_COMPARISONS, len(groups)
    tasks: dict[str, tuple[int, Callable[[], object]]] = {
        "judge, pairs read once": (n_judged, lambda: [reusing(*user) for user in people]),
        "judge, images seen once a batch": (n_judged, lambda: [plain(*user) for user in people]),
        "judge, the library's way": (n_judged, lambda: [library_way(vlm, *user) for user in people]),
        "embed, batches of 32": (n_embedded, lambda: embed(vlm, groups, silent)),
        "embed, one by one": (n_embedded, lambda: [embed(vlm, [group], silent) for group in groups]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds + 1):
        for name, (_, act) in tasks.items():
            seconds[name].append(cpu_seconds(act))
    table = Table(
        "what", "CPU ms each", "the first is … times faster", title=f"{N_PAIRS} pairs, {N_COMPARISONS} comparisons"
    )
    results: dict[str, object] = {"largest_difference_of_p": difference, "rounds": rounds}
    for name, (n, _) in tasks.items():
        first = next(other for other in tasks if other.split(",")[0] == name.split(",")[0])
        times = [slow / fast for fast, slow in zip(seconds[first][1:], seconds[name][1:], strict=True)]
        ms, faster = 1000 * statistics.median(seconds[name][1:]) / n, statistics.median(times)
        table.add_row(name, f"{ms:.2f}", f"{faster:.2f} ({min(times):.2f} to {max(times):.2f})")
        results[name] = {"cpu_ms": ms, "first_is_faster": faster, "lowest": min(times), "highest": max(times)}
    Console().print(table, f"largest difference of a probability: {difference:.1e}")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
