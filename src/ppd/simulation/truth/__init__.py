"""What the simulated users truly think, as `ppd.evaluation.truth` asks for it."""
