"""Print the exact-Bayes ceiling of the sticker world: `python bench/world_ceiling.py` (one core, about a minute).

How well anyone could do: no method that sees the same choices can beat the exact posterior on average, so its scores
stand beside every result. The world's parameters were chosen by this table alone, before any model was trained.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ppd.files import write_json
from ppd.settings import PeopleSettings, load_settings
from ppd.simulation import seeds
from ppd.simulation.posterior import choice_log_likelihood, opinion_rate, posterior, predict_choice
from ppd.simulation.users import Population, opinion_probability, population, preference_probability
from ppd.simulation.world import sample_features
from ppd.statistics.bootstrap import Interval, clustered_mean

N_PEOPLE = 1024
OUT = Path("bench/results/world_ceiling.json")
Floats = NDArray[np.float64]
N_QUESTIONS = 16
N_CANDIDATES = 64
N_IDENTIFIED = 64
PROPOSALS = 512  # pairs offered to a person for each question they answer, in one draw


@dataclass(frozen=True)
class Ceiling:
    """Scores of the exact posterior after `n_pairs` choices, as means over people with 95 % intervals.

    judge: share of held-out choices predicted. cosine, r2: of the posterior mean to the true taste. best_of: how often
    the best of 64 random scenes, picked by the posterior mean, is truly worth more than a random one. top_5: a second
    set of choices names its person among 64.
    """

    n_pairs: int
    judge: Interval
    cosine: Interval
    r2: float
    best_of: Interval
    top_5: Interval


def draw_choices(
    rng: np.random.Generator, people: Population, settings: PeopleSettings, kinds: NDArray[np.integer], k: int
) -> tuple[Floats, Floats]:
    """`k` choices of each person on random pairs they have an opinion on: preferred, rejected features [N, k, 9]."""
    preferred, rejected = (np.empty((len(kinds), k, people.tastes.shape[1])) for _ in range(2))
    for i, kind in enumerate(kinds):
        first, second = sample_features(rng, PROPOSALS), sample_features(rng, PROPOSALS)
        gap = (first - second) @ people.tastes[kind]
        answered = np.flatnonzero(rng.random(PROPOSALS) < opinion_probability(gap, settings))[:k]
        if len(answered) < k:
            raise ValueError(
                f"{PROPOSALS} pairs left a person with {len(answered)} opinions of {k}: indifference is too high"
            )
        first, second, gap = first[answered], second[answered], gap[answered]
        wins = (rng.random(k) < preference_probability(gap, people.temperature[kind]))[:, None]
        preferred[i], rejected[i] = np.where(wins, first, second), np.where(wins, second, first)
    return preferred, rejected


def ceilings(settings: PeopleSettings, n_users: int, pair_counts: tuple[int, ...] = (1, 2, 4, 8)) -> list[Ceiling]:
    """The ceiling after each number of pairs, on `n_users` people of the evaluation stream (a multiple of 64)."""
    rng = seeds.rng("evaluation", "ceiling")
    people = population(settings)
    rate = opinion_rate(people, settings)
    kinds = rng.choice(len(people.prior), size=n_users, p=people.prior)
    tastes = people.tastes[kinds]
    preferred, rejected = draw_choices(rng, people, settings, kinds, 2 * max(pair_counts))
    better, other = draw_choices(rng, people, settings, kinds, N_QUESTIONS)
    swap = rng.random((n_users, N_QUESTIONS, 1)) < 0.5  # the preferred image is not always the first
    first, second = np.where(swap, other, better), np.where(swap, better, other)
    candidates = sample_features(rng, n_users * N_CANDIDATES).reshape(n_users, N_CANDIDATES, -1)
    random_utility = (sample_features(rng, n_users * 256).reshape(n_users, 256, -1) * tastes[:, None]).sum(-1)
    everyone = np.arange(n_users)
    table = []
    for k in pair_counts:
        belief = posterior(people, settings, rate, preferred[:, :k], rejected[:, :k])
        p = predict_choice(people, settings, belief[:, None], first, second)
        correct = np.where(swap[..., 0], p < 0.5, p > 0.5).mean(axis=1)
        mean = belief @ people.tastes
        cosine = (mean * tastes).sum(1) / (np.linalg.norm(mean, axis=1) * np.linalg.norm(tastes, axis=1))
        picked = candidates[everyone, (candidates @ mean[..., None])[..., 0].argmax(axis=1)]
        best = ((picked * tastes).sum(1)[:, None] > random_utility).mean(axis=1)
        prior_mean = people.prior @ people.tastes
        table.append(
            Ceiling(
                n_pairs=k,
                judge=clustered_mean(correct, everyone),
                cosine=clustered_mean(cosine, everyone),
                r2=float(1 - ((mean - tastes) ** 2).sum() / ((tastes - prior_mean) ** 2).sum()),
                best_of=clustered_mean(best, everyone),
                top_5=_identification(people, settings, rate, belief, preferred[:, -k:], rejected[:, -k:]),
            )
        )
    return table


def _identification(
    people: Population, settings: PeopleSettings, rate: Floats, belief: Floats, preferred: Floats, rejected: Floats
) -> Interval:
    """Which of 64 known people left this second set of choices? Exact: p(choices | what is known of each), top 5."""
    likelihood = np.exp(choice_log_likelihood(people, settings, rate, preferred, rejected).sum(axis=1))
    hits = []
    for start in range(0, len(belief) - N_IDENTIFIED + 1, N_IDENTIFIED):
        rows = slice(start, start + N_IDENTIFIED)
        scores = likelihood[rows] @ belief[rows].T
        hits.append((scores > np.diag(scores)[:, None]).sum(axis=1) < 5)
    found = np.concatenate(hits).astype(float)
    return clustered_mean(found, np.arange(len(found)))


def cell(value: Interval) -> str:
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def main() -> None:
    rows = ceilings(load_settings("params.yaml").people, N_PEOPLE)
    table = Table(
        "pairs", "judge", "cosine", "R²", "best of 64", "top 5 of 64", title=f"Exact Bayes, {N_PEOPLE} people"
    )
    for row in rows:
        table.add_row(
            str(row.n_pairs), cell(row.judge), cell(row.cosine), f"{row.r2:.3f}", cell(row.best_of), cell(row.top_5)
        )
    Console(width=140).print(table)
    write_json(OUT, [asdict(row) for row in rows])


if __name__ == "__main__":
    main()
