"""What a function costs: operations, which are counted and the same on every run, and seconds, which are not."""

import timeit
from collections.abc import Callable
from time import perf_counter
from typing import Any

import jax

from gm_utils.validation import positive_int


def operations(f: Callable[..., Any], *args: Any, compiled: bool = True) -> float:
    """Return how many arithmetic operations one call ``f(*args)`` takes, by XLA's own cost analysis; nothing is run.

    An addition or a multiplication counts 1, and so does a tanh, an exp or a log. A product of (a, b) by (b, c)
    matrices counts 2 a b c. It is always the count of a processor's program, on a machine with a GPU too: other
    compilers merge other things, or do not count. The body of a ``lax`` loop is counted once, however often it runs:
    unroll it.

    >>> operations(jax.numpy.matmul, jax.numpy.ones((20, 30)), jax.numpy.ones((30, 40)))
    48000.0

    Args:
        f: a function that ``jax.jit`` takes.
        args: arrays or pytrees of arrays; only their shapes and dtypes matter.
        compiled: count what is left once the compiler has merged and dropped work; False counts the program as written.

    Raises:
        ValueError: if ``f`` takes no operation that the analysis counts.
    """
    shapes = jax.eval_shape(lambda *leaves: leaves, *args)  # arrays would bring their device with them
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        lowered = jax.jit(f).lower(*shapes)
        costs: Any = (lowered.compile() if compiled else lowered).cost_analysis()
    costs = costs[0] if isinstance(costs, list | tuple) else costs
    count = float(costs.get("flops", 0.0)) + float(costs.get("transcendentals", 0.0))
    if not count > 0:
        raise ValueError(f"expected f to take at least one operation, got a count of {count:g}")
    return count


def seconds(f: Callable[..., Any], *args: Any, calls: int = 30) -> float:
    """Return the wall time of the best of some calls ``f(*args)``, after one more that compiles, in seconds.

    The best, because other work on the machine only adds. A call ends when its arrays hold their values.

    Raises:
        ValueError: if ``calls`` is no whole number above zero.
    """
    positive_int("calls", calls)
    taken = timeit.repeat(lambda: jax.block_until_ready(f(*args)), timer=perf_counter, repeat=1 + calls, number=1)
    return min(taken[1:])
