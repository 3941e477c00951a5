"""Sampling images for users, and keeping them."""
