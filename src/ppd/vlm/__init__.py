"""The vision-language model: reads a user, writes about them, judges for them."""
