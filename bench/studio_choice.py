"""Are pairs that the studio chooses worth more than random ones? Simulated people answer both over real HTTP.

`python bench/studio_choice.py` (needs the pipeline's artifacts and adapter; half an hour on two quiet cores). Each
person of the sticker world visits two studios that differ in nothing but how they choose, looks at the pictures that
are served (the attribute classifier is their eyes), answers, skips what they have no opinion on, and goes on to eight
choices. Then, for their first 2, 3, 4, 6 and 8 choices: the vision-language model's embedding, its cosine to the true
taste by the linear map that fits the log's training people best, and the win rate of pictures drawn by it over the
base's, from other noise, by true taste; beside each what the exact posterior makes of the
same choices. Intervals: bootstrap over people, paired.
"""

import argparse
import io
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from scipy.special import logsumexp
from studio_visitor import Visitor

from ppd.layout import Layout
from ppd.personalizer import Personalizer
from ppd.settings import Settings, load_settings
from ppd.simulation import seeds
from ppd.simulation.attribute_classifier import AttributeClassifier, read
from ppd.simulation.truth.utility import USERS
from ppd.simulation.users import Population, opinion_probability, population, preference_probability
from ppd.simulation.world import N_FEATURES, features, sample_features
from ppd.statistics.bootstrap import clustered_mean
from ppd.studio.choosing import ActiveChooser, Asked, Chooser, Floats, Next
from ppd.studio.limits import Limits
from ppd.studio.models import Models, Wish
from ppd.studio.pool import Pool
from ppd.studio.serve import Paths, open_studio
from ppd.studio.showings import answers
from ppd.studio.taste import picture
from ppd.users.support import Pair

OUT = Path("bench/results/studio_choice.json")
COUNTS = (2, 3, 4, 6, 8)
MOST_SHOWN = 60
N_OPPONENTS = 8
N_BEST_OF, N_LOOKS = 64, 256
UNLIMITED = Limits(
    changes_a_minute=1e6, changes_at_once=10**6, arrivals_a_minute=10**6, max_choices=max(COUNTS), max_queue=10**6
)  # type: ignore[arg-type]

Array = NDArray[np.float64]


class RandomChooser:
    """Any pair of any caption that was not shown yet."""

    def __init__(self, pool: Pool, particles: Floats) -> None:
        self._captions = np.array(pool.captions)
        self._lot = random.Random(0)

    def __call__(self, asked: Sequence[Asked]) -> Next | None:
        shown = [one.pair for one in asked]
        fresh = np.flatnonzero(~np.isin(self._captions, self._captions[shown[-20:]]))
        fresh = fresh[~np.isin(fresh, shown)]
        return Next(self._lot.choice(fresh.tolist()), "random") if len(fresh) else None


@dataclass(frozen=True)
class Told:
    """What a person answered, in order: features of both pictures [N, 9] each, 1 left, 0 right, NaN skipped; pairs."""

    left: Array
    right: Array
    answer: Array
    pairs: tuple[Pair, ...]

    def first(self, n: int) -> "Told":
        """Up to the n-th choice, and the skips before it."""
        end = int(np.flatnonzero(np.cumsum(~np.isnan(self.answer)) == n)[0]) + 1
        return Told(self.left[:end], self.right[:end], self.answer[:end], self.pairs[:n])


class Eyes:
    """What a simulated person sees in an encoded picture; each is looked at once."""

    def __init__(self, folder: str) -> None:
        self._reader = AttributeClassifier.from_pretrained(folder, use_safetensors=True).eval()
        self._seen: dict[bytes, Array] = {}

    def __call__(self, pictures: Sequence[bytes]) -> Array:
        fresh = [one for one in dict.fromkeys(pictures) if one not in self._seen]
        if fresh:
            seen = read(self._reader, [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in fresh])
            self._seen |= dict(zip(fresh, features(seen.style, seen.factors.clip(-1, 1)), strict=True))
        return np.stack([self._seen[one] for one in pictures])


def visit(
    address: str, taste: Array, temperature: float, settings: Settings, eyes: Eyes, rng: np.random.Generator
) -> str:
    """Choose eight times as this person would; returns who the studio says they are."""
    visitor = Visitor.arrive(address)
    visitor.open("/choose?more")
    n_chosen = 0
    for _ in range(MOST_SHOWN):
        if n_chosen == max(COUNTS):
            break
        pair = visitor.pair()
        left, right = eyes([pair.left, pair.right])
        gap = np.array((left - right) @ taste)
        choice = "skip"
        if rng.random() < opinion_probability(gap, settings.people):
            choice = "left" if rng.random() < preference_probability(gap, temperature) else "right"
            n_chosen += 1
        visitor.send("/vote", choice=choice)
    return visitor.client.cookies["ppd_studio"]


@contextmanager
def served(app: object):  # type: ignore[no-untyped-def]
    """The address of an application that a thread serves."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def let_visit(
    make_chooser: Callable[[Pool, Floats], Chooser],
    ppd: Personalizer,
    adapter: Path,
    paths: Paths,
    everyone: Population,
    kinds: NDArray[np.int64],
    settings: Settings,
    eyes: Eyes,
    log: Callable[[str], None],
) -> list[Told]:
    """What each of the people answered in a studio that chooses so."""
    from ppd.studio.visitors import visitor_of

    found = []
    with open_studio(ppd, adapter, paths, limits=UNLIMITED, make_chooser=make_chooser) as (studio, app):
        while not studio.is_open:
            time.sleep(0.2)
        with served(app) as address:
            for at, kind in enumerate(kinds):
                rng = seeds.rng("evaluation", f"studio-choice-{at}")
                cookie = visit(address, everyone.tastes[kind], everyone.temperature[kind], settings, eyes, rng)
                visitor = visitor_of(studio.database, cookie)
                assert visitor is not None
                told = answers(studio.database, visitor.id, "choice")
                files = [[picture(studio.database, name) for name in (a.showing.left, a.showing.right)] for a in told]
                left, right = eyes([pair[0] for pair in files]), eyes([pair[1] for pair in files])
                answer = np.array([{"left": 1.0, "right": 0.0, "skip": np.nan}[a.choice] for a in told])
                pairs = tuple(
                    Pair(a.showing.caption, *(pair if a.choice == "left" else pair[::-1]))
                    for a, pair in zip(told, files, strict=True)
                    if a.choice != "skip"
                )
                found.append(Told(left, right, answer, pairs))
                if at % 16 == 15:
                    log(f"{at + 1} people have answered")
    return found


def belief(everyone: Population, settings: Settings, told: Told, *, with_skips: bool) -> Array:
    """The exact posterior over kinds of people [H] given the answers to these very pairs."""
    gap = (told.left - told.right) @ everyone.tastes.T
    opinion = opinion_probability(gap, settings.people)
    left = preference_probability(gap, everyone.temperature)
    skipped, chose_left = np.isnan(told.answer)[:, None], (told.answer == 1)[:, None]
    with np.errstate(divide="ignore"):
        chosen = np.log(opinion) + np.log(np.where(chose_left, left, 1 - left))
        likelihood = np.where(skipped, np.log(1 - opinion) if with_skips else 0.0, chosen)
    log_p = np.log(everyone.prior) + likelihood.sum(axis=0)
    return np.asarray(np.exp(log_p - logsumexp(log_p)))


def cosine(a: Array, b: Array) -> Array:
    """Of each row with each: [N, D] twice -> [N]."""
    return np.asarray((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def taste_map(models: Models, truth: Path, manifest: Path) -> Array:
    """The linear map from embeddings to tastes [D, 9] that fits the log's training people best. For measuring only."""
    people = pd.read_parquet(truth).set_index("user_id")
    names = [name for name in people if name not in ("temperature", "strongest")]
    users = pd.read_parquet(manifest)
    train = [user for user in users.user_id[users.split == "train"] if user in models.log]
    embeddings = np.concatenate([models.log[user].flatten(1).double().numpy() for user in train])
    tastes = np.concatenate(
        [np.repeat(people.loc[[user], names].to_numpy(), len(models.log[user]), 0) for user in train]
    )
    return np.asarray(np.linalg.lstsq(embeddings, tastes, rcond=None)[0])


def interval(values: Array) -> dict[str, float]:
    """A mean over people with its 95 % interval."""
    return clustered_mean(values, np.arange(len(values))).as_row()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=128)
    parser.add_argument("--pictures", type=int, default=4, help="drawn for each person, count and way of choosing")
    parser.add_argument("--adapter", type=Path, default=Path("models/ppd"))
    parser.add_argument("--folder", type=Path, default=Path("runs/studio_choice"))
    parser.add_argument("--pools", type=Path, help="pictures to choose from that an earlier studio has drawn")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    log = Console().print
    settings = load_settings("params.yaml")
    ppd = Personalizer.load(arguments.adapter)
    eyes = Eyes(settings.models.attribute_classifier)
    everyone = population(settings.people)
    kinds = seeds.rng("evaluation", "studio-choice").choice(len(everyone.prior), arguments.people, p=everyone.prior)
    tastes = everyone.tastes[kinds]
    told: dict[str, list[Told]] = {}
    for name, make_chooser in (("active", ActiveChooser), ("random", RandomChooser)):
        folder = arguments.folder / f"{name}-{int(time.time())}"
        folder.mkdir(parents=True)
        if arguments.pools:
            (folder / "pools").symlink_to(arguments.pools.resolve())
        paths = Paths(folder=folder, verdicts=folder / "human.jsonl")
        told[name] = let_visit(make_chooser, ppd, arguments.adapter, paths, everyone, kinds, settings, eyes, log)
    everybody = np.array([all(len(one[at].pairs) >= max(COUNTS) for one in told.values()) for at in range(len(kinds))])
    kept, tastes = np.flatnonzero(everybody), tastes[everybody]
    models = Models.load(ppd, arguments.adapter, Paths().users)
    to_taste = taste_map(models, Layout().given_truth / USERS, Layout().manifest)
    wins = Wins(models, eyes, tastes, arguments.pictures)
    measured: dict[str, dict[str, dict[int, Array]]] = {}
    shown: dict[str, dict[int, float]] = {}
    for name, everyones in told.items():
        measured[name] = {
            what: {} for what in ("cosine", "win_rate", "exact_cosine", "exact_cosine_with_skips", "exact_best_of_64")
        }
        shown[name] = {}
        for n in COUNTS:
            firsts = [everyones[at].first(n) for at in kept]
            shown[name][n] = float(np.mean([len(one.answer) for one in firsts]))
            embeddings = torch.cat(
                [models.read([one.pairs for one in firsts[at : at + 64]])[0] for at in range(0, len(firsts), 64)]
            )
            measured[name]["cosine"][n] = cosine(embeddings.flatten(1).double().numpy() @ to_taste, tastes)
            for what, with_skips in (("exact_cosine", False), ("exact_cosine_with_skips", True)):
                believed = (
                    np.stack([belief(everyone, settings, one, with_skips=with_skips) for one in firsts])
                    @ everyone.tastes
                )
                measured[name][what][n] = cosine(believed, tastes)
                if not with_skips:
                    measured[name]["exact_best_of_64"][n] = best_of(believed, tastes)
            if arguments.pictures:
                measured[name]["win_rate"][n] = wins(embeddings)
            log(
                f"{name} {n}: "
                + ", ".join(f"{what} {values[n].mean():.3f}" for what, values in measured[name].items() if n in values)
            )
    result = {
        "people": len(kept),
        "left_out": int(len(kinds) - len(kept)),
        "pictures_each": arguments.pictures,
        "adapter": models.adapter,
        "shown": shown,
        "measured": {
            name: {what: {str(n): interval(v) for n, v in by.items()} for what, by in whats.items()}
            for name, whats in measured.items()
        },
        "active_minus_random": {
            f"{a} active - {b} random": {
                what: interval(measured["active"][what][a] - measured["random"][what][b])
                for what in measured["active"]
                if a in measured["active"][what]
            }
            for a, b in ((2, 2), (3, 3), (4, 4), (6, 6), (8, 8), (3, 4), (4, 6), (4, 8), (6, 8))
        },
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    log(json.dumps(result["active_minus_random"], indent=1))


class Wins:
    """How often pictures drawn by an embedding are worth more to the person than the base's, from other noise."""

    def __init__(self, models: Models, eyes: Eyes, tastes: Array, n_pictures: int) -> None:
        self._models, self._eyes, self._tastes, self._n = models, eyes, tastes, n_pictures
        captions = pd.read_parquet(Layout().preferences / "captions.parquet")
        self._captions = sorted(captions.caption[captions.split == "eval"])[:8]
        self._base: dict[str, Array] = {}
        for caption in self._captions[:n_pictures]:
            images = models.draw([Wish(caption, 900 + seed) for seed in range(N_OPPONENTS)])
            self._base[caption] = eyes(images)

    def __call__(self, embeddings: torch.Tensor) -> Array:
        """For each person [N]; the same captions and noises whatever the embeddings are of."""
        captions = self._captions[: self._n]
        wishes = [Wish(caption, 100 + at % 16, user) for at, user in enumerate(embeddings) for caption in captions]
        drawn = self._eyes(self._models.draw(wishes)).reshape(len(embeddings), self._n, N_FEATURES)
        rates = []
        for looks, taste in zip(drawn, self._tastes, strict=True):
            gaps = [look @ taste - self._base[caption] @ taste for look, caption in zip(looks, captions, strict=True)]
            rates.append(float(np.mean([(np.sign(gap) + 1) / 2 for gap in gaps])))
        return np.array(rates)


def best_of(believed: Array, tastes: Array) -> Array:
    """How often the best of 64 pictures of the world, picked by what is believed, beats a random one: [N]."""
    rng = np.random.default_rng(0)
    rates = []
    for estimate, taste in zip(believed, tastes, strict=True):
        looks = sample_features(rng, N_BEST_OF * N_LOOKS).reshape(N_LOOKS, N_BEST_OF, N_FEATURES)
        picked = np.take_along_axis(looks @ taste, (looks @ estimate).argmax(axis=1)[:, None], axis=1)[:, 0]
        gap = picked - sample_features(rng, N_LOOKS) @ taste
        rates.append(float(((np.sign(gap) + 1) / 2).mean()))
    return np.array(rates)


if __name__ == "__main__":
    main()
