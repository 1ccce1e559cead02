"""Sixty-four bits for a while, under one name in every version of JAX."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import jax


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Let JAX make 64-bit numbers inside a ``with`` block, in this thread only; the old setting returns after it.

    Arrays made outside the block keep their 32 bits: convert them inside, with ``jnp.asarray(x, float)``. A function
    that was jitted before is compiled anew in the block. JAX has moved this switch: newer versions call it
    ``jax.enable_x64``, older ones ``jax.experimental.enable_x64``.

    >>> with float64():
    ...     print(jax.numpy.asarray(0.1).dtype)
    float64
    """
    home: Any = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    with home.enable_x64(True):
        yield
