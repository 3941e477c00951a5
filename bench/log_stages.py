"""The stages that bench/log_scale.py measures, each started in a process of its own.

    python bench/log_stages.py FOLDER ROWS STAGE

The log has the shape of Pick-a-Pic v2: its columns, sessions in which the winner is kept, some 220 rows a user but most
users with few and some with thousands, one caption for sixteen rows. Images are real JPEGs of a few hundred bytes;
row groups and parts are cut so that there are as many as the real bytes would make. Models are tiny ones of the real
classes, as wide as the real ones where their outputs are kept: 77 x 1,280 numbers a caption, four rows of 3,584 a user.
For less work an item, not for fewer items, the text encoder's one layer passes on what it gets, and the user's pairs,
which are read and hashed, are answered with random numbers.
"""

import io
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # tests.tiny writes checkpoints

from ingest import jpegs, rows  # noqa: E402

from ppd import stages  # noqa: E402
from ppd.layout import Layout  # noqa: E402
from ppd.parts import this_part  # noqa: E402
from ppd.preferences import journal  # noqa: E402
from ppd.preferences.schema import PICK_A_PIC  # noqa: E402
from ppd.settings import Settings, load_settings  # noqa: E402
from ppd.users.support import Pair  # noqa: E402
from ppd.vlm.prompts import Candidates  # noqa: E402

IMAGE_PX, REAL_IMAGE_BYTES = 32, 175_000
ROWS_A_USER, USER_SPREAD, ROWS_A_CAPTION = 220, 1.5, 16
TEXT_WIDTH, TEXT_TOKENS, VLM_WIDTH, VLM_LAYERS = 1280, 77, 3584, 4
SHARD_ROWS, GROUP_ROWS = 20_000, 1_000
N_SHARDS = 4
CHANGES = {
    "models": {"image_px": IMAGE_PX, "encode_batch_size": 256},
    "embedding": {
        "prompt": "short-1",
        "read": "prompt-end",
        "max_new_tokens": 0,
        "rows": tuple(range(1, VLM_LAYERS + 1)),
        "precision": "fp32",
        "batch_size": 32,
    },
    "finetune": {"steps": 2, "pairs_per_step": 8, "micro_batch_pairs": 4, "evaluation_pairs": 8},
    "evaluation": {"captions_per_user": 2, "resample_key": "bench"},
    "rewards": ({"kind": "clip", "checkpoint": "data/models/clip"},),
}
SAMPLE_PX, SAMPLE_GRAIN_PX = 1024, 4


def settings(folder: Path) -> Settings:
    """params.paper.yaml with what the stand-ins need, their paths below `folder`; evaluated as a re-evaluation is."""
    values = load_settings(ROOT / "params.paper.yaml").model_dump()
    for name, changes in CHANGES.items():
        values[name] = values[name] | changes if isinstance(changes, dict) else changes
    for model in ("prior", "vlm"):
        values["models"][model] = str(folder / values["models"][model])
    for reward in values["rewards"]:
        reward["checkpoint"] = str(folder / reward["checkpoint"])
    return Settings.model_validate(values)


def write_log(n: int, folder: Path) -> None:
    """Shards of the log, a row group in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(2)
    n_users = max(24, n // ROWS_A_USER)
    share = random.lognormal(0, USER_SPREAD, n_users)
    users = random.choice(n_users, n, p=share / share.sum()).tolist()
    folder.mkdir(parents=True, exist_ok=True)
    log = rows(n, jpegs(IMAGE_PX), users=users, n_captions=max(40, n // ROWS_A_CAPTION))
    for shard in range(-(-n // SHARD_ROWS)):
        with pq.ParquetWriter(folder / f"train-{shard:05d}.parquet", PICK_A_PIC) as writer:
            for start in range(shard * SHARD_ROWS, min(n, (shard + 1) * SHARD_ROWS), GROUP_ROWS):
                group = [next(log) for _ in range(min(GROUP_ROWS, n - start))]
                writer.write_table(pa.Table.from_pylist(group, PICK_A_PIC))


def write_models(folder: Path) -> None:
    """A Stable Cascade and a LLaVA-OneVision that compute next to nothing and say as much as the real ones."""
    import torch
    from diffusers import DDPMWuerstchenScheduler, StableCascadeUNet
    from full_size import TINY
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessorPil,
        Qwen2Config,
        SiglipVisionConfig,
    )

    from ppd.diffusion.model.codec import ImageCodec
    from ppd.pretrain.text import caption_tokenizer
    from ppd.vlm.processor import ImageTextProcessor
    from tests.tiny import CHAT_TEMPLATE, chat_tokenizer, write_clip

    torch.manual_seed(0)
    prior, vlm = folder / "stable-cascade", folder / "llava-onevision"
    words = caption_tokenizer(["a picture of thing number, in the style of somebody, highly detailed, 4k"])
    words.model_max_length = TEXT_TOKENS
    codec = ImageCodec(latent_channels=4, width=8)
    width = {"clip_text_in_channels": TEXT_WIDTH, "clip_text_pooled_in_channels": TEXT_WIDTH}
    StableCascadeUNet(**TINY | width | {"in_channels": 4, "out_channels": 4}).save_pretrained(prior / "prior")
    DDPMWuerstchenScheduler().save_pretrained(prior / "scheduler")
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=TEXT_WIDTH,
        intermediate_size=16,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=20,
        max_position_embeddings=TEXT_TOKENS,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    CLIPTextModelWithProjection(text).save_pretrained(prior / "text_encoder")
    words.save_pretrained(prior / "tokenizer")
    codec.save_pretrained(prior / "codec")

    write_clip(folder / "clip", ["a picture of thing number, in the style of somebody, highly detailed, 4k"])

    tokenizer, px, patch = chat_tokenizer(), 28, 14
    token = tokenizer.convert_tokens_to_ids
    seen = SiglipVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=px,
        patch_size=patch,
        vision_use_head=False,
    )
    read = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=VLM_WIDTH,
        intermediate_size=8,
        num_hidden_layers=VLM_LAYERS,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=4096,
        bos_token_id=token("<|endoftext|>"),
        eos_token_id=token("<|im_end|>"),
        pad_token_id=token("<|endoftext|>"),
    )
    LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            vision_config=seen,
            text_config=read,
            image_token_index=token("<image>"),
            video_token_index=token("<video>"),
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            image_grid_pinpoints=[[px, px]],
        )
    ).save_pretrained(vlm)
    ImageTextProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(
            size={"height": px, "width": px}, image_grid_pinpoints=[[px, px]]
        ),
        tokenizer=tokenizer,
        num_image_tokens=(px // patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(vlm)


def encode(made: Settings, layout: Layout) -> None:
    from transformers.models.clip.modeling_clip import CLIPEncoderLayer

    CLIPEncoderLayer.forward = lambda self, hidden_states, *_, **__: hidden_states  # type: ignore[method-assign]
    stages.encode(made, layout)


def embed(made: Settings, layout: Layout, shard: int) -> None:
    import torch

    from ppd.vlm import refresh
    from ppd.vlm.embedding import Embedded

    random = torch.Generator().manual_seed(shard)

    def answered(vlm: object, supports: Sequence[object], *_: object) -> Embedded:
        n = len(supports)
        return Embedded(torch.randn(n, VLM_LAYERS, VLM_WIDTH, generator=random), ("",) * n)

    refresh.embed = answered  # type: ignore[assignment]
    stages.embed(made, layout, f"s-{shard:02d}")


def finetune(made: Settings, layout: Layout) -> None:
    stages.finetune(made, layout, "ppd")
    if this_part().is_first:
        stages.adapter(made, layout, "ppd")


def samples(made: Settings, layout: Layout) -> None:
    """Files of sampled images as the stage `sample` leaves them, of the real number and size, each another picture."""
    import torch
    from PIL import Image

    from ppd.diffusion.sampling.store import PNG, write_samples
    from ppd.evaluation.plan import METHODS, plan_images, plan_requests
    from ppd.preferences.store import Preferences
    from ppd.stored_tables import write_table

    preferences, random = Preferences.open(layout.preferences), np.random.default_rng(3)
    requests = plan_requests(preferences, made.evaluation)
    users = {user_id: torch.zeros(1, 1) for user_id in preferences.users.user_id}
    grains = random.integers(0, 256, (16, *[SAMPLE_PX // SAMPLE_GRAIN_PX] * 2, 3), dtype=np.uint8) & 0xF0
    pngs = []
    for grain in grains:
        buffer = io.BytesIO()
        Image.fromarray(grain).resize((SAMPLE_PX, SAMPLE_PX), Image.Resampling.NEAREST).save(buffer, "PNG")
        pngs.append(buffer.getvalue())
    n_images = 0
    for method in METHODS:
        planned = plan_images(requests, method, made.evaluation, {} if method == "base" else users)
        for name, images in planned.items():
            file, parts = layout.sampled(method, name), []
            file.parent.mkdir(parents=True, exist_ok=True)
            for start in range(0, len(images.requests), 64):
                some = images.requests.iloc[start : start + 64]
                # What follows a PNG's end is read by nobody, but makes each file another one.
                encoded = [pngs[row % 16] + row.to_bytes(8, "big") for row in range(start, start + len(some))]
                parts.append(file.with_suffix(f".{start:08d}"))
                write_table(some.assign(**{PNG: encoded}), parts[-1])
            write_samples(parts, file)
            for part in parts:
                part.unlink()
            n_images += len(images.requests)
    print(json.dumps({"n_images": n_images, "png_bytes": len(pngs[0])}))


def judge(made: Settings, layout: Layout) -> None:
    """The real stage; a judge that reads all it is shown and answers at once."""
    from ppd.evaluation import judge as module
    from ppd.vlm.judging import Answer, Verdict

    class Quick:
        name = "quick"

        def __call__(self, pairs: Sequence[Pair], candidates: Sequence[Candidates]) -> list[Verdict]:
            answers = [Answer("asked", word, word, 0.5) for word in ("first", "second")]
            return [Verdict(*answers) for _ in candidates]

    module.load_judge = lambda *_: Quick()  # type: ignore[assignment]
    stages.judge(made, layout)


def ingest(made: Settings, layout: Layout) -> None:
    """As many row groups and parts as images of the real size would fill."""
    journal._GROUP_IMAGES = max(1, journal._GROUP_BYTES // REAL_IMAGE_BYTES)
    journal._PART_ROWS = journal._PART_BYTES // REAL_IMAGE_BYTES
    journal.Limits.__new__.__defaults__ = (journal._PART_BYTES, journal._PART_ROWS)
    stages.ingest(made, layout)
    summary = json.loads((layout.preferences / "summary.json").read_text())
    print(
        json.dumps({key: summary[key] for key in ("n_pairs", "n_users", "n_images", "n_captions", "n_support_groups")})
    )


STAGES: dict[str, Callable[[Settings, Layout], None]] = {
    "ingest": ingest,
    "encode": encode,
    **{f"embed {shard}": partial(embed, shard=shard) for shard in range(N_SHARDS)},
    "users": stages.users,
    "finetune": finetune,
    "samples": samples,
    "judge": judge,
    "report": stages.report,
}


def main() -> None:
    folder, n, stage = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    layout = Layout(folder)
    if stage == "prepare":
        write_models(folder / "data/models")
        write_log(n, layout.choices)
    else:
        STAGES[stage](settings(folder), layout)


if __name__ == "__main__":
    main()
