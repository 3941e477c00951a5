"""The frozen base: a text-to-image model, its codec, and what names its weights."""
