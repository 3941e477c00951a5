"""The recipe of the nano VLM: its lessons are exact, packing changes nothing, and a short run does all of it."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ppd.pretrain.loop import LoopSettings
from ppd.pretrain.vlm import VlmSettings, train_vlm
from ppd.pretrain.vlm_architecture import ArchitectureSettings, build_model, build_processor
from ppd.pretrain.vlm_packing import layout
from ppd.pretrain.vlm_pictures import RenderCache, Sight, see
from ppd.pretrain.vlm_questions import Reader, answers_of, read
from ppd.pretrain.vlm_users import PopulationCache, ScenePool, choose, sample_batch
from ppd.settings import PeopleSettings
from ppd.simulation import seeds
from ppd.simulation.posterior import posterior, predict_choice
from ppd.simulation.users import TRAITS, preference_probability
from ppd.simulation.world import caption, sample_scenes
from ppd.users.embeddings import VlmRef
from ppd.users.support import Pair
from ppd.vlm.prompts import ANSWERS, Candidates, judge_conversation, profile_conversation
from ppd.vlm.transformers_backend import TransformersVlm

TINY = ArchitectureSettings(vision_width=16, vision_layers=1, width=32, layers=3, heads=2)


@pytest.fixture(scope="module")
def cache():
    return PopulationCache(PeopleSettings())


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    return ScenePool.of(sample_scenes(rng, 3200, concepts=np.repeat(np.arange(32), 100)))


@pytest.fixture(scope="module")
def batch(cache, pool):
    return sample_batch(np.random.default_rng(1), cache, pool, 200, 8, np.array([2, 8]))


def test_what_is_taught_is_the_exact_posterior(cache, pool, batch):
    people, settings = cache.people, cache.settings
    for k in (0, 1, 5, 8):
        shown = pool.features[batch.pairs[:, :k]]
        belief = posterior(people, settings, cache.rate, shown[:, :, 0], shown[:, :, 1])
        np.testing.assert_allclose(batch.taste[:, k], belief @ people.tastes, atol=1e-9)
        strongest = belief @ np.eye(len(TRAITS))[people.strongest]
        np.testing.assert_allclose(batch.profile[:, k].sum(-1), strongest, atol=1e-9)
        for question, known in enumerate(batch.questions_after):
            if known == k:
                asked = pool.features[batch.questions[:, question]]
                expected = predict_choice(people, settings, belief, asked[:, 0], asked[:, 1])
                np.testing.assert_allclose(batch.answers[:, question], expected, atol=1e-9)


def test_profiles_name_the_traits_that_the_taste_is_made_of(cache):
    second = cache.profiles[:, 1]
    n_traits = (cache.people.tastes != 0).sum(axis=1)
    assert ((second == len(TRAITS)) == (n_traits == 1)).all()
    assert (cache.profiles[:, 0] == cache.people.strongest).all()
    assert (second != cache.profiles[:, 0]).all()


def test_people_choose_as_bradley_terry_says(cache, pool):
    kinds = np.full(400, int(np.argmax(cache.people.tastes[:, 0] * (cache.people.temperature > 2))))
    chosen = choose(np.random.default_rng(2), cache, pool, kinds, 8)
    gap = (pool.features[chosen[..., 0]] - pool.features[chosen[..., 1]]) @ cache.people.tastes[kinds[0]]
    expected = preference_probability(np.abs(gap), cache.people.temperature[kinds[0]])
    assert (gap > 0).mean() == pytest.approx(expected.mean(), abs=4 * 0.5 / gap.size**0.5)
    concepts = pool.scenes.concept[chosen]
    assert (concepts[..., 0] == concepts[..., 1]).all()
    assert (chosen[..., 0] != chosen[..., 1]).all()


def test_training_and_evaluation_share_no_scene_and_no_sequence_of_people(cache):
    one, other = (sample_scenes(seeds.rng(purpose, "vlm", "shelf", 0), 2000) for purpose in ("pretrain", "evaluation"))
    assert not set(one.seed) & set(other.seed)
    assert not {tuple(f) for f in one.factors} & {tuple(f) for f in other.factors}
    people = [cache.sample(seeds.rng("pretrain", "vlm", "people", 0, step), 200) for step in (0, 1)]
    people += [cache.sample(seeds.rng("evaluation", "vlm", name), 200) for name in ("exam", "quality")]
    assert len({tuple(kinds) for kinds in people}) == len(people)


def test_a_packed_question_is_the_plain_conversation(atlas, cache):
    torch.manual_seed(0)
    processor = build_processor(TINY)
    model = build_model(TINY, processor.tokenizer)
    for parameter in model.parameters():
        parameter.data.mul_(3)
    sight, reader = Sight(model).eval(), Reader(model, processor.tokenizer).eval()
    vlm = TransformersVlm(model, processor, ref=VlmRef("in memory", ""), batch_size=64)
    render_cache = RenderCache(atlas, np.random.default_rng(0), 400)
    pool, sights = ScenePool.of(render_cache.scenes), see(sight, render_cache, torch.device("cpu"))[:, 0]
    plan = layout(4, (1, 4, 2), (3,))
    packed = sample_batch(np.random.default_rng(3), cache, pool, 5, 4, np.array(plan.questions_after))
    with torch.no_grad():
        hidden = read(reader, packed, plan, pool, sights, bf16=False)
    odds = answers_of(reader, hidden, plan)

    def png(row: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(render_cache.pixels[row]).save(buffer, "PNG")
        return buffer.getvalue()

    def told(rows):
        return caption(int(render_cache.scenes.concept[rows[0]])), png(rows[0]), png(rows[1])

    for person in range(5):
        pairs = [Pair(*told(rows)) for rows in packed.pairs[person].tolist()]
        for question, known in enumerate(plan.questions_after):
            candidates = Candidates(*told(packed.questions[person, question].tolist()))
            conversation = judge_conversation(pairs[:known], candidates, "short-1")
            plain = vlm.answer_probabilities([conversation], ANSWERS)[0].log()
            assert float(odds[person, question]) == pytest.approx(float(plain[0] - plain[1]), abs=2e-4)
        (plain_hidden,) = vlm.hidden_at_end([profile_conversation(pairs[:3], "short-1")])
        packed_hidden = torch.stack([layer[person, plan.profiles[0]] for layer in hidden])
        torch.testing.assert_close(packed_hidden, plain_hidden, atol=2e-4, rtol=0)


def test_a_branch_sees_no_later_pair_and_no_other_branch():
    plan = layout(3, (1, 3), (2,))
    reachable = plan.mask.float().matrix_power(4) > 0  # through any number of layers
    second_pair, third_pair = plan.rejected[1], plan.rejected[2]
    assert not reachable[plan.answers[0], second_pair]
    assert reachable[plan.answers[1], third_pair]
    assert reachable[plan.profiles[0], second_pair]
    assert not reachable[plan.profiles[0], third_pair]
    assert not reachable[plan.answers[1], plan.answers[0]]
    assert not reachable[plan.profiles[0], plan.answers[1]]


def recipe(steps: int, record_every_steps: int = 5) -> VlmSettings:
    """A hundredth of the recipe, on a smaller model."""
    loop = LoopSettings(
        steps=steps,
        batch_size=16,
        learning_rate=2e-3,
        warmup_steps=2,
        decay_share=0,
        record_every_steps=record_every_steps,
        checkpoint_every_s=0,
    )
    return VlmSettings(
        architecture=TINY, render_cache_size=640, held_out_pictures=64, held_out_people=8, sight=loop, judgement=loop
    )


@pytest.mark.slow
def test_a_short_run_leaves_a_model_that_embeds_judges_and_writes(atlas, tmp_path):
    train_vlm(atlas, recipe(20), tmp_path / "vlm", tmp_path / "work", torch.device("cpu"))
    curve = [float(line.split(",")[1]) for line in (tmp_path / "vlm" / "loss_curve.csv").read_text().splitlines()[1:]]
    assert curve[-1] < 0.9 * curve[0]
    vlm = TransformersVlm.load(tmp_path / "vlm")
    render_cache = RenderCache(atlas, np.random.default_rng(0), 64)
    images = []
    for pixels in render_cache.pixels[:4]:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        images.append(buffer.getvalue())
    pairs = [Pair(caption(0), images[0], images[1])]
    conversation = judge_conversation(pairs, Candidates(caption(1), images[2], images[3]), "short-1")
    assert vlm.answer_probabilities([conversation], ANSWERS).sum().item() == pytest.approx(1)
    assert vlm.hidden_at_end([profile_conversation(pairs, "short-1")]).shape == (1, 4, 32)
    names = {path.name for path in (tmp_path / "vlm").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "settings.json", "loss_curve.png"} <= names


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_as_if_it_had_not(atlas, tmp_path):
    whole = recipe(4, record_every_steps=2)
    half = whole.model_copy(update={"judgement": whole.judgement.model_copy(update={"steps": 2})})
    train_vlm(atlas, whole, tmp_path / "a", tmp_path / "whole", torch.device("cpu"))
    train_vlm(atlas, half, tmp_path / "b", tmp_path / "parts", torch.device("cpu"))
    train_vlm(atlas, whole, tmp_path / "b", tmp_path / "parts", torch.device("cpu"))
    one, other = (TransformersVlm.load(tmp_path / name).model.state_dict() for name in ("a", "b"))
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name
