"""The claims with their controls; experiments/dvc.yaml runs them."""
