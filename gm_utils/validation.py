"""Refusals in one voice: a ``ValueError`` that says what was expected and what came."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def refuse(what: str, expected: str, got: object) -> ValueError:
    """Return the error to raise: "expected WHAT EXPECTED, got GOT"."""
    return ValueError(f"expected {what} {expected}, got {got}")


def array_of_shape(what: str, value: Any, shape: Sequence[int | str]) -> jax.Array:
    """Return ``value`` as a JAX array after checking its shape, before any tracing.

    Args:
        what: the argument's name, for the message.
        value: anything that ``jnp.asarray`` takes.
        shape: the sizes wanted; a word such as ``"batch"`` stands for any size above zero.

    Raises:
        ValueError: for another number of axes, another size, or an empty axis.
    """
    array = jnp.asarray(value)
    fits = array.ndim == len(shape) and all(
        size > 0 if isinstance(wanted, str) else size == wanted
        for size, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits:
        trail = "," if len(shape) == 1 else ""
        raise refuse(what, f"of shape ({', '.join(map(str, shape))}{trail})", tuple(array.shape))
    return array


def positive_int(what: str, value: Any) -> int:
    """Return ``value`` as an ``int`` after checking that it is a whole number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise refuse(what, "to be a whole number above zero", repr(value))
    return int(value)


def finite(what: str, value: Any) -> None:
    """Refuse NaN and infinity in a concrete (not traced) array."""
    array = np.asarray(value)
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise refuse(what, "to be finite", f"{bad} of {array.size} values that are NaN or infinite")
