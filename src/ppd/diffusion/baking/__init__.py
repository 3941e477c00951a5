"""One user's adapter made into a plain LoRA, which needs nothing of ours to be used."""
