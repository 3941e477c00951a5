"""Build the sprite atlas from openly licensed emoji art: `python -m ppd.pretrain.build_atlas data/stickers`.

Needs npm (to download the art packages) and `resvg_py` (extra `dev`). The atlas is one PNG: a row per style, a column
per concept.
The styles are drawn so that an eye tells them apart at once:
    paper   Fluent flat (MIT), cut out with a white border
    glossy  Fluent 3D (MIT), with a soft shadow
    ink     Fluent high contrast (MIT), black on a white fill
    pixel   Noto (Apache-2.0), 12 x 12 blocks
"""

import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from ppd.files import atomic_path
from ppd.simulation.render import PIXEL_BLOCKS, SPRITE_PX
from ppd.simulation.world import CONCEPTS, STYLES

PACKAGES = {
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "@iconify-json/fluent-emoji-high-contrast": "1.2.6",
    "@iconify-json/noto": "1.2.9",
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "emojibase-data": "17.0.0",
}
LICENCES = {
    "paper": "Fluent Emoji (flat), Microsoft, MIT, https://github.com/microsoft/fluentui-emoji",
    "glossy": "Fluent Emoji (3D), Microsoft, MIT, https://github.com/microsoft/fluentui-emoji",
    "ink": "Fluent Emoji (high contrast), Microsoft, MIT, https://github.com/microsoft/fluentui-emoji",
    "pixel": "Noto Emoji, Google, Apache-2.0, https://github.com/googlefonts/noto-emoji",
}
WORK_PX = 128


def _svg_icon(icons: dict[str, Any], name: str) -> Image.Image:
    import resvg_py

    icon = icons["icons"][name]
    width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    xmlns = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    body = icon["body"].replace("currentColor", "#1a1a1a")
    svg = f'<svg {xmlns} viewBox="{box}" width="{WORK_PX}" height="{WORK_PX}">{body}</svg>'
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")


def _trim(art: Image.Image, margin: int) -> Image.Image:
    """Crop to the drawing, make square, leave a margin: every subject fills its sprite alike."""
    box = art.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox()
    assert box is not None
    art = art.crop(box)
    side = max(art.size)
    square = Image.new("RGBA", (side, side))
    square.paste(art, ((side - art.width) // 2, (side - art.height) // 2))
    inner = WORK_PX - 2 * margin
    out = Image.new("RGBA", (WORK_PX, WORK_PX))
    out.paste(square.resize((inner, inner), Image.Resampling.LANCZOS), (margin, margin))
    return out


def _under(art: Image.Image, mask: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    below = Image.new("RGBA", art.size, (*colour, 0))
    below.putalpha(mask)
    return Image.alpha_composite(below, art)


def _silhouette(art: Image.Image) -> Image.Image:
    """The mask of a line drawing with its inside filled."""
    solid = art.getchannel("A").point(lambda a: 255 * (a > 96))
    outside = solid.filter(ImageFilter.MaxFilter(5))
    ImageDraw.floodfill(outside, (0, 0), 128)
    return outside.point(lambda a: 255 * (a != 128)).filter(ImageFilter.MinFilter(5))


def _paper(art: Image.Image) -> Image.Image:
    art = _trim(art, 10)
    return _under(art, _silhouette(art).filter(ImageFilter.MaxFilter(13)), (255, 255, 255))


def _glossy(art: Image.Image) -> Image.Image:
    art = _trim(art, 8)
    shadow = (
        ImageChops.offset(art.getchannel("A"), 3, 6).filter(ImageFilter.GaussianBlur(4)).point(lambda a: int(a * 0.45))
    )
    return _under(art, shadow, (0, 0, 0))


def _ink(art: Image.Image) -> Image.Image:
    art = _trim(art, 6)
    fill = _silhouette(art).filter(ImageFilter.MaxFilter(5))
    return _under(art, fill, (255, 255, 255))


def _pixel(art: Image.Image) -> Image.Image:
    small = np.asarray(_trim(art, 2).resize((PIXEL_BLOCKS, PIXEL_BLOCKS), Image.Resampling.BOX)).copy()
    small[..., 3] = np.where(small[..., 3] > 110, 255, 0)
    small[..., :3] = np.round(small[..., :3] / 36.0).clip(0, 7) * 36
    return Image.fromarray(small).resize((SPRITE_PX, SPRITE_PX), Image.Resampling.NEAREST)


def build(target: Path) -> None:
    """Download the art, draw every concept in every style, write atlas.png, atlas.json and LICENCES/ to `target`."""
    with tempfile.TemporaryDirectory() as scratch, atomic_path(target) as out:
        subprocess.run(["npm", "install", "--prefix", scratch, *(f"{p}@{v}" for p, v in PACKAGES.items())], check=True)
        modules = Path(scratch) / "node_modules"

        def icons(package: str) -> dict[str, Any]:
            return json.loads((modules / "@iconify-json" / package / "icons.json").read_text())

        flat, ink, noto = icons("fluent-emoji-flat"), icons("fluent-emoji-high-contrast"), icons("noto")
        labels = json.loads((modules / "emojibase-data" / "en" / "data.json").read_text())
        codes = {entry["label"]: entry["hexcode"].lower() for entry in labels}
        sheet = Image.new("RGBA", (SPRITE_PX * len(CONCEPTS), SPRITE_PX * len(STYLES)))
        for column, concept in enumerate(CONCEPTS):
            name = concept.replace(" ", "-")
            glossy = Image.open(modules / "@lobehub" / "fluent-emoji-3d" / "assets" / f"{codes[concept]}.webp")
            drawn = {
                "paper": _paper(_svg_icon(flat, name)),
                "glossy": _glossy(glossy.convert("RGBA")),
                "ink": _ink(_svg_icon(ink, name)),
                "pixel": _pixel(_svg_icon(noto, name)),
            }
            for row, style in enumerate(STYLES):
                tile = drawn[style].resize((SPRITE_PX, SPRITE_PX), Image.Resampling.LANCZOS)
                sheet.paste(tile, (column * SPRITE_PX, row * SPRITE_PX))
        out.mkdir()
        sheet.save(out / "atlas.png", optimize=True)
        atlas = {"sprite_px": SPRITE_PX, "styles": STYLES, "concepts": CONCEPTS, "packages": PACKAGES}
        (out / "atlas.json").write_text(json.dumps(atlas, indent=1))
        (out / "LICENCES").mkdir()
        shutil.copy(Path(__file__).parent / "licences" / "MIT-fluent-emoji.txt", out / "LICENCES")
        shutil.copy(Path(__file__).parent / "licences" / "Apache-2.0-noto-emoji.txt", out / "LICENCES")
        (out / "LICENCES" / "SOURCES.md").write_text(
            "".join(f"- {style}: {source}\n" for style, source in LICENCES.items())
        )


if __name__ == "__main__":
    build(Path(sys.argv[1]))
