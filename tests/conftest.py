"""Every test runs without a network and with JAX at its strictest: no silent promotion, and warnings are errors."""

import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest

import course

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")  # gm_utils sets it for readers, who import it before JAX


# The notebooks are run many times over, by several processes, with a fault planted each time: what one of them has
# compiled, the others load. The variables are for the kernels and for pytest's other workers, which find them set.
FIRST = "JAX_COMPILATION_CACHE_DIR" not in os.environ
if FIRST:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="gm-utils-compiled-")
COMPILED = os.environ["JAX_COMPILATION_CACHE_DIR"]
os.environ |= course.with_compilation_cache({}, Path(COMPILED))
jax.config.update("jax_compilation_cache_dir", COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


# Connections beyond this machine are refused here, and in every Python that a test starts, kernels among them.
OFFLINE = tempfile.mkdtemp(prefix="gm-utils-offline-")
(Path(OFFLINE) / "sitecustomize.py").write_text(course.GUARD, encoding="utf-8")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [OFFLINE, os.environ.get("PYTHONPATH")]))
exec(course.GUARD, {"__name__": "guard"})

# What does not hang on the versions of a lane, or takes every notebook apart once more after nbval has run it.
ONCE = [
    f"test_{name}.py"
    for name in (
        "all_models", "browser", "course", "floors", "handout", "hard_use", "notebook_runs", "notebooks",
        "paper_browser", "pins", "spot_errors",
    )
]  # fmt: skip

# Of the others, those that take longest.
LONG = [f"test_{name}.py" for name in ("autoregressive", "flows", "mixtures", "redraw", "tape", "training", "vae")]


def pytest_unconfigure() -> None:
    for folder in (COMPILED, OFFLINE) if FIRST else (OFFLINE,):
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lane default alone runs, and put all in order.

    The notebooks come first, and leave what they compiled to all that run them again. Then what takes long, so that
    both processes end together.
    """
    for item in items:
        if item.path.name in ONCE:
            item.add_marker(pytest.mark.once)
    items.sort(key=lambda item: [item.path.suffix != ".ipynb", item.path.name not in ONCE, item.path.name not in LONG])


def pytest_configure(config: pytest.Config) -> None:
    """Let pass what the libraries of one lane say to each other, and nothing else."""
    # Colab's matplotlib 3.10.0 calls pyparsing by names that pyparsing 3.3 has renamed.
    config.addinivalue_line("filterwarnings", r"ignore:'\w+' deprecated - use '\w+':DeprecationWarning")
    config.addinivalue_line("filterwarnings", r"ignore:'\w+' argument is deprecated, use '\w+':DeprecationWarning")
