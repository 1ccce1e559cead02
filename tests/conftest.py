"""Every test runs with JAX at its strictest: no silent promotion of types or of ranks, and warnings are errors."""

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config: pytest.Config) -> None:
    """Let pass what the libraries of one lane say to each other, and nothing else."""
    # Colab's matplotlib 3.10.0 calls pyparsing by names that pyparsing 3.3 has renamed.
    config.addinivalue_line("filterwarnings", r"ignore:'\w+' deprecated - use '\w+':DeprecationWarning")
    config.addinivalue_line("filterwarnings", r"ignore:'\w+' argument is deprecated, use '\w+':DeprecationWarning")
