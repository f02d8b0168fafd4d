"""The parts of a detector with static shapes: one image at a time, batched by `jax.vmap`, validity as masks."""
