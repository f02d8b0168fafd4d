"""Mesh and shardings, optimizers, train state, the loop, checkpoints. Knows nothing of vision."""
