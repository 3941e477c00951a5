import numpy as np
import pytest

from ppd.simulation.render import SUBJECT_PX, Atlas, render
from ppd.simulation.world import CONCEPTS, FACTORS, STYLES, Scenes, caption, sample_features, sample_scenes


def scene(style: int = 0, concept: int = 0, seed: int = 1, **factors: float) -> Scenes:
    values = np.array([[factors.get(f.name, 0.6) for f in FACTORS]])
    return Scenes(np.array([concept]), np.array([style]), values, np.array([seed]))


def test_a_scene_is_drawn_the_same_alone_and_in_a_batch(atlas: Atlas) -> None:
    scenes = sample_scenes(np.random.default_rng(0), 50)
    together = render(atlas, scenes)
    alone = np.concatenate([render(atlas, scenes[i : i + 1]) for i in range(50)])
    np.testing.assert_array_equal(together, alone)


def test_captions_never_mention_what_is_free() -> None:
    words = {word for i in range(len(CONCEPTS)) for word in caption(i).split()}
    free = {*STYLES, *(w for f in FACTORS for w in (f.low, f.high, f.noun))}
    assert not words & free
    assert len({caption(i) for i in range(len(CONCEPTS))}) == len(CONCEPTS)


def test_every_factor_shows_in_the_picture_as_named(atlas: Atlas) -> None:
    def corner(**factors: float) -> np.ndarray:
        return render(atlas, scene(pattern=1.0, **factors))[0, :2, :2].astype(float).mean(axis=(0, 1))

    assert corner(lightness=0.9).mean() > corner(lightness=-0.9).mean() + 60
    warm, cool = corner(warmth=0.9), corner(warmth=-0.9)
    assert warm[0] > warm[2]
    assert cool[2] > cool[0]
    assert np.ptp(corner(saturation=0.9)) > np.ptp(corner(saturation=-0.9)) + 40

    def ink(**factors: float) -> int:
        drawing = render(atlas, scene(style=STYLES.index("ink"), lightness=1.0, **factors))[0]
        return int((drawing < 60).all(axis=-1).sum())

    assert ink(size=1.0) > 1.5 * ink(size=-1.0)
    dots, ring = (render(atlas, scene(pattern=p, size=-1.0))[0].astype(int) for p in (-1.0, 1.0))
    assert np.abs(dots[8, 8] - ring[8, 8]).max() > 30, "a dot, where the ring leaves the ground"
    assert np.abs(dots[32, 3] - ring[32, 3]).max() > 30, "the ring, where there is no dot"


def test_styles_differ_strongly(atlas: Atlas) -> None:
    drawn = np.concatenate([render(atlas, scene(style=s, size=1.0)) for s in range(len(STYLES))]).astype(float)
    for a in range(len(STYLES)):
        for b in range(a):
            assert np.abs(drawn[a] - drawn[b])[16:48, 16:48].mean() > 15


def test_features_are_centred_and_of_unit_variance() -> None:
    looks = sample_features(np.random.default_rng(1), 200_000)
    np.testing.assert_allclose(looks.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(looks.std(axis=0), 1, atol=0.02)


@pytest.mark.parametrize("size", [-1.0, 1.0])
def test_the_subject_stays_inside_the_picture(atlas: Atlas, size: float) -> None:
    plain = render(atlas, scene(style=STYLES.index("ink"), size=size))[0]
    border = np.concatenate([plain[:3].reshape(-1, 3), plain[-3:].reshape(-1, 3)])
    assert (border > 60).any(axis=-1).all()
    assert max(SUBJECT_PX) < 60
