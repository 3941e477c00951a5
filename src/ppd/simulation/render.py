"""Drawing scenes: one centred sticker on a patterned background, from the sprite atlas alone."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ppd.errors import InputError
from ppd.simulation.world import CONCEPTS, IMAGE_PX, STYLES, WEAKEST_FACTOR, Scenes

Floats = NDArray[np.float32]

SPRITE_PX = 64
PIXEL_BLOCKS = 12
SUBJECT_PX = tuple(range(28, 49, 2))  # diameters a subject can have
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Atlas:
    """The sprites, premultiplied by alpha, at every diameter: by_size[i] is [style, concept, d, d, 4] in [0, 1]."""

    by_size: tuple[Floats, ...]

    @staticmethod
    def load(folder: str | Path) -> "Atlas":
        """Read `atlas.png` and `atlas.json`; InputError when they do not belong to this version of the world."""
        folder = Path(folder)
        try:
            about = json.loads((folder / "atlas.json").read_text())
            sheet = Image.open(folder / "atlas.png").convert("RGBA")
        except FileNotFoundError as missing:
            raise InputError("the sticker atlas is missing", file=missing.filename, fix="Run `dvc pull`") from missing
        if (tuple(about["concepts"]), tuple(about["styles"])) != (CONCEPTS, STYLES):
            raise InputError("concepts or styles differ from this version's", file=folder / "atlas.json")
        sprites = [
            [
                sheet.crop((c * SPRITE_PX, s * SPRITE_PX, (c + 1) * SPRITE_PX, (s + 1) * SPRITE_PX))
                for c in range(len(CONCEPTS))
            ]
            for s in range(len(STYLES))
        ]
        return Atlas(
            tuple(
                np.stack(
                    [np.stack([_scaled(sprite, STYLES[s], px) for sprite in row]) for s, row in enumerate(sprites)]
                )
                for px in SUBJECT_PX
            )
        )


def _scaled(sprite: Image.Image, style: str, px: int) -> Floats:
    """A sprite at a diameter of `px`; a pixelated one keeps its blocks sharp."""
    if style == "pixel":
        blocks = sprite.resize((PIXEL_BLOCKS, PIXEL_BLOCKS), Image.Resampling.BOX)
        resized = blocks.resize((px, px), Image.Resampling.NEAREST)
    else:
        resized = sprite.resize((px, px), Image.Resampling.LANCZOS)
    rgba: Floats = np.asarray(resized, dtype=np.float32) / np.float32(255)
    rgba[..., :3] *= rgba[..., 3:]
    return rgba


def _oklch_to_rgb(lightness: Floats, chroma: Floats, hue_deg: Floats) -> Floats:
    """OKLCH -> sRGB in [0, 1], clipped to the gamut (Ottosson 2020, the published matrices): [N] thrice -> [N, 3]."""
    a, b = chroma * np.cos(np.deg2rad(hue_deg)), chroma * np.sin(np.deg2rad(hue_deg))
    lms = (
        np.stack(
            [
                lightness + 0.3963377774 * a + 0.2158037573 * b,
                lightness - 0.1055613458 * a - 0.0638541728 * b,
                lightness - 0.0894841775 * a - 1.2914855480 * b,
            ],
            axis=-1,
        )
        ** 3
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(lms @ to_rgb.T, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(srgb, dtype=np.float32)


def _pattern_masks() -> tuple[Floats, Floats]:
    """Coverage of the two patterns, [64, 64] each in [0, 1], antialiased by 4 x 4 samples: dots and a ring."""
    fine = (np.arange(IMAGE_PX * 4) + 0.5) / 4
    y, x = np.meshgrid(fine, fine, indexing="ij")
    dots = np.hypot(x % 16 - 8, y % 16 - 8) < 3.6
    ring = np.abs(np.hypot(x - IMAGE_PX / 2, y - IMAGE_PX / 2) - 28.5) < 2.2
    shape = (IMAGE_PX, 4, IMAGE_PX, 4)
    soft_dots, soft_ring = (mask.reshape(shape).mean(axis=(1, 3)).astype(np.float32) for mask in (dots, ring))
    return soft_dots, soft_ring


DOTS, RING = _pattern_masks()


def _hue_deg(warmth: Floats) -> Floats:
    """Warm: yellow (90) to red (35); cool: teal (195) to blue (260)."""
    strength = (np.abs(warmth) - WEAKEST_FACTOR) / (1 - WEAKEST_FACTOR)
    return np.where(warmth > 0, 90 - 55 * strength, 195 + 65 * strength).astype(np.float32)


def _jitter(seeds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Four numbers in [0, 1) a scene, a pure function of its seed (splitmix64): [N, 4]."""
    with np.errstate(over="ignore"):
        z = seeds.astype(np.uint64)[:, None] + np.arange(1, 5, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) / 2**53


def render(atlas: Atlas, scenes: Scenes) -> NDArray[np.uint8]:
    """Draw scenes: [N, 64, 64, 3] sRGB bytes. A scene's picture depends on nothing but the scene."""
    lightness, warmth, saturation, size, pattern = scenes.factors.T.astype(np.float32)
    jitter = _jitter(scenes.seed)
    base = (0.58 + 0.28 * lightness + 0.02 * (jitter[:, 0] - 0.5)).astype(np.float32)
    chroma = 0.08 + 0.065 * saturation
    hue = _hue_deg(warmth) + (8 * (jitter[:, 1] - 0.5)).astype(np.float32)
    shift = np.where(lightness > 0, -0.28, 0.28).astype(np.float32) * np.abs(pattern)
    ground, ornament = _oklch_to_rgb(base, chroma, hue), _oklch_to_rgb(base + shift, chroma, hue)
    mask = np.where((pattern > 0)[:, None, None], RING, DOTS)[..., None]
    image = ground[:, None, None] + mask * (ornament - ground)[:, None, None]
    size_index = np.rint((size + 1) / 2 * (len(SUBJECT_PX) - 1)).astype(int)
    offset = np.floor(jitter[:, 2:] * 3).astype(int) - 1
    vividness = 0.65 + 0.55 * saturation
    for i in range(len(scenes)):
        sprite = atlas.by_size[size_index[i]][scenes.style[i], scenes.concept[i]]
        colour, alpha = sprite[..., :3], sprite[..., 3:]
        grey = (colour @ LUMA)[..., None]
        colour = np.clip(grey + vividness[i] * (colour - grey), 0, alpha)
        px = SUBJECT_PX[size_index[i]]
        top, left = (IMAGE_PX - px) // 2 + offset[i]
        patch = image[i, top : top + px, left : left + px]
        patch *= 1 - alpha
        patch += colour
    return np.rint(image * 255).astype(np.uint8)
