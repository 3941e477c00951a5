"""A log of choices by simulated people, in the schema of Pick-a-Pic v2, and the truth behind it in files of its own.

People use an app: they name a subject, see two stickers of it, and choose, call it a tie, or move on. Now and then the
winner stays beside a new picture. Like a real log it holds some dirt: rows sent twice, broken images, rounds left
without a label, people who gave up after a few rounds.
"""

import io
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ppd.files import atomic_path
from ppd.preferences.inspection import digest
from ppd.preferences.schema import PICK_A_PIC
from ppd.settings import LogSettings, PeopleSettings
from ppd.simulation import seeds
from ppd.simulation.render import Atlas, render
from ppd.simulation.users import TRAITS, Population, opinion_probability, population, preference_probability
from ppd.simulation.world import CONCEPTS, FACTORS, FEATURES, Scenes, caption, sample_scenes, scene_features

N_FILES = 4
FIRST_DAY = datetime(2026, 1, 1)


@dataclass
class _Log:
    """Rows and images as they come; images are drawn once at the end."""

    rows: list[dict[str, object]] = field(default_factory=list)
    uids: list[str] = field(default_factory=list)
    scenes: list[Scenes] = field(default_factory=list)

    def add_image(self, rng: np.random.Generator, scene: Scenes) -> int:
        self.uids.append(rng.bytes(16).hex())
        self.scenes.append(scene)
        return len(self.uids) - 1


def _simulate_user(
    log: _Log,
    rng: np.random.Generator,
    settings: LogSettings,
    people: PeopleSettings,
    taste: np.ndarray,
    temperature: float,
    user_id: int,
    n_rows: int,
) -> None:
    """Let one user use the app until they left `n_rows` rows."""
    timestamp = FIRST_DAY + timedelta(minutes=float(rng.uniform(0, 60 * 24 * 180)))
    kept: int | None = None
    done = 0
    while done < n_rows:
        concept = log.scenes[kept].concept if kept is not None else rng.integers(len(CONCEPTS), size=1)
        pair = sample_scenes(rng, 2, concepts=np.repeat(concept, 2))
        if kept is not None:
            pair = Scenes.concatenate([log.scenes[kept], pair[1:]])
        swap = bool(rng.random() < 0.5)
        pair = pair[::-1] if swap else pair
        gap = float(np.diff(scene_features(pair)[::-1] @ taste)[0])
        opinion = rng.random() < opinion_probability(np.array(gap), people)
        if not opinion and rng.random() > settings.tie_rate:
            kept = None
            continue
        images = [
            kept if kept is not None and position == int(swap) else log.add_image(rng, pair[position : position + 1])
            for position in (0, 1)
        ]
        labelled = rng.random() > settings.unlabelled_share
        first = bool(rng.random() < preference_probability(np.array(gap), temperature))
        label_0 = 0.5 if not opinion else float(first)
        timestamp += timedelta(seconds=float(rng.uniform(4, 40)))
        winner = images[0] if first else images[1]
        log.rows.append(
            {
                "caption": caption(int(pair.concept[0])),
                "created_at": timestamp,
                "has_label": labelled,
                "are_different": True,
                "images": images,
                "label_0": label_0 if labelled else None,
                "best_image_uid": None if not labelled else "tie" if not opinion else log.uids[winner],
                "user_id": user_id,
            }
        )
        done += 1
        kept = winner if opinion and labelled and rng.random() < settings.kept_winner_share else None


def _encode(pixels: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=quality, method=6)  # half of JPEG at the same error
    return buffer.getvalue()


def _corrupt(rng: np.random.Generator, settings: LogSettings, rows: list[dict[str, object]], jpgs: list[bytes]) -> None:
    """Break some images and send some rows twice, in place."""
    for broken in rng.choice(len(jpgs), size=round(len(jpgs) * settings.broken_image_share), replace=False):
        jpgs[broken] = jpgs[broken][: len(jpgs[broken]) // 3]
    for i, row in enumerate(rows):
        row["ranking_id"] = i
    for twice in np.sort(rng.choice(len(rows), size=round(len(rows) * settings.duplicate_share), replace=False))[::-1]:
        rows.insert(int(twice) + 1, dict(rows[int(twice)]))


def _pick_a_pic_table(rows: list[dict[str, object]], uids: list[str], jpgs: list[bytes]) -> pa.Table:
    columns: dict[str, list[object]] = {name: [row.get(name) for row in rows] for name in PICK_A_PIC.names}
    for position in (0, 1):
        images = [row["images"][position] for row in rows]  # type: ignore[index]
        columns[f"image_{position}_uid"] = [uids[i] for i in images]
        columns[f"image_{position}_url"] = [f"stickers://{uids[i]}" for i in images]
        columns[f"jpg_{position}"] = [jpgs[i] for i in images]
        columns[f"model_{position}"] = ["sticker world"] * len(rows)
    columns["label_1"] = [None if x is None else 1 - x for x in columns["label_0"]]  # type: ignore[operator]
    columns["num_example_per_prompt"] = [1] * len(rows)
    columns["__index_level_0__"] = list(range(len(rows)))
    return pa.table(columns, schema=PICK_A_PIC)


def simulate(settings: LogSettings, people: PeopleSettings, atlas: Atlas, choices: Path, truth: Path) -> None:
    """Write the log to `choices` (parquet shards) and what only evaluation may know to `truth`.

    truth/people.parquet: user_id, temperature, strongest (name of the trait), and the utility per unit of each feature.
    truth/images.parquet: image_uid, digest of its bytes, and the scene it shows. Deterministic in the settings.
    """
    everyone: Population = population(people)
    rng = seeds.rng("log", settings.seed)
    n_given_up = round(settings.n_users * settings.given_up_share)
    who = rng.choice(len(everyone.prior), size=settings.n_users + n_given_up, p=everyone.prior)
    user_ids = rng.choice(10**6, size=len(who), replace=False)
    n_rows = rng.integers(*settings.rows_per_user, size=len(who), endpoint=True)
    n_rows[settings.n_users :] = rng.integers(1, 4, size=n_given_up)
    log = _Log()
    for kind, user_id, n in zip(who, user_ids, n_rows, strict=True):
        _simulate_user(
            log, rng, settings, people, everyone.tastes[kind], everyone.temperature[kind], int(user_id), int(n)
        )
    log.rows.sort(key=lambda row: (row["created_at"], row["user_id"]))
    scenes = Scenes.concatenate(log.scenes)
    jpgs = [_encode(pixels, settings.image_quality) for pixels in render(atlas, scenes)]
    _corrupt(rng, settings, log.rows, jpgs)
    with atomic_path(choices) as folder:
        folder.mkdir()
        for k, part in enumerate(np.array_split(np.arange(len(log.rows)), N_FILES)):
            table = _pick_a_pic_table([log.rows[i] for i in part], log.uids, jpgs)
            file = folder / f"train-{k:05d}-of-{N_FILES:05d}.parquet"
            pq.write_table(table, file, compression="zstd", row_group_size=4096)
    with atomic_path(truth) as folder:
        folder.mkdir()
        tastes = dict(zip(FEATURES, everyone.tastes[who].T, strict=True))
        strongest = [TRAITS[t] for t in everyone.strongest[who]]
        ids = pa.array([str(u) for u in user_ids])
        users = {"user_id": ids, "temperature": everyone.temperature[who], "strongest": strongest, **tastes}
        pq.write_table(pa.table(users), folder / "people.parquet")
        shown = dict(zip((factor.name for factor in FACTORS), scenes.factors.T, strict=True))
        images = {"image_uid": log.uids, "concept": scenes.concept, "style": scenes.style, **shown, "seed": scenes.seed}
        images["digest"] = [digest(jpg) for jpg in jpgs]  # by which the truth knows its images again under other names
        pq.write_table(pa.table(images), folder / "images.parquet")
