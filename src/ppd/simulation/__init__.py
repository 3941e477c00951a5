"""The sticker world: simulated users whose taste is known. Nothing at or before evaluation imports it."""
