"""How PyTorch (and original JAX) weights become bob_jax weights: `python -m converters`."""
