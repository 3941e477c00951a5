"""What the nano VLM makes of people that it was not trained on, beside the exact posterior of the same choices.

Everything goes through the library as a user would: encoded pictures in, verdicts, hidden states and text out. The
pairs that describe a person and those of the questions have different captions.
"""

import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ppd.pretrain.quality import Measure, share
from ppd.pretrain.vlm_users import PopulationCache, ScenePool, choose
from ppd.settings import EmbeddingSettings, JudgeSettings, PeopleSettings
from ppd.simulation import seeds
from ppd.simulation.posterior import predict_choice
from ppd.simulation.render import Atlas, render
from ppd.simulation.users import TRAITS
from ppd.simulation.world import CONCEPTS, caption, sample_scenes
from ppd.statistics.bootstrap import clustered_ratio
from ppd.users.support import Pair
from ppd.users.whitening import Whitening
from ppd.vlm.embedding import Embedded, embed
from ppd.vlm.judging import Verdict, VlmJudge
from ppd.vlm.prompts import Candidates
from ppd.vlm.transformers_backend import TransformersVlm

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PAIR_COUNTS = (1, 2, 4, 8)
N_QUESTIONS = 4
N_IDENTIFIED = 64
DESCRIBING = np.arange(0, len(CONCEPTS) - 8)  # captions that people are described with
QUESTIONED = np.arange(len(CONCEPTS) - 8, len(CONCEPTS))  # captions of the questions
SURE = 0.8
RIDGE = np.logspace(-4, 4, 17)


class Gallery:
    """Held-out scenes that are drawn and encoded (WebP, as in the log) when they are first shown."""

    def __init__(self, atlas: Atlas, rng: np.random.Generator, n: int) -> None:
        concepts = np.sort(np.tile(np.arange(len(CONCEPTS)), -(-n // len(CONCEPTS))))
        self.pool = ScenePool.of(sample_scenes(rng, len(concepts), concepts=concepts))
        self._atlas = atlas
        self._encoded: dict[int, bytes] = {}

    def show(self, rows: Ints) -> None:
        """Draw these scenes."""
        fresh = np.setdiff1d(rows, list(self._encoded))
        for row, pixels in zip(fresh.tolist(), render(self._atlas, self.pool.scenes[fresh]), strict=True):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "WEBP", quality=80)
            self._encoded[row] = buffer.getvalue()

    def _shown(self, rows: Ints) -> tuple[str, bytes, bytes]:
        one, other = rows.tolist()
        return caption(int(self.pool.scenes.concept[one])), self._encoded[one], self._encoded[other]

    def pairs(self, rows: Ints) -> list[Pair]:
        """[k, 2] preferred and rejected scenes -> k pairs."""
        return [Pair(*self._shown(row)) for row in rows]

    def candidates(self, rows: Ints) -> list[Candidates]:
        """[q, 2] -> q questions."""
        return [Candidates(*self._shown(row)) for row in rows]


def vlm_measures(vlm: TransformersVlm, atlas: Atlas, people: PeopleSettings, n: int) -> list[Measure]:
    """All figures, on `n` held-out people (rounded up to whole galleries of 64) and twice as many to fit probes on."""
    n = -(-n // N_IDENTIFIED) * N_IDENTIFIED
    cache = PopulationCache(people)
    rng = seeds.rng("evaluation", "vlm", "quality")
    gallery = Gallery(atlas, rng, 40 * n)
    pool = gallery.pool
    kinds, probe_kinds = cache.sample(rng, n), cache.sample(rng, 2 * n)
    pairs = choose(rng, cache, pool, kinds, max(PAIR_COUNTS), DESCRIBING)
    again = choose(rng, cache, pool, kinds, 4 + N_QUESTIONS, QUESTIONED)
    again, chosen = again[:, :4], again[:, 4:]
    questions = np.where(rng.random((n, N_QUESTIONS, 1)) < 0.5, chosen, chosen[..., ::-1])
    probe_pairs = choose(rng, cache, pool, probe_kinds, 4, DESCRIBING)
    for rows in (pairs, again, questions, probe_pairs):
        gallery.show(np.unique(rows))
    settings = EmbeddingSettings(rows=None, batch_size=vlm.batch_size)
    first, second, probe = (
        embed(vlm, [gallery.pairs(rows) for rows in group], settings) for group in (pairs[:, :4], again, probe_pairs)
    )
    return [
        *_judging(vlm, gallery, cache, pairs, questions, chosen[..., 0]),
        *_taste(cache, pool, probe, probe_kinds, second, again, kinds),
        *_identity(cache, pool, probe, probe_kinds, first, pairs[:, :4], second, again),
        *_profile(vlm, gallery, cache, kinds, pairs, settings),
    ]


def _judging(
    vlm: TransformersVlm, gallery: Gallery, cache: PopulationCache, pairs: Ints, questions: Ints, preferred: Ints
) -> Iterable[Measure]:
    """Accuracy against what people really chose. questions [N, Q, 2]; preferred [N, Q]: rows of the chosen scenes."""
    judge = VlmJudge(vlm, JudgeSettings(batch_size=vlm.batch_size))
    shown, beliefs = gallery.pool.features[questions], cache.beliefs(gallery.pool.features[pairs])
    right_first = questions[..., 0] == preferred
    hits: dict[int, NDArray[np.bool_]] = {}
    for k in PAIR_COUNTS:
        verdicts: list[list[Verdict]] = [
            judge(gallery.pairs(known[:k]), gallery.candidates(rows))
            for known, rows in zip(pairs, questions, strict=True)
        ]
        p_first = np.array([[verdict.p_a for verdict in row] for row in verdicts])
        exact = predict_choice(cache.people, cache.settings, beliefs[:, k, None], shown[:, :, 0], shown[:, :, 1])
        hits[k] = (p_first > 0.5) == right_first
        best = (exact > 0.5) == right_first
        yield _clustered(f"judge, {k} pairs", hits[k])
        yield _clustered(f"exact posterior, {k} pairs", best)
        yield _clustered(f"judge / exact, {k} pairs", hits[k], ">= 0.95" if k == 4 else "", over=best)
        if k == 4:
            same = np.array([[verdict.winner != "tie" for verdict in row] for row in verdicts])
            yield _clustered("same verdict when positions are swapped, 4 pairs", same, ">= 0.93")
    yield _clustered("judge, 8 pairs minus 4", hits[8].astype(float) - hits[4], "> 0")


def _taste(
    cache: PopulationCache,
    pool: ScenePool,
    probe: Embedded,
    probe_kinds: Ints,
    embedded: Embedded,
    pairs: Ints,
    kinds: Ints,
) -> Iterable[Measure]:
    """R² of a linear probe to the true taste: fitted on other people and other captions."""
    tastes = cache.people.tastes
    truth, belief = tastes[kinds], cache.beliefs(pool.features[pairs])[:, -1]
    guess = _linear_probe(probe, tastes[probe_kinds], embedded)
    spread = ((truth - cache.people.prior @ tastes) ** 2).sum(1)
    ours, exact = (spread - ((mean - truth) ** 2).sum(1) for mean in (guess, belief @ tastes))
    yield _clustered("embedding, R² to the true taste, 4 pairs", ours, over=spread)
    yield _clustered("posterior mean, R²", exact, over=spread)
    yield _clustered("embedding / posterior mean, R²", ours, ">= 0.7", over=exact)


def _linear_probe(probe: Embedded, targets: Floats, embedded: Embedded) -> Floats:
    """Ridge regression from the last row, its penalty chosen on a quarter of the probe's own people."""
    whitening = Whitening.fit(probe.hidden[:, -1:])
    x, z = (whitening(e.hidden[:, -1:])[:, 0].double().numpy() for e in (probe, embedded))
    centre = targets.mean(0)
    y, cut = targets - centre, 3 * len(x) // 4

    def fit(x: Floats, y: Floats, penalty: float) -> Floats:
        return np.asarray(np.linalg.solve(x.T @ x + penalty * len(x) * np.eye(x.shape[1]), x.T @ y))

    losses = [((x[cut:] @ fit(x[:cut], y[:cut], penalty) - y[cut:]) ** 2).sum() for penalty in RIDGE]
    return np.asarray(centre + z @ fit(x, y, RIDGE[int(np.argmin(losses))]))


def _identity(
    cache: PopulationCache,
    pool: ScenePool,
    probe: Embedded,
    probe_kinds: Ints,
    known: Embedded,
    known_pairs: Ints,
    unknown: Embedded,
    unknown_pairs: Ints,
) -> Iterable[Measure]:
    """Whose is this second embedding, of other captions? Top 5 among 64 people who are each known by one embedding."""
    tastes = cache.people.tastes[probe_kinds]
    plain = Whitening.fit(probe.hidden[:, -1:])
    by_cosine = [_unit(plain(e.hidden[:, -1:])[:, 0].numpy()) for e in (known, unknown)]
    by_taste = [_unit(_linear_probe(probe, tastes, e)) for e in (known, unknown)]
    before, after = (cache.beliefs(pool.features[pairs])[:, -1] for pairs in (known_pairs, unknown_pairs))
    likelihood = after / cache.people.prior
    ours, plainly, best = (_top_5(*both) for both in (by_taste, by_cosine, (before, likelihood)))
    yield share(f"top 5 of {N_IDENTIFIED}: embedding, linear readout", ours)
    yield share(f"top 5 of {N_IDENTIFIED}: embedding, whitened cosine", plainly)
    yield share(f"top 5 of {N_IDENTIFIED}: exact posterior", best)
    yield _clustered("top 5: linear readout / exact", ours, ">= 0.7", over=best)


def _unit(x: Floats) -> Floats:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def _top_5(known: Floats, unknown: Floats) -> NDArray[np.bool_]:
    """Row i of both is one person; score = inner product. Are they among the five best of their gallery? [N]"""
    galleries = [slice(i, i + N_IDENTIFIED) for i in range(0, len(known), N_IDENTIFIED)]
    scores = [unknown[rows] @ known[rows].T for rows in galleries]
    return np.concatenate([(score > np.diag(score)[:, None]).sum(axis=1) < 5 for score in scores])


def _profile(
    vlm: TransformersVlm,
    gallery: Gallery,
    cache: PopulationCache,
    kinds: Ints,
    pairs: Ints,
    settings: EmbeddingSettings,
) -> Iterable[Measure]:
    """Does the written profile name the strongest trait, where the exact posterior is sure of it?"""
    strongest = np.eye(len(TRAITS))[cache.people.strongest]
    beliefs = cache.beliefs(gallery.pool.features[pairs])
    for k in (4, 8):
        certainty = (beliefs[:, k] @ strongest).max(axis=1)
        sure = np.flatnonzero(certainty >= SURE)
        profiles = embed(vlm, [gallery.pairs(pairs[i, :k]) for i in sure], settings).profiles
        names = [TRAITS[cache.people.strongest[kind]] for kind in kinds[sure]]
        hits = np.array([name in profile for name, profile in zip(names, profiles, strict=True)])
        yield share(f"profile names the strongest trait, {k} pairs, posterior sure", hits, ">= 0.6" if k == 4 else "")
        if k == 4:
            begins = [profile.startswith(f"likes {name}") for name, profile in zip(names, profiles, strict=True)]
            yield share("profile names it first, 4 pairs", np.array(begins))
            exact = (beliefs[sure, k] @ strongest).argmax(axis=1) == cache.people.strongest[kinds[sure]]
            yield share("exact posterior's strongest trait is right, 4 pairs", exact)


def _clustered(
    name: str, values: NDArray[np.generic], wanted: str = "", *, over: NDArray[np.generic] | None = None
) -> Measure:
    """The mean of [N, ...], or its ratio to the mean of `over`, with an interval that resamples people (N)."""
    people = np.repeat(np.arange(len(values)), values[0].size)
    below = np.ones(values.size) if over is None else over.astype(float).reshape(-1)
    found = clustered_ratio(values.astype(float).reshape(-1), below, people)
    return Measure(name, found.mean, found.low, found.high, values.size, wanted)
