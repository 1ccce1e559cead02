"""Dense networks: layers that see all of their inputs, with rectifiers between them.

>>> network = mlp([3, 8, 2], rngs=nnx.Rngs(0))
>>> network(jnp.ones((5, 3))).shape
(5, 2)
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gm_utils.validation import positive_int, refuse


def drawn_by_numpy(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
    """Return weights (fan_in, fan_out), normal of variance 1 / fan_in, the draws by NumPy with ``key`` as its seed.

    JAX would compile a random function for each shape, which takes longer than the first training. The law is that of
    LeCun et al. (1998, "Efficient BackProp"), section 4.6.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jnp.asarray(rng.normal(0, shape[0] ** -0.5, shape), dtype)


def mlp(
    widths: Sequence[int], *, rngs: nnx.Rngs, kernel_init: Callable[..., jax.Array] = drawn_by_numpy
) -> nnx.Sequential:
    """Return a multilayer perceptron, a function of rows (batch, widths[0]) -> (batch, widths[-1]).

    Args:
        widths: of the inputs, of each hidden layer, and of the outputs.
        rngs: random streams of the initial weights; biases start at zero.
        kernel_init: an initialiser as in ``nnx.initializers``; one object for all networks that are trained together.

    Raises:
        ValueError: for fewer than two widths, and for one that is not a whole number above zero.
    """
    if len(widths) < 2:
        raise refuse("widths", "to be two or more, from the inputs to the outputs", list(widths))
    widths = [positive_int("each width", width) for width in widths]
    layers: list[Any] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nnx.relu, nnx.Linear(fan_in, fan_out, kernel_init=kernel_init, rngs=rngs)]
    return nnx.Sequential(*layers[1:])
