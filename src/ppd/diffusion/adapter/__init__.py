"""What is trained: the attention to the user beside the base, and its files."""
