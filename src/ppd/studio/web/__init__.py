"""The studio over HTTP: one module for each thing a visitor does."""
