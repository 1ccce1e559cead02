"""Every test runs with JAX at its strictest: no silent promotion of types or of ranks, and warnings are errors."""

import shutil
import tempfile

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# The notebooks are run many times over, with a fault planted each time: what was compiled once is loaded the next time.
COMPILED = tempfile.mkdtemp(prefix="gm-utils-compiled-")
jax.config.update("jax_compilation_cache_dir", COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_unconfigure() -> None:
    shutil.rmtree(COMPILED, ignore_errors=True)


def pytest_configure(config: pytest.Config) -> None:
    """Let pass what the libraries of one lane say to each other, and nothing else."""
    # Colab's matplotlib 3.10.0 calls pyparsing by names that pyparsing 3.3 has renamed.
    config.addinivalue_line("filterwarnings", r"ignore:'\w+' deprecated - use '\w+':DeprecationWarning")
    config.addinivalue_line("filterwarnings", r"ignore:'\w+' argument is deprecated, use '\w+':DeprecationWarning")
