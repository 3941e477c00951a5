import math
import warnings

import numpy as np
import pytest
import torch
from diffusers import DDPMWuerstchenScheduler, StableCascadePriorPipeline
from torch import Tensor

from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.process import RectifiedFlow
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.sampling.sampler import Request, interpolate, n_forwards, sample, sample_latents
from ppd.errors import InputError
from ppd.seeding import generator
from ppd.settings import SamplingSettings, UserAttentionSettings

ROWS, DIM = 2, 6
SETTINGS = SamplingSettings(
    precision="fp32",
    steps=4,
    latent_size=(4, 4),
    batch_size=4,
    sampler="ddim",
    spacing=1.0,
    text_guidance=1.5,
    text_interval=(0.0, 1.0),
    user_guidance=1.0,
    user_interval=(0.0, 1.0),
)
FOX, TREE = "a sticker of a fox", "a sticker of a tree"


@pytest.fixture
def adapter(backbone: StableCascadeBackbone) -> UserAttention:
    torch.manual_seed(5)
    adapter = UserAttention.beside(backbone, (ROWS, DIM), UserAttentionSettings(tokens_per_row=2, token_dim=5))
    for block in adapter.blocks.values():
        torch.nn.init.normal_(block.to_v.weight)
    adapter.attach(backbone)
    return adapter


def user(i: int) -> torch.Tensor:
    return torch.randn(ROWS, DIM, generator=generator("person", i))


def draw(backbone: StableCascadeBackbone, requests: list[Request], adapter: UserAttention | None, **changes: object):
    settings = SETTINGS.model_copy(update=changes)
    return list(sample(backbone, requests, settings, adapter))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_no_user_is_diffusers_own_pipeline_bit_for_bit(
    backbone: StableCascadeBackbone, adapter: UserAttention, guidance: float
) -> None:
    """With the adapter attached and trained, and nobody to draw for."""
    captions, seeds = [FOX, TREE, "a cat"], [3, 4, 5]
    settings = SETTINGS.model_copy(update={"sampler": "ddpm", "text_guidance": guidance})
    requests = [Request(caption, seed) for caption, seed in zip(captions, seeds, strict=True)]
    text, empty = backbone.encode_captions(captions), backbone.encode_captions([""] * 3)
    ours = sample_latents(backbone, requests, text, empty, settings, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = StableCascadePriorPipeline(
            backbone.tokenizer, backbone.text_encoder, backbone.unet, DDPMWuerstchenScheduler()
        )
    pipeline.set_progress_bar_config(disable=True)
    randoms = [generator("sample", caption, seed) for caption, seed in zip(captions, seeds, strict=True)]
    theirs = pipeline(
        captions,
        height=4 * 42,
        width=4 * 42,
        num_inference_steps=settings.steps,
        guidance_scale=guidance,
        generator=randoms,
        latents=torch.stack([torch.randn(4, 4, 4, generator=random) for random in randoms]),
    ).image_embeddings
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("sampler", ["ddim", "stochastic"])
def test_an_image_depends_on_its_request_alone(
    backbone: StableCascadeBackbone, adapter: UserAttention, sampler: str
) -> None:
    """Not on the rest of the batch, its order, or where a shard is cut: to the last bit of every pixel."""
    requests = [Request(caption, seed, user(i)) for i in range(2) for caption in (FOX, TREE) for seed in (0, 1)]
    requests.append(Request(FOX, 0))
    together = draw(backbone, requests, adapter, sampler=sampler)
    backwards = draw(backbone, requests[::-1], adapter, sampler=sampler)[::-1]
    alone = [draw(backbone, [request], adapter, sampler=sampler)[0] for request in requests]
    for a, b, c in zip(together, backwards, alone, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, c)
    assert len({image.tobytes() for image in together}) == len(requests)


def test_two_people_start_from_the_same_noise(backbone: StableCascadeBackbone, adapter: UserAttention) -> None:
    requests = [Request(FOX, 0, user(0)), Request(FOX, 0, user(1)), Request(FOX, 0)]
    at_zero_strength = draw(backbone, requests, adapter, user_guidance=0.0)
    assert np.array_equal(at_zero_strength[0], at_zero_strength[1])
    assert np.array_equal(at_zero_strength[0], at_zero_strength[2])
    base = draw(backbone, requests[2:], None)[0]
    assert np.abs(at_zero_strength[0].astype(int) - base).max() <= 1


def test_user_strength_extrapolates_in_the_predicted_noise(
    backbone: StableCascadeBackbone, adapter: UserAttention
) -> None:
    """One step from the same noise is affine in the guided ε, so it must be affine in both strengths."""
    request = [Request(FOX, 0, user(0))]
    text, empty = backbone.encode_captions([FOX]), backbone.encode_captions([""])

    def one_step(s_c: float, s_u: float) -> torch.Tensor:
        settings = SETTINGS.model_copy(update={"steps": 1, "text_guidance": s_c, "user_guidance": s_u})
        return sample_latents(backbone, request, text, empty, settings, adapter).double()

    base, shift = one_step(1, 0), one_step(1, 1) - one_step(1, 0)
    text_shift = one_step(2, 0) - base
    assert shift.norm() > 1e-2 * base.norm()
    for s_c, s_u in [(1, 2), (1, 0.5), (3, 1), (3, 3), (2, 4), (0, 1)]:
        expected = base + (s_c - 1) * text_shift + s_u * shift
        torch.testing.assert_close(one_step(s_c, s_u), expected, rtol=1e-3, atol=1e-3 * base.abs().max().item())


def test_the_user_acts_inside_the_interval_alone(
    backbone: StableCascadeBackbone, adapter: UserAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole: as without one, bit for bit. Empty: the base, bit for bit. Between: fewer forwards, another image."""
    rows: list[int] = []
    predict = backbone.predict

    def counted(x: Tensor, *rest: object) -> Tensor:
        rows.append(len(x) // SETTINGS.batch_size)
        return predict(x, *rest)

    monkeypatch.setattr(backbone, "predict", counted)
    requests = [Request(FOX, 0, user(0)), Request(TREE, 1, user(1)), Request(FOX, 2)]
    text, empty = backbone.encode_captions([FOX, TREE, FOX, FOX]), backbone.encode_captions([""])

    def latents(interval: tuple[float, float], adapter: UserAttention | None = adapter) -> tuple[Tensor, list[int]]:
        rows.clear()
        settings = SETTINGS.model_copy(update={"user_interval": interval})
        asked = [*requests, requests[0]]
        if adapter is None:
            asked = [Request(request.caption, request.seed) for request in asked]
        return sample_latents(backbone, asked, text, empty, settings, adapter), list(rows)

    whole, empty_interval, upper = latents((0.0, 1.0)), latents((0.6, 0.6)), latents((0.5, 1.0))
    base = latents((0.0, 1.0), None)
    assert torch.equal(empty_interval[0], base[0])
    assert not torch.equal(whole[0][:2], base[0][:2])
    assert (whole[1], empty_interval[1], base[1]) == ([3] * 4, [2] * 4, [2] * 4)
    assert upper[1] == [3, 3, 2, 2], "t = 1, .75, .5, .25, and .5 is not above .5"
    for (_, counted_rows), interval in ((whole, (0.0, 1.0)), (empty_interval, (0.6, 0.6)), (upper, (0.5, 1.0))):
        settings = SETTINGS.model_copy(update={"user_interval": interval})
        assert n_forwards(backbone.process, settings, for_user=True) == sum(counted_rows)
    assert n_forwards(backbone.process, SETTINGS, for_user=False) == sum(base[1])
    assert not torch.equal(upper[0][:2], whole[0][:2])
    assert not torch.equal(upper[0][:2], base[0][:2])


def test_text_guidance_acts_inside_its_interval_alone(
    backbone: StableCascadeBackbone, adapter: UserAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty: as at strength 1, bit for bit. Between: two forwards inside and one outside; three and two for a user."""
    rows: list[int] = []
    predict = backbone.predict

    def counted(x: Tensor, *rest: object) -> Tensor:
        rows.append(len(x) // SETTINGS.batch_size)
        return predict(x, *rest)

    monkeypatch.setattr(backbone, "predict", counted)
    text, empty = backbone.encode_captions([FOX, TREE, FOX, FOX]), backbone.encode_captions([""])

    def latents(person: Tensor | None, **changes: object) -> tuple[Tensor, list[int]]:
        rows.clear()
        settings = SETTINGS.model_copy(update={"text_guidance": 3.0, "user_guidance": 2.0} | changes)
        asked = [Request(caption, seed, person) for seed, caption in enumerate([FOX, TREE, FOX, FOX])]
        drawn = sample_latents(backbone, asked, text, empty, settings, None if person is None else adapter)
        assert n_forwards(backbone.process, settings, for_user=person is not None) == sum(rows)
        return drawn, list(rows)

    nowhere, plain = latents(None, text_interval=(0.6, 0.6)), latents(None, text_guidance=1.0)
    assert torch.equal(nowhere[0], plain[0])
    assert nowhere[1] == plain[1] == [1] * 4
    low, whole = latents(None, text_interval=(0.0, 0.75)), latents(None)
    assert low[1] == [1, 2, 2, 2], "t = 1, .75, .5, .25"
    assert not torch.equal(low[0], whole[0])
    assert latents(user(0), text_interval=(0.0, 0.75))[1] == [2, 3, 3, 3]
    assert latents(user(0), text_interval=(0.0, 0.75), user_interval=(0.5, 1.0))[1] == [2, 3, 2, 2]


def test_the_forwards_of_a_flow_are_counted_at_the_noise_levels_of_its_size() -> None:
    """Larger latents are shifted towards noise, where the user acts: by hand, σ' = e^μ·σ/(e^μ·σ + 1 − σ)."""
    process = RectifiedFlow({"use_dynamic_shifting": True})
    settings = SETTINGS.model_copy(update={"sampler": "euler", "steps": 8, "user_interval": (0.6, 1.0)})
    for size, mu in (((32, 32), 0.5), ((128, 128), 1.15)):
        sigma = torch.linspace(1, 1 / 8, 8)
        acts = (math.exp(mu) * sigma / (math.exp(mu) * sigma + 1 - sigma) > 0.6).sum().item()
        of_size = settings.model_copy(update={"latent_size": size})
        assert n_forwards(process, of_size, for_user=True) == 3 * acts + 2 * (8 - acts)
        assert n_forwards(process, of_size, for_user=False) == 2 * 8


def test_pixels_are_rounded_to_bytes_of_height_width_and_colour(
    backbone: StableCascadeBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.linspace(0, 1, 24).reshape(1, 3, 2, 4)
    monkeypatch.setattr(backbone, "decode_latents", lambda latents, *_: values.repeat(len(latents), 1, 1, 1))
    (image,) = draw(backbone, [Request(FOX, 0)], None)
    assert image.dtype == np.uint8
    assert np.array_equal(image, np.rint(np.linspace(0, 255, 24)).reshape(3, 2, 4).transpose(1, 2, 0))


def test_an_image_that_is_no_number_is_named(backbone: StableCascadeBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    predict = backbone.predict

    def broken(x: Tensor, *rest: object) -> Tensor:
        output = predict(x, *rest)
        output[1, 0, 0, 0] = torch.nan
        return output

    monkeypatch.setattr(backbone, "predict", broken)
    with pytest.raises(InputError, match=rf"caption '{TREE}', seed 7 is no number after 4 steps"):
        draw(backbone, [Request(FOX, 0), Request(TREE, 7), Request(FOX, 1)], None)


def test_interpolation_goes_from_one_person_to_the_other(
    backbone: StableCascadeBackbone, adapter: UserAttention
) -> None:
    a, b = user(0), user(1)
    path = interpolate(a, b, 5)
    torch.testing.assert_close(path[1], 0.75 * a + 0.25 * b)
    strip = draw(backbone, [Request(FOX, 0, u) for u in path], adapter)
    ends = draw(backbone, [Request(FOX, 0, a), Request(FOX, 0, b)], adapter)
    assert np.array_equal(strip[0], ends[0])
    assert np.array_equal(strip[-1], ends[1])
    close = draw(backbone, [Request(FOX, 0, u) for u in interpolate(a, b, 1000)[:2]], adapter)
    assert np.abs(close[1].astype(int) - close[0]).max() <= 2  # and there is no jump on the way


def test_a_user_without_an_adapter_is_an_error(backbone: StableCascadeBackbone) -> None:
    with pytest.raises(InputError, match="no adapter"):
        draw(backbone, [Request(FOX, 0, user(0))], None)


def test_every_forward_is_of_one_size_however_many_requests_are_left(
    backbone: StableCascadeBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels round differently for another size: in bf16 on a GPU an image would depend on what it is sampled with."""
    sizes: list[int] = []
    predict, decode = backbone.predict, backbone.decode_latents

    def counted(x: Tensor, *rest: object) -> Tensor:
        sizes.append(len(x))
        return predict(x, *rest)

    def decoded(latents: Tensor, *rest: object) -> Tensor:
        sizes.append(2 * len(latents))
        return decode(latents, *rest)

    monkeypatch.setattr(backbone, "predict", counted)
    monkeypatch.setattr(backbone, "decode_latents", decoded)
    settings = SETTINGS.model_copy(update={"steps": 2})
    images = list(sample(backbone, [Request("a fox", seed) for seed in range(6)], settings))
    assert len(images) == 6
    assert set(sizes) == {8}, "captions and no caption, of four requests each"
