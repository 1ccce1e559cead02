"""Refusals in one voice: a ``ValueError`` that says what was expected and what came.

>>> positive_int("n", 0)
Traceback (most recent call last):
ValueError: expected n to be a whole number above zero, got 0
"""

from collections.abc import Mapping, Sequence
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
        size > 0 if isinstance(wanted, str) else size == wanted for size, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits:
        trail = "," if len(shape) == 1 else ""
        raise refuse(what, f"of shape ({', '.join(map(str, shape))}{trail})", tuple(array.shape))
    return array


def broadcast(names: Sequence[str], arrays: Sequence[Any]) -> list[jax.Array]:
    """Return the arrays, named for the message, at the one shape to which they broadcast."""
    try:
        return jnp.broadcast_arrays(*arrays)
    except ValueError:
        shapes = " and ".join(str(array.shape) for array in arrays)
        raise refuse(" and ".join(names), "to have shapes that broadcast", shapes) from None


def floats(value: Any) -> jax.Array:
    """Return ``value`` as a JAX array of float32, or of float64 where it is that already."""
    array = jnp.asarray(value)
    return array if array.dtype == jnp.float64 else array.astype(jnp.float32)


def numbers(what: str, expected: str, given: Mapping[str, Any]) -> dict[str, float]:
    """Return a dict of numbers as one of floats; ``what`` and ``expected`` are the words for anything else."""
    try:
        return {str(name): float(number) for name, number in given.items()}
    except (AttributeError, TypeError, ValueError):
        raise refuse(what, expected, repr(given)) from None


def positive_int(what: str, value: Any) -> int:
    """Return ``value`` as an ``int`` after checking that it is a whole number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise refuse(what, "to be a whole number above zero", repr(value))
    return int(value)


def positive(what: str, value: Any) -> Any:
    """Return ``value``, a scalar, after checking that it lies between zero and infinity, unless JAX traces it."""
    if not traced(value):
        number = np.asarray(value)
        if number.ndim or number.dtype.kind not in "iuf" or not 0 < number < np.inf:
            raise refuse(what, "to be a finite number above zero", repr(value))
    return value


def traced(*values: Any) -> bool:
    """Tell whether JAX is tracing any of the values: then only shapes can be checked."""
    return any(isinstance(value, jax.core.Tracer) for value in values)


def binary(what: str, value: Any, expected: str, *, missing: bool = False) -> None:
    """Refuse numbers other than 0 and 1, and than NaN where it stands for ``missing`` ones, unless JAX traces them."""
    if not traced(value):
        array = np.asarray(value)
        wrong = array[~((array == 0) | (array == 1) | (np.isnan(array) & missing))]
        if wrong.size:
            raise refuse(what, expected, f"{wrong[0]} among {array.size} values")


def finite(what: str, value: Any) -> None:
    """Refuse NaN and infinity in an array, unless JAX traces it."""
    if traced(value):
        return
    array = np.asarray(value)
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise refuse(what, "to be finite", f"{bad} of {array.size} values that are NaN or infinite")
