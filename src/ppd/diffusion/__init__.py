"""Fine-tuning a diffusion model on the preferences of many people, and drawing for each of them."""
