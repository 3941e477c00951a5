"""The two tables at the ends of ingestion: the log as Pick-a-Pic v2 keeps it, and what ingestion leaves on disk."""

import pyarrow as pa

PICK_A_PIC = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
        ("__index_level_0__", pa.int64()),
    ]
)
"""A row of Pick-a-Pic v2 (Kirstain et al., arXiv 2305.01569): one person saw two images of one caption and chose.

`label_0, label_1` are 1/0, 0/1 or, for a tie, 0.5/0.5; `best_image_uid` names the image whose label is 1 and holds
"tie" for a tie. `has_label` is false when the person went on without choosing. The images are encoded bytes.
"""

IMAGES = pa.schema(
    [
        ("image_uid", pa.string()),
        ("image", pa.binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("digest", pa.binary(16)),
    ]
)
"""images/part-NNNNN.parquet: each image once, its bytes as they came; width and height in pixels.

The digest stands for the bytes, so that what was computed from an image can be known by content.
"""

INDEX = pa.schema([IMAGES.field("image_uid"), IMAGES.field("digest")])
"""image_index.parquet: all images, in the order in which the parts hold them."""

PAIRS = pa.schema(
    [
        ("pair_id", pa.int64()),
        ("user_id", pa.string()),
        ("caption", pa.string()),
        ("chosen_uid", pa.string()),
        ("rejected_uid", pa.string()),
        ("created_at", pa.timestamp("us")),
    ]
)
"""What cleaning passes on; `splits` adds `role` and `support_group`, which makes pairs.parquet."""

SUPPORT_PAIRS = pa.schema(
    [
        ("user_id", pa.string()),
        ("support_group", pa.int32()),
        ("caption", pa.string()),
        ("chosen_uid", pa.string()),
        ("rejected_uid", pa.string()),
        ("chosen_digest", pa.binary(16)),
        ("rejected_digest", pa.binary(16)),
    ]
)
"""support/s-NN.parquet: what describes the users of one shard, in order of (user, group, pair).

The digests stand for the images, so the file changes exactly when the shard has to be embedded again.
"""

REFUSED = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""refused.parquet: the row is counted from 0 within its file (for CSV and JSONL: records, the header not counted)."""
