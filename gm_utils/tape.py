"""Reverse-mode differentiation in about a hundred lines: numbers that remember how they were made.

Every operation on a ``Var`` makes a new one that keeps its parents and, for each of them, the *pullback*: the function
that turns the adjoint of the result (the derivative of the loss with respect to it) into what the result adds to the
adjoint of that parent. ``backward`` walks from the loss to the leaves, newest first; as parents are always older than
what is made of them, every adjoint is complete before it is passed on. Griewank and Walther, *Evaluating Derivatives*
(2008), chapter 3.

    >>> x = Var(3.0)
    >>> (x * x + 2 * x).backward()
    >>> float(x.grad)
    8.0
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from gm_utils.validation import finite, refuse

_births = itertools.count()


def _floats(what: str, value: Any) -> np.ndarray:
    """Return ``value`` as a float array; floats keep their dtype, whole numbers and booleans become float64."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise refuse(what, "to be real numbers", f"dtype {array.dtype}")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _value(operand: Any) -> Any:
    """Return an operand's number or array; a plain Python number stays one, so that it does not widen float32."""
    if isinstance(operand, Var):
        return operand.value
    return operand if isinstance(operand, int | float) else _floats("an operand", operand)


def _sum_to(adjoint: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Undo broadcasting: add up over the axes along which an array of ``shape`` was copied."""
    adjoint = adjoint.sum(axis=tuple(range(adjoint.ndim - len(shape))))
    return adjoint.sum(axis=tuple(i for i, size in enumerate(shape) if size == 1), keepdims=True)


class Var:
    """A scalar or array that takes part in a computation whose gradient is wanted.

    Supports ``+ - * / ** @`` with other Vars, arrays and numbers on either side, broadcasting as NumPy does.

    Args:
        value: real numbers of any shape. Floats keep their dtype; whole numbers become float64.
        parents: pairs (Var, pullback); left out for a leaf.

    Attributes:
        value: a NumPy array.
        grad: the derivative of the loss with respect to ``value``, of the same shape and dtype: zero until a
            ``backward`` reaches this Var, then that of the last one that did.

    Raises:
        ValueError: for values that are not real numbers.
    """

    __array_ufunc__ = None  # NumPy then leaves array + Var to Var

    def __init__(self, value: Any, *parents: tuple["Var", Callable[[np.ndarray], np.ndarray]]) -> None:
        self.value = _floats("value", value)
        self.grad = np.zeros_like(self.value)
        self._parents = parents
        self._born = next(_births)

    def __repr__(self) -> str:
        return f"Var({self.value}, grad={self.grad})"

    def backward(self) -> None:
        """Fill in ``.grad`` of every Var that this scalar was made from; gradients of an earlier call are replaced.

        Raises:
            ValueError: if this Var is not a scalar.
        """
        if self.value.shape != ():
            raise refuse("backward", "to start at a scalar", f"shape {self.value.shape}")
        found, waiting = {self._born: self}, [self]
        while waiting:
            for parent, _ in waiting.pop()._parents:
                if parent._born not in found:
                    found[parent._born] = parent
                    waiting.append(parent)
        for var in found.values():
            var.grad = np.zeros_like(var.value)
        self.grad = np.ones_like(self.value)
        for born in sorted(found, reverse=True):
            for parent, pullback in found[born]._parents:
                share = _sum_to(np.asarray(pullback(found[born].grad)), parent.value.shape)
                parent.grad = (parent.grad + share).astype(parent.value.dtype)

    def __add__(self, other: Any) -> "Var":
        return _make(self.value + _value(other), (self, lambda g: g), (other, lambda g: g))

    def __mul__(self, other: Any) -> "Var":
        a, b = self.value, _value(other)
        return _make(a * b, (self, lambda g: g * b), (other, lambda g: g * a))

    def __pow__(self, other: Any) -> "Var":
        return _power(self, other)

    def __rpow__(self, other: Any) -> "Var":
        return _power(other, self)

    def __matmul__(self, other: Any) -> "Var":
        return _matmul(self, other)

    def __rmatmul__(self, other: Any) -> "Var":
        return _matmul(other, self)

    def __neg__(self) -> "Var":
        return self * -1

    def __sub__(self, other: Any) -> "Var":
        return self + (-other if isinstance(other, Var) else -_value(other))

    def __rsub__(self, other: Any) -> "Var":
        return -self + other

    def __truediv__(self, other: Any) -> "Var":
        a, b = self.value, _value(other)
        return _make(a / b, (self, lambda g: g / b), (other, lambda g: -g * a / b / b))

    def __rtruediv__(self, other: Any) -> "Var":
        return self**-1 * other

    __radd__, __rmul__ = __add__, __mul__

    def tanh(self) -> "Var":
        """Return the hyperbolic tangent, entry by entry."""
        h = np.tanh(self.value)
        return _make(h, (self, lambda g: g * (1 - h * h)))

    def relu(self) -> "Var":
        """Return max(x, 0), entry by entry; its derivative at 0 is taken as 0."""
        return _make(np.maximum(self.value, 0), (self, lambda g: g * (self.value > 0)))

    def exp(self) -> "Var":
        """Return the exponential, entry by entry."""
        e = np.exp(self.value)
        return _make(e, (self, lambda g: g * e))

    def log(self) -> "Var":
        """Return the natural logarithm, entry by entry."""
        return _make(np.log(self.value), (self, lambda g: g / self.value))

    def sum(self, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False) -> "Var":
        """Return the sum of all entries, or along ``axis``."""
        kept = self.value.sum(axis=axis, keepdims=True)
        total = kept if keepdims else self.value.sum(axis=axis)
        return _make(total, (self, lambda g: np.broadcast_to(g.reshape(kept.shape), self.value.shape)))


def _make(value: Any, *parents: tuple[Any, Callable[[np.ndarray], np.ndarray]]) -> Var:
    """Return the Var of a result; operands that are plain numbers or arrays are constants, and no parents."""
    return Var(value, *(pair for pair in parents if isinstance(pair[0], Var)))


def _power(base: Any, exponent: Any) -> Var:
    a, b = _value(base), _value(exponent)
    value = a**b
    at_zero = np.where(np.equal(a, 0), 1, a)  # a**b does not move with b at a = 0, where log a is not finite
    return _make(
        value,
        (base, lambda g: g * b * a ** np.where(np.equal(b, 0), 1, b - 1)),
        (exponent, lambda g: g * value * np.log(at_zero)),
    )


def _matmul(left: Any, right: Any) -> Var:
    a, b = np.asarray(_value(left)), np.asarray(_value(right))
    value = a @ b
    rows, columns = np.atleast_2d(a), b[:, None] if b.ndim == 1 else b  # a vector is one row, or one column
    shape = (rows @ columns).shape

    def pull_left(g: np.ndarray) -> np.ndarray:
        return _sum_to(g.reshape(shape) @ columns.swapaxes(-1, -2), rows.shape).reshape(a.shape)

    def pull_right(g: np.ndarray) -> np.ndarray:
        return _sum_to(rows.swapaxes(-1, -2) @ g.reshape(shape), columns.shape).reshape(b.shape)

    return _make(value, (left, pull_left), (right, pull_right))


def finite_difference(f: Callable[[np.ndarray], Any], x: Any, *, step: float | None = None) -> np.ndarray:
    """Return the gradient of ``f`` at ``x`` by central differences, (f(x + h) - f(x - h)) / 2h entry by entry.

    Takes two calls of ``f`` for each entry, in the dtype of ``x``: in float64 some ten digits can be right, in float32
    about four.

    >>> finite_difference(lambda x: (x**2).sum(), [1.0, 2.0]).round(6).tolist()
    [2.0, 4.0]

    Args:
        f: takes an array like ``x`` and returns a scalar (a number, an array of shape () or a ``Var``).
        x: real numbers of any shape; whole numbers become float64.
        step: the step h. Left out, it is eps^(1/3) max(1, abs(x)) for each entry, which balances the error of the
            formula, of order h^2, against the rounding error, of order eps / h (*Numerical Recipes*, section 5.7).

    Raises:
        ValueError: for x that is not finite, a step that is not positive or too small to change x, or an f that does
            not return a scalar.
    """
    x = _floats("x", x)
    finite("x", x)
    if step is not None and not (np.isfinite(step) and step > 0):
        raise refuse("step", "to be a finite number above zero", repr(step))

    def at(index: tuple[int, ...], entry: Any) -> np.ndarray:
        moved = x.copy()
        moved[index] = entry
        value = f(moved)
        number = np.asarray(value.value if isinstance(value, Var) else value)
        if number.shape != ():
            raise refuse("f(x)", "to be a scalar", f"shape {number.shape}")
        return number

    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        h = np.finfo(x.dtype).eps ** (1 / 3) * max(1.0, abs(float(x[index]))) if step is None else step
        above, below = x.dtype.type(x[index] + h), x.dtype.type(x[index] - h)
        if not above > x[index] > below:
            raise refuse("step", f"to be large enough to change x = {x[index]:.3g}", f"{h:.3g}")
        gradient[index] = (at(index, above) - at(index, below)) / (above - below)
    return gradient
