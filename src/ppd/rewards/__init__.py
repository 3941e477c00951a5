"""Published scorers of images."""
