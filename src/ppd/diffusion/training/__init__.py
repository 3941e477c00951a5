"""Fine-tuning the adapter on preferences: data, loss, trainer, run."""
