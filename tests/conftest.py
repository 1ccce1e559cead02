"""Every test runs with JAX at its strictest: no silent promotion of types or of ranks."""

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
