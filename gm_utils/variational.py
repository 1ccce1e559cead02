"""Approximate inference: the evidence bound and its gradients, mean field for a Gaussian, and a Markov chain.

A ``log_joint`` is log p(x, z) as a function of z alone, the data x being fixed: it takes a batch of z, shape (n, d),
and returns n numbers in nats. The approximation of the two gradients is q(z) = N(mean, diag(exp(log_std))^2).

>>> mean, (first, second) = mean_field_gaussian([0.0, 0.0], [[1.0, 0.6], [0.6, 1.0]])
>>> print(f"{first:.4f} = 1 - 0.6^2: too narrow")
0.6400 = 1 - 0.6^2: too narrow
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gm_utils.validation import array_of_shape, finite, floats, positive, positive_int, refuse, traced

LogDensity = Callable[[jax.Array], jax.Array]


def elbo(log_joint: LogDensity, log_q: LogDensity, samples: Any) -> jax.Array:
    """Return the mean of log p(x, z) - log q(z) over draws z from q: an unbiased estimate of the evidence bound.

    Its expectation is log p(x) - KL(q || p(z | x)). Jordan et al. (1999), section 4; Blei et al. (2017), equation 13.

    Args:
        log_joint: log p(x, z) of a batch, (n, d) -> (n,).
        log_q: the normalised log density of q, (n, d) -> (n,).
        samples: the draws, shape (n, d), or the points of a quadrature with equal weights.

    Raises:
        ValueError: for samples of another shape, and for functions that do not return one number for each.
    """
    samples = array_of_shape("samples", samples, ("n", "d"))  # whole numbers of a discrete z stay whole
    return (_values("log_joint", log_joint, samples) - _values("log_q", log_q, samples)).mean()


def mean_field_gaussian(mean: Any, covariance: Any, direction: str = "reverse") -> tuple[jax.Array, jax.Array]:
    """Return the mean and variances, both (d,), of the best Gaussian with independent parts for N(mean, covariance).

    The mean is exact either way. "reverse" minimises KL(q || p) and gives 1 / (precision matrix)_ii, the variance of
    z_i given all others; "forward" minimises KL(p || q) and gives covariance_ii. Bishop (2006), section 10.1.2.

    Args:
        mean: shape (d,).
        covariance: shape (d, d), symmetric and positive definite.
        direction: "reverse" or "forward".

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, a matrix that is no covariance, another
            direction. The values of traced arrays cannot be checked, only their shapes.
    """
    mean = array_of_shape("mean", floats(mean), ("d",))
    covariance = array_of_shape("covariance", floats(covariance), (mean.size, mean.size))
    if direction not in ("reverse", "forward"):
        raise refuse("direction", "to be 'reverse' or 'forward'", repr(direction))
    finite("mean", mean)
    finite("covariance", covariance)
    if not traced(covariance):
        matrix = np.asarray(covariance, dtype=np.float64)
        if not np.allclose(matrix, matrix.T, rtol=1e-5) or np.linalg.eigvalsh(matrix).min() <= 0:
            raise refuse("covariance", "to be symmetric and positive definite", matrix.tolist())
    if direction == "forward":
        return mean, jnp.diagonal(covariance)
    return mean, 1 / jnp.diagonal(jnp.linalg.inv(covariance))


def reparameterised_gradient(
    key: jax.Array, log_joint: LogDensity, mean: Any, log_std: Any, *, samples: int
) -> tuple[jax.Array, jax.Array]:
    """Return single-draw estimates of the bound's gradient, through z = mean + exp(log_std) * noise.

    The gradient of the entropy is exact: zero for the mean, one for each log_std. ``log_joint`` must be differentiable,
    and each of its values must depend on its own z only. Kingma and Welling (2014, arXiv:1312.6114), section 2.4.

    Args:
        key: a JAX random key. The two estimators use the same draws under the same key.
        log_joint: log p(x, z) of a batch, (n, d) -> (n,).
        mean: the mean of q, shape (d,).
        log_std: the logarithm of its standard deviations, shape (d,).
        samples: the number of draws.

    Returns:
        (d_mean, d_log_std), each (samples, d): average over the first axis to get the gradient to ascend.

    Raises:
        ValueError: for shapes that do not fit, and a number of samples that is no whole number above zero.
    """
    z, noise, std = _reparameterised(key, mean, log_std, samples)
    slope = jax.grad(lambda points: _values("log_joint", log_joint, points).sum())(z)
    return slope, slope * std * noise + 1


def score_function_gradient(
    key: jax.Array, log_joint: LogDensity, mean: Any, log_std: Any, *, samples: int, baseline: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Return single-draw estimates of the bound's gradient that need no gradient of ``log_joint``.

    Each is (log p(x, z) - log q(z)) times the gradient of log q(z). Also called REINFORCE. Ranganath et al. (2014,
    arXiv:1401.0118), equation 2.

    Args:
        key: a JAX random key. The two estimators use the same draws under the same key.
        log_joint: log p(x, z) of a batch, (n, d) -> (n,). It may have jumps.
        mean: shape (d,).
        log_std: shape (d,).
        samples: the number of draws.
        baseline: subtract from each draw's factor the mean factor of all other draws, which leaves no bias.

    Returns:
        (d_mean, d_log_std), each (samples, d).

    Raises:
        ValueError: as for ``reparameterised_gradient``; also for a baseline with a single draw.
    """
    if baseline and samples == 1:
        raise refuse("samples", "to be two or more with a baseline", samples)
    z, noise, std = _reparameterised(key, mean, log_std, samples)
    log_q = (-0.5 * noise**2 - jnp.log(std) - 0.5 * math.log(2 * math.pi)).sum(axis=1)
    factor = (_values("log_joint", log_joint, z) - log_q)[:, None]
    if baseline:
        factor = (factor - factor.mean()) * (samples / (samples - 1))
    return factor * noise / std, factor * (noise**2 - 1)


def metropolis(
    key: jax.Array, log_prob: LogDensity, start: Any, *, steps: int, scale: float
) -> tuple[jax.Array, jax.Array]:
    """Run Markov chains that propose a Gaussian step and keep it with probability min(1, p(new) / p(old)).

    Metropolis et al. (1953). Nothing is thrown away: the first draws still remember ``start``. Calls with the same
    function object, shapes and number of steps share one compilation.

    Args:
        key: a JAX random key.
        log_prob: the log density of a batch up to a constant, (n, d) -> (n,).
        start: one starting point for each chain, shape (chains, d).
        steps: the number of steps.
        scale: the standard deviation of a proposed step, in the units of z.

    Returns:
        the draws, (steps, chains, d), and the share of proposals that each chain accepted, (chains,).

    Raises:
        ValueError: for shapes that do not fit, a scale that is not above zero, no step, and a start of density zero.
    """
    start = array_of_shape("start", floats(start), ("chains", "d"))
    positive_int("steps", steps)
    positive("scale", scale)
    finite("log_prob(start)", _values("log_prob", log_prob, start))
    return _chains(key, log_prob, start, jnp.asarray(scale, start.dtype), steps)


def effective_samples(chain: Any) -> float:
    """Return how many independent draws estimate the mean as well as one chain, shape (n,), does; at most n.

    The effective sample size of a Markov chain, n / (1 + 2 * the sum of the autocorrelations), summed in pairs that may
    not grow and cut at the first one that is not positive: Geyer (1992), section 3.3.

    Raises:
        ValueError: for another shape, values that are not finite, and a chain that never moves.
    """
    x = np.asarray(chain, dtype=np.float64)
    array_of_shape("chain", x.astype(np.float32), ("n",))
    finite("chain", x)
    centred = x - x.mean()
    if not centred.any():
        raise refuse("chain", "to move", f"{len(x)} equal values")
    # Padded with as many zeros, or the end of the chain would be compared with its beginning.
    power = np.abs(np.fft.rfft(centred, 2 * len(x))) ** 2
    covariance = np.fft.irfft(power, 2 * len(x))[: len(x)]
    pairs = covariance[: len(x) // 2 * 2].reshape(-1, 2).sum(axis=1) / covariance[0]
    positive = np.logical_and.accumulate(pairs > 0)
    time = 2 * np.minimum.accumulate(pairs)[positive].sum() - 1
    return float(len(x) / max(time, 1.0))


@partial(jax.jit, static_argnames=("log_prob", "steps"))
def _chains(
    key: jax.Array, log_prob: LogDensity, start: jax.Array, scale: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array]:
    def step(state: tuple[jax.Array, jax.Array], key: jax.Array) -> tuple[Any, Any]:
        z, density = state
        moving, keeping = jax.random.split(key)
        proposed = z + scale * jax.random.normal(moving, z.shape, z.dtype)
        proposed_density = log_prob(proposed)
        accept = jnp.log(jax.random.uniform(keeping, density.shape)) < proposed_density - density
        z = jnp.where(accept[:, None], proposed, z)
        return (z, jnp.where(accept, proposed_density, density)), (z, accept)

    _, (draws, accepted) = jax.lax.scan(step, (start, log_prob(start)), jax.random.split(key, steps))
    return draws, accepted.mean(axis=0)


def _reparameterised(key: jax.Array, mean: Any, log_std: Any, samples: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the draws and their noise, (samples, d), and the standard deviations, (d,)."""
    mean = array_of_shape("mean", floats(mean), ("d",))
    std = jnp.exp(array_of_shape("log_std", floats(log_std), mean.shape))
    noise = jax.random.normal(key, (positive_int("samples", samples), mean.size))
    return mean[None] + std[None] * noise, noise, std[None]


def _values(name: str, function: LogDensity, points: jax.Array) -> jax.Array:
    values = jnp.asarray(function(points))
    if values.shape != points.shape[:1]:
        raise refuse(f"{name} of {points.shape} points", f"of shape {points.shape[:1]}", values.shape)
    return values
