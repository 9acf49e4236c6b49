"""The models, the training loop, the three levels, checkpoints."""
