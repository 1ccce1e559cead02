"""How far two distributions are apart: Kullback-Leibler, Jensen-Shannon and Wasserstein-1.

Each function is zero if and only if its two distributions are equal. In Kullback-Leibler the order of the arguments
matters; the other two are symmetric. Values of arrays that JAX is tracing cannot be checked, only their shapes.

>>> print(f"{kl_categorical([1, 0], [0.25, 0.75]):.4f} = log 4, {js_categorical([1, 0], [0, 1]):.4f} = log 2")
1.3863 = log 4, 0.6931 = log 2
>>> float(kl_normal(mean_q=[1.0, 2.0], std_q=[1.0, 1.0]))
2.5
>>> float(wasserstein_histogram([1, 0, 0], [0, 0, 1])), float(wasserstein_samples([0.0, 1.0], [4.0, 3.0]))
(2.0, 3.0)
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gm_utils.validation import array_of_shape, broadcast, finite, floats, positive, refuse, traced


def kl_categorical(p: Any, q: Any) -> jax.Array:
    """Return KL(p || q) = sum of p log(p / q) over the last axis, in nats.

    A term with p = 0 counts 0; if q = 0 < p anywhere, the result is inf. Where it is finite, so are its gradients; that
    of a term with p = 0 is taken as 0. Kullback and Leibler (1951), equation 2.4.

    Args:
        p: probabilities, shape (..., k); leading axes broadcast.
        q: probabilities, shape (..., k).

    Raises:
        ValueError: for shapes that do not fit, and for values that are negative, not finite or do not sum to 1.
    """
    return _kl(*_two_distributions(p, q))


def js_categorical(p: Any, q: Any) -> jax.Array:
    """Return the Jensen-Shannon divergence (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in nats.

    At most log 2, reached where p and q share no outcome; finite gradients. Its square root is a metric.
    Lin (1991), equation 4.1.

    Args:
        p: probabilities, shape (..., k); leading axes broadcast.
        q: probabilities, shape (..., k).

    Raises:
        ValueError: as for ``kl_categorical``.
    """
    p, q = _two_distributions(p, q)
    # Doubled, not halved: half of the least number above zero would count as zero, and the divergence as infinite.
    return 0.25 * (_kl(2.0 * p, p + q) + _kl(2.0 * q, p + q))


def kl_normal(mean_q: Any, std_q: Any, mean_p: Any = 0.0, std_p: Any = 1.0) -> jax.Array:
    """Return KL(q || p) of normal distributions with independent features, in nats.

    With t = std_q / std_p, a feature counts 0.5 (t^2 - 1) - log t + 0.5 ((mean_q - mean_p) / std_p)^2. Kingma and
    Welling (2014, arXiv:1312.6114), appendix B, give the case of a standard normal p.

    Args:
        mean_q: the means; all four broadcast together to (..., features), and the last axis is summed over. Four
            scalars are one feature and give a scalar.
        std_q: standard deviations, not variances.
        mean_p: the means of p.
        std_p: the standard deviations of p.

    Raises:
        ValueError: for shapes that do not broadcast, means that are not finite and deviations that are not above zero.
    """
    names = ("mean_q", "std_q", "mean_p", "std_p")
    mean_q, std_q, mean_p, std_p = broadcast(names, [floats(value) for value in (mean_q, std_q, mean_p, std_p)])
    for name, value in zip(names, (mean_q, std_q, mean_p, std_p), strict=True):
        finite(name, value)
        if name.startswith("std") and not traced(value) and not (np.asarray(value) > 0).all():
            raise refuse(name, "to be above zero", np.asarray(value).min())
    ratio = std_q / std_p
    # Near t = 1, where the terms cancel, (t - 1)(t + 1) is exact to the last digits and t^2 - 1 is not.
    terms = 0.5 * (ratio - 1) * (ratio + 1) - jnp.log(ratio) + 0.5 * ((mean_q - mean_p) / std_p) ** 2
    return terms.sum(axis=-1) if terms.ndim else terms


def wasserstein_histogram(p: Any, q: Any, spacing: Any = 1.0) -> jax.Array:
    """Return the Wasserstein-1 distance of two histograms on one equally spaced grid, in the grid's unit of length.

    On a line it is the area between the two distribution functions. Vallender (1974).

    Args:
        p: probabilities of the k grid points, shape (..., k); leading axes broadcast.
        q: probabilities, shape (..., k).
        spacing: the distance between neighbours, a scalar above zero.

    Raises:
        ValueError: as for ``kl_categorical``, and for another ``spacing``.
    """
    p, q = _two_distributions(p, q)
    spacing = array_of_shape("spacing", floats(positive("spacing", spacing)), ())
    # The last difference is 1 - 1.
    return spacing * jnp.abs(jnp.cumsum(p - q, axis=-1)[..., :-1]).sum(axis=-1)


def wasserstein_samples(x: Any, y: Any) -> jax.Array:
    """Return the Wasserstein-1 distance of two samples of equal size, in the unit of the data, as a scalar.

    Between equal numbers of points with equal weights the best plan pairs them off. In one dimension it pairs them in
    order, which is cheap and works under JAX's transformations. In more, SciPy's exact assignment finds the pairs by
    Euclidean distance, outside JAX: 500 points take tens of milliseconds, and the time grows with the cube of n.

    Args:
        x: points, shape (n,) or (n, features).
        y: points, of the same shape: draw as many from both.

    Raises:
        ValueError: for other shapes, values that are not finite, and traced arrays of more than one feature.
    """
    x, y = floats(x), floats(y)
    x = array_of_shape("x", x, ("n", "features") if x.ndim == 2 else ("n",))
    y = array_of_shape("y, as many points as x,", y, x.shape)
    finite("x", x)
    finite("y", y)
    if x.ndim == 1 or x.shape[1] == 1:
        return jnp.abs(jnp.sort(x.reshape(-1)) - jnp.sort(y.reshape(-1))).mean()
    if traced(x, y):
        raise refuse("x and y of several features", "to be outside jit, vmap and grad", "a traced array")
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    distances = cdist(np.asarray(x, np.float64), np.asarray(y, np.float64))
    return jnp.asarray(distances[linear_sum_assignment(distances)].mean(), x.dtype)


def _kl(p: jax.Array, q: jax.Array) -> jax.Array:
    """KL over the last axis. Every log sees a safe number, else the branch not taken would put NaN in the gradient."""
    possible = p > 0
    both = possible & (q > 0)
    log_ratio = jnp.log(jnp.where(both, p, 1.0)) - jnp.log(jnp.where(both, q, 1.0))
    total = jnp.where(possible & ~both, jnp.inf, p * log_ratio).sum(axis=-1)
    # Rounding can leave a few 1e-8 below zero; the correction carries no gradient.
    return total + jax.lax.stop_gradient(jnp.maximum(-total, 0.0))


def _two_distributions(p: Any, q: Any) -> list[jax.Array]:
    """Check two batches of probabilities and broadcast them to one shape."""
    p, q = floats(p), floats(q)
    for name, value in (("p", p), ("q", q)):
        if not value.ndim or not value.size:
            raise refuse(name, "of shape (..., k) with k above zero", value.shape)
        finite(name, value)
        if not traced(value):
            exact = np.asarray(value, np.float64)
            if (exact < 0).any():
                raise refuse(name, "to be at least zero", exact.min())
            sums = exact.sum(axis=-1)
            worst = sums.flat[np.abs(sums - 1).argmax()]
            if abs(worst - 1) > 1e-5:
                raise refuse(name, "to sum to 1 over the last axis, within 1e-5", worst)
    if p.shape[-1] != q.shape[-1]:
        raise refuse("p and q", "to have last axes of one length", f"{p.shape} and {q.shape}")
    return broadcast(("p", "q"), [p, q])
