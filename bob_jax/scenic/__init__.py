"""bob_jax inside Scenic (github.com/google-research/scenic): backbones as its models, data sets as its data sets.

Nothing here is needed by bob_jax itself, and nothing imports Scenic before it is asked for: docs/scenic.md.
"""
