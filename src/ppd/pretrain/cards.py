"""Model cards: what a nano model is, what it learned from, what it cost, how good it is, where it ends."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ppd.files import atomic_path
from ppd.pretrain.loop import HARDWARE
from ppd.pretrain.quality import Measure, as_markdown

COMMON = """Trained from scratch on renders of the sticker world (`ppd.simulation`): emoji art of Noto Emoji
(Apache-2.0) and Fluent Emoji (MIT), drawn by `ppd.simulation.render`. Every scene of training comes from the seed
stream "pretrain", the figures below from the stream "evaluation"; the simulated log has a stream of its own
(`ppd.simulation.seeds`). It knows 32 concepts in 4 drawing styles at 64 px, and is of use for nothing else."""

ABOUT = {
    "prior": (
        "Nano Stable Cascade",
        "A text-to-image base in the layout of Stable Cascade's Stage C: `prior/` (StableCascadeUNet, predicting v), "
        "`scheduler/` (DDPMWuerstchenScheduler), `text_encoder/` (CLIPTextModelWithProjection), `tokenizer/` (whole "
        "words), `codec/` (`ppd.diffusion.model.codec.ImageCodec`, 64 px to 8 x 16 x 16). Captions name the concept "
        "only, so it draws all styles, tones and layouts. Prior and text encoder were trained together, with the "
        "empty caption for a tenth of the images; the codec before them. The figures are those of the attribute "
        "classifier, at 20 DDIM steps.",
        "Without text guidance many subjects stay blobs; at 2 they are clearer, larger and duller than the world's. "
        "Words outside the 32 captions are unknown to it. "
        "The figures are as good as the classifier that they come from.",
    ),
    "flow-prior": (
        "Nano Z-Image",
        "A text-to-image base that learned by flow matching, in the layout of Z-Image: `transformer/` "
        "(ZImageTransformer2DModel), `scheduler/` (FlowMatchEulerDiscreteScheduler), `text_encoder/` (Qwen3Model), "
        "`tokenizer/` (whole words), and in place of an autoencoder `codec/`, the nano Stable Cascade's "
        "(`ppd.diffusion.model.codec.ImageCodec`, 64 px to 8 x 16 x 16). Captions name the concept only, so it draws "
        "all styles, tones and layouts. Transformer and text encoder were trained together, with the empty caption for "
        "a tenth of the images. The figures are those of the attribute classifier, at 20 Euler steps.",
        "Trained for two minutes, with its loss still falling: subjects are recognisable and blurred, and with text "
        "guidance 3 too large. Words outside the 32 captions are unknown to it. "
        "The figures are as good as the classifier that they come from.",
    ),
    "vlm": (
        "Nano LLaVA-OneVision",
        "A `LlavaOnevisionForConditionalGeneration` of 4.6 million parameters (SigLIP tower on 64 px with one patch an "
        "image, Qwen2 of 6 layers, 128 wide, words and phrases of the sticker world as tokens) that reads a person's "
        "choices. From pairs of preferred and rejected images it judges which of two images that person prefers, "
        "writes what they like, and carries their taste in the hidden states of the last position (prompt `short-1` of "
        "`ppd.vlm.prompts`). The tower was trained first, with direct heads, then frozen; the language model on "
        "simulated people drawn from the prior anew at every step (1 to 8 choices each, 96,000 people), towards what "
        "the exact posterior says, with heads that are not kept. No person is stored: people of training, of these "
        "figures and of the log are independent draws of one prior, which is finite, so their tastes may coincide; "
        "their pictures and choices never do. Load the processor with `ppd.vlm.processor.ImageTextProcessor`.",
        "It knows one prompt of few words and at most eight pairs. The people are simulated, and so is its idea of "
        "people: likes one or two of 14 traits. Pictures that are no stickers mean nothing to it.",
    ),
    "attribute-classifier": (
        "Sticker attribute classifier",
        "A CNN that reads concept, drawing style and the five free factors of a 64 px sticker "
        "(`ppd.simulation.attribute_classifier`). Evaluation uses it as ground truth for generated images. Two "
        "thirds of its training images were degraded: through the image codec with noise on the latents, "
        "blurred, or noisy.",
        "On images unlike stickers its answers mean nothing; generated images that have left the world may still be "
        "read with confidence, so look at them, and at the precision.",
    ),
    "clip": (
        "Nano CLIP",
        "A CLIPModel (vision tower on 64 px, text tower of whole words), contrastive over the 32 captions; its cosine "
        "is the nano counterpart of the CLIP score (`ppd.rewards.clip_score`).",
        "It tells concepts apart and little else: 32 captions are all the language that it has seen.",
    ),
}


def write_card(
    name: str, folder: Path, measures: Sequence[Measure], recipe: str, command: str, *, pictured: bool = False
) -> None:
    """`README.md` and `quality.json` beside the weights in `folder`; training time is read from its loss curve.

    recipe, command: what trains the model, and what measured it.
    """
    title, what, limits = ABOUT[name]
    with (folder / "loss_curve.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    settings = json.loads((folder / "settings.json").read_text())
    trained_on = (folder / HARDWARE).read_text() if (folder / HARDWARE).exists() else "a CPU core"
    planned = sum(loop["steps"] for loop in (settings["loop"], *settings.get("further_rounds", [])))
    steps = last["step"] if int(last["step"]) == planned else f"Stopped after {last['step']} of {planned}"
    picture = "![Samples, one column a caption](samples.png)\n\n" if pictured else ""
    card = f"""# {title}

{what}

{picture}## Data
{COMMON}

## Compute
{steps} steps, in {float(last["seconds"]) / 60:.0f} minutes of wall time on {trained_on}. Loss: `loss_curve.csv`
and `loss_curve.png`. Again, from the settings beside it: `{recipe} --settings settings.json`.

## Quality
`{command}` prints these again. Intervals: Wilson for shares, normal for means, bootstrap for spreads,
ratios and whatever has several cases a person (by person).

{as_markdown(measures)}

## Limits
{limits}

## Settings
```json
{json.dumps(settings, indent=1)}
```
"""
    figures = json.dumps([asdict(measure) for measure in measures], indent=1)
    for file_name, text in (("README.md", card), ("quality.json", figures)):
        with atomic_path(folder / file_name) as fresh:
            fresh.write_text(text)
