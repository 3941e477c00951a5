"""Recipes that built the small models under data/models; no stage of the pipeline depends on them."""
