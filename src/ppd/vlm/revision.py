"""Names a checkpoint by its content: what may change what the model says, and nothing else."""

import hashlib
from pathlib import Path

_MEANINGFUL = {
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "tokenizer.json",
    "preprocessor_config.json",
}


def folder_hash(folder: Path) -> str:
    """A hash of everything in a checkpoint's folder that can change what the model says."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in {".safetensors", ".jinja"} or file.name in _MEANINGFUL:
            digest.update(file.name.encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
