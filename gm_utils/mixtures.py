"""Mixtures of Gaussians: density, samples, and maximum likelihood with labels, without them, or with some.

The latent variable is the component. Where rows carry labels, a component is a class: the weights are the class
priors, the responsibilities the class posterior, and fitting takes one M-step instead of many.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gm_utils.validation import array_of_shape, finite, positive, positive_int, refuse, traced


class Mixture(NamedTuple):
    """The density p(x) = sum_k weights[k] N(x | means[k], covariances[k]) in d dimensions.

    A component of weight zero takes no part, whatever its mean; its covariance must still be positive definite. So
    mixtures of different sizes can share one shape, and one compilation.

    >>> two = Mixture(jnp.array([0.5, 0.5]), jnp.array([[-1.0], [1.0]]), jnp.ones((2, 1, 1)))
    >>> two.responsibilities([[0.0]]).tolist()
    [[0.5, 0.5]]

    Attributes:
        weights: (k,), from 0 to 1, of sum 1.
        means: (k, d).
        covariances: (k, d, d), positive definite.
    """

    weights: jax.Array
    means: jax.Array
    covariances: jax.Array

    def log_prob(self, x: Any) -> jax.Array:
        """Return the log density in nats, (batch,), at points ``x`` of shape (batch, d).

        Raises:
            ValueError: for an ``x`` of another shape.
        """
        return _log_prob(self, self._points(x))

    def responsibilities(self, x: Any) -> jax.Array:
        """Return P(component | x), the class posterior if components are classes: (batch, k), rows of sum 1.

        Raises:
            ValueError: for an ``x`` of another shape than (batch, d).
        """
        return _responsibilities(self, self._points(x))

    def sample(self, key: jax.Array, n: int) -> jax.Array:
        """Draw ``n`` independent points, (n, d): first a component, then a point of it.

        Raises:
            ValueError: if ``n`` is not a whole number above zero.
        """
        return _sample(key, self, n=positive_int("n", n))

    def _points(self, x: Any) -> jax.Array:
        return array_of_shape("x", x, ("batch", self.means.shape[-1])).astype(jnp.float32)


def fit_mixture(
    x: Any, weights: Any, means: Any, covariances: Any, *, steps: int, floor: float, row_weights: Any = None
) -> tuple[Mixture, jax.Array]:
    r"""Fit a mixture by expectation maximisation (EM) from a given start; one compilation for each set of shapes.

    With r the responsibilities and c the row weights, one step sets

        N_k = sum_i c_i r_ik,   weights_k = N_k / sum_i c_i,   means_k = sum_i c_i r_ik x_i / N_k,
        covariances_k = sum_i c_i r_ik (x_i - means_k)(x_i - means_k)^T / N_k

    and raises eigenvalues of a covariance that are below ``floor`` to it. That is the best covariance among those whose
    eigenvalues are all ``floor`` or more, so the likelihood still never falls, but for rounding; adding a constant to
    the diagonal, as scikit-learn's ``reg_covar`` does, has no such guarantee. Without a floor the likelihood has no
    maximum: a component on one row grows without limit. A component that no row belongs to keeps its mean and
    covariance, and has weight zero. Source: Dempster, Laird and Rubin (1977); Bishop (2006), section 9.2.

    Args:
        x: (n, d) rows.
        weights: (k,) to start from, of sum 1; a component of weight zero stays out, as padding.
        means: (k, d) to start from.
        covariances: (k, d, d) to start from, symmetric, raised to the floor before the first step.
        steps: how many; another number compiles anew.
        floor: the least eigenvalue of a covariance, above zero, in the squared units of x.
        row_weights: (n,), how often each row counts; None for once each. Rows of weight zero are padding.

    Returns:
        The mixture, and the mean log-likelihood of a row in nats, (steps + 1,), the start's first.

    Raises:
        ValueError: for other shapes; values that are not finite; weights that are negative or do not sum to 1;
            covariances that are not symmetric or have negative eigenvalues; row weights that are negative or all
            zero; ``steps`` or ``floor`` not above zero. Where JAX traces the call, only shapes and ``steps`` are looked
            at.
    """
    x = array_of_shape("x", x, ("n", "d"))
    n, d = x.shape
    means = array_of_shape("means", means, ("k", d))
    weights = array_of_shape("weights", weights, (means.shape[0],))
    covariances = array_of_shape("covariances", covariances, (means.shape[0], d, d))
    rows = array_of_shape("row_weights", jnp.ones(n) if row_weights is None else row_weights, (n,))
    steps = positive_int("steps", steps)
    for what, value in (("x", x), ("means", means), ("weights", weights), ("covariances", covariances)):
        finite(what, value)
    if not traced(weights) and (np.min(weights) < 0 or abs(np.sum(weights) - 1) > 1e-4):
        raise refuse("weights", "to be zero or more, of sum 1", np.asarray(weights).tolist())
    if not traced(rows) and not (np.min(rows) >= 0 and 0 < np.sum(rows) < np.inf):
        raise refuse("row_weights", "to be zero or more, and not all zero", np.asarray(rows).tolist())
    if not traced(covariances):
        _check_covariances(np.asarray(covariances))
    start = Mixture(*(part.astype(jnp.float32) for part in (weights, means, covariances)))
    least = jnp.asarray(positive("floor", floor), jnp.float32)
    return _em(start, x.astype(jnp.float32), rows.astype(jnp.float32), least, steps=steps)


def fit_classes(x: Any, labels: Any, *, classes: int, floor: float) -> Mixture:
    """Fit one Gaussian to the rows of each class and the class priors: maximum likelihood of p(x, label).

    Known as quadratic discriminant analysis. That is the M-step of ``fit_mixture`` with the labels for
    responsibilities. A class without rows has weight zero.

    Args:
        x: (n, d) rows.
        labels: (n,) whole numbers from 0 to ``classes`` - 1.
        classes: how many components the mixture has.
        floor: the least eigenvalue of a covariance, above zero.

    Raises:
        ValueError: for other shapes, an ``x`` that is not finite, labels that are no such numbers, or ``classes`` or
            ``floor`` not above zero.
    """
    x = array_of_shape("x", x, ("n", "d"))
    labels = array_of_shape("labels", labels, (x.shape[0],))
    classes = positive_int("classes", classes)
    finite("x", x)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise refuse("labels", "to be whole numbers", labels.dtype)
    if not traced(labels) and (np.min(labels) < 0 or np.max(labels) >= classes):
        raise refuse("labels", f"from 0 to {classes - 1}", f"{np.min(labels)} to {np.max(labels)}")
    least = jnp.asarray(positive("floor", floor), jnp.float32)
    return _class_fit(x.astype(jnp.float32), labels, least, classes=classes)


def _check_covariances(covariances: np.ndarray) -> None:
    size = np.abs(covariances).max(axis=(1, 2), keepdims=True)
    if (np.abs(covariances - covariances.swapaxes(1, 2)) > 1e-5 * size).any():
        raise refuse("covariances", "to be symmetric", covariances.tolist())
    lowest = np.linalg.eigvalsh(covariances).min(axis=1)
    if (lowest < -1e-5 * size[:, 0, 0]).any():
        raise refuse("covariances", "without negative eigenvalues", lowest.tolist())


def _log_joint(mixture: Mixture, x: jax.Array) -> jax.Array:
    """Return log weights[k] + log N(x | means[k], covariances[k]), (batch, k)."""
    d = x.shape[1]
    roots = jnp.linalg.cholesky(mixture.covariances)
    eye = jnp.broadcast_to(jnp.eye(d, dtype=x.dtype), roots.shape)
    whiten = jax.lax.linalg.triangular_solve(roots, eye, left_side=True, lower=True)  # (k, d, d), inverse roots
    white = jnp.einsum("kij,nkj->nki", whiten, x[:, None] - mixture.means[None])
    log_det = jnp.log(jnp.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)  # half of it, (k,)
    log_normal = -0.5 * (white**2).sum(axis=2) - log_det[None] - float(0.5 * d * np.log(2 * np.pi))
    return jnp.where(mixture.weights > 0, jnp.log(mixture.weights), -jnp.inf)[None] + log_normal


@jax.jit
def _log_prob(mixture: Mixture, x: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(_log_joint(mixture, x), axis=1)


@jax.jit
def _responsibilities(mixture: Mixture, x: jax.Array) -> jax.Array:
    return jax.nn.softmax(_log_joint(mixture, x), axis=1)


@functools.partial(jax.jit, static_argnames="n")
def _sample(key: jax.Array, mixture: Mixture, *, n: int) -> jax.Array:
    key_component, key_noise = jax.random.split(key)
    component = jax.random.categorical(key_component, jnp.log(mixture.weights), shape=(n,))
    noise = jax.random.normal(key_noise, (n, mixture.means.shape[1]), jnp.float32)
    roots = jnp.linalg.cholesky(mixture.covariances)
    return mixture.means[component] + jnp.einsum("nij,nj->ni", roots[component], noise)


def _raised(covariances: jax.Array, floor: jax.Array) -> jax.Array:
    """Raise eigenvalues below ``floor`` to it."""
    values, vectors = jnp.linalg.eigh(covariances)
    return jnp.einsum("kij,kj,klj->kil", vectors, jnp.maximum(values, floor), vectors)


def _m_step(old: Mixture, x: jax.Array, counts: jax.Array, floor: jax.Array) -> Mixture:
    """Return the mixture of largest expected log-likelihood; ``counts`` are row weights times responsibilities."""
    share = counts.sum(axis=0)
    alive = share > 0
    divisor = jnp.where(alive, share, 1.0)
    means = jnp.where(alive[:, None], counts.T @ x / divisor[:, None], old.means)
    gaps = x[:, None] - means[None]
    scatter = jnp.einsum("nk,nki,nkj->kij", counts, gaps, gaps) / divisor[:, None, None]
    covariances = jnp.where(alive[:, None, None], _raised(scatter, floor), old.covariances)
    return Mixture(share / share.sum(), means, covariances)


@functools.partial(jax.jit, static_argnames="steps")
def _em(start: Mixture, x: jax.Array, rows: jax.Array, floor: jax.Array, *, steps: int) -> tuple[Mixture, jax.Array]:
    def expect(mixture: Mixture) -> tuple[jax.Array, jax.Array]:
        joint = _log_joint(mixture, x)
        log_p = jax.nn.logsumexp(joint, axis=1)
        return jnp.exp(joint - log_p[:, None]), (rows * log_p).sum() / rows.sum()

    def step(mixture: Mixture, _: None) -> tuple[Mixture, jax.Array]:
        responsibilities, score = expect(mixture)
        return _m_step(mixture, x, rows[:, None] * responsibilities, floor), score

    start = start._replace(covariances=_raised(start.covariances, floor))
    fitted, scores = jax.lax.scan(step, start, None, length=steps)
    return fitted, jnp.append(scores, expect(fitted)[1])


@functools.partial(jax.jit, static_argnames="classes")
def _class_fit(x: jax.Array, labels: jax.Array, floor: jax.Array, *, classes: int) -> Mixture:
    d = x.shape[1]
    empty = Mixture(jnp.zeros(classes), jnp.zeros((classes, d)), jnp.tile(jnp.eye(d), (classes, 1, 1)))
    return _m_step(empty, x, jax.nn.one_hot(labels, classes, dtype=x.dtype), floor)
