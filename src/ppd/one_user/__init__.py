"""What belongs to one user alone: a LoRA trained on their choices, or baked from the adapter of all."""
