"""Data sets: six densities on the plane, known exactly, and the real data of ``datasets``.

Each of ``two_moons``, ``eight_gaussians``, ``ring``, ``pinwheel``, ``checkerboard`` and ``banana`` is an object with
``.sample(key, n)``, ``.log_prob(x)`` and ``.entropy``. No model can score better on average than minus the entropy.

>>> points = banana.sample(jax.random.key(0), 5)
>>> points.shape, banana.log_prob(points).shape
((5, 2), (5,))
>>> round(banana.entropy, 4)
3.531
"""

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gm_utils.datasets import Split, digits, digits_binary, mnist, photo_patches, tabular  # noqa: F401
from gm_utils.precision import float64
from gm_utils.validation import array_of_shape, floats, positive_int


class Density:
    """A normalised density on the plane.

    A subclass writes ``_sample`` and ``_log_density``. The latter takes float32 and float64, so that one formula serves
    the reader and the quadrature of the entropy.

    Attributes:
        extent: (left, right, bottom, top) of a box that holds more than 99.8 % of the mass, in Matplotlib's order.
    """

    extent: tuple[float, float, float, float]
    _step: float

    def sample(self, key: jax.Array, n: int) -> jax.Array:
        """Draw ``n`` independent points, shape (n, 2), float32.

        Raises:
            ValueError: if ``n`` is not a whole number above zero.
        """
        return self._sample(key, positive_int("n", n))

    def log_prob(self, x: Any) -> jax.Array:
        """Return the log density in nats, shape (batch,), at points ``x`` of shape (batch, 2).

        Raises:
            ValueError: for an ``x`` of another shape.
        """
        return self._log_density(floats(array_of_shape("x", x, ("batch", 2))))

    @cached_property
    def entropy(self) -> float:
        """The differential entropy -E[log p(x)] in nats, computed in float64 when first asked for."""
        return self._entropy()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def _sample(self, key: jax.Array, n: int) -> jax.Array:
        raise NotImplementedError

    def _log_density(self, x: Any) -> Any:
        raise NotImplementedError

    def _entropy(self) -> float:
        """Sum -p log p over a grid: for an analytic density that decays fast, the error is below 1e-9 nats."""
        left, right, bottom, top = self.extent
        wide, high = (right - left) / 4, (top - bottom) / 4
        x1 = np.arange(left - wide, right + wide, self._step)
        x2 = np.arange(bottom - high, top + high, self._step)
        total, log_density = 0.0, jax.jit(self._log_density)
        with float64():
            for height in x2:  # a line of the grid at a time: a density of many centres needs memory at each point
                log_p = np.asarray(log_density(np.stack([x1, np.full_like(x1, height)], axis=-1)))
                total -= float(np.sum(np.exp(log_p) * log_p))
        return total * self._step**2


class _BlurredPoints(Density):
    """A mixture of round Gaussians: points with weights, blurred by noise of standard deviation ``std``."""

    std: float
    _centres: np.ndarray
    _weights: np.ndarray

    def _log_density(self, x: Any) -> Any:
        centres, log_weights = jnp.asarray(self._centres, x.dtype), jnp.asarray(np.log(self._weights), x.dtype)
        squared_distances = (x[:, :1] - centres[None, :, 0]) ** 2 + (x[:, 1:] - centres[None, :, 1]) ** 2
        terms = log_weights[None, :] - squared_distances / (2 * self.std**2)
        return jax.nn.logsumexp(terms, axis=-1) - float(np.log(2 * np.pi * self.std**2))


class TwoMoons(_BlurredPoints):
    """Two half circles, blurred: c(t) + 0.1 e with t uniform on [0, pi] and e standard normal in the plane.

    The moons, chosen with equal odds, are those of scikit-learn's ``make_moons``: c(t) = (cos t, sin t) and
    c(t) = (1 - cos t, 0.5 - sin t). The density is the integral of the Gaussian over t, by Gauss-Legendre quadrature
    with 128 angles a moon: log p is exact to 1e-5 nats within 10 of the origin, and to 1e-5 relative beyond.
    """

    std = 0.1
    extent = (-1.4, 2.4, -0.9, 1.4)
    _step = 0.1 / 3

    def __init__(self) -> None:
        nodes, weights = np.polynomial.legendre.leggauss(128)
        angles = np.pi / 2 * (1 + nodes)
        upper = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        self._centres = np.concatenate([upper, [1.0, 0.5] - upper])
        self._weights = np.tile(weights / 4, 2)

    def _sample(self, key: jax.Array, n: int) -> jax.Array:
        key_angle, key_moon, key_noise = jax.random.split(key, 3)
        angle = jax.random.uniform(key_angle, (n,), jnp.float32, 0.0, np.pi)
        upper = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        lower = jnp.asarray([[1.0, 0.5]], jnp.float32) - upper
        centres = jnp.where(jax.random.bernoulli(key_moon, shape=(n, 1)), upper, lower)
        return centres + self.std * jax.random.normal(key_noise, (n, 2), jnp.float32)


class EightGaussians(_BlurredPoints):
    """Eight round Gaussians of standard deviation 0.25, with equal weights, on a circle of radius 2.

    Component k sits at the angle k pi / 4. Neighbours are six standard deviations apart.
    """

    radius = 2.0
    std = 0.25
    extent = (-3.0, 3.0, -3.0, 3.0)
    _step = 0.0625

    def __init__(self) -> None:
        angles = np.arange(8) * np.pi / 4
        self._centres = self.radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        self._weights = np.full(8, 1 / 8)

    def _sample(self, key: jax.Array, n: int) -> jax.Array:
        key_component, key_noise = jax.random.split(key)
        centres = jnp.asarray(self._centres, jnp.float32)[jax.random.randint(key_component, (n,), 0, 8)]
        return centres + self.std * jax.random.normal(key_noise, (n, 2), jnp.float32)


class Ring(Density):
    """A circle of radius 2, blurred: 2 (cos t, sin t) + 0.2 e with t uniform and e standard normal in the plane.

    With r = |x|, radius R and noise s, integrating over t gives
    p(x) = exp(-(r^2 + R^2) / (2 s^2)) I0(r R / s^2) / (2 pi s^2), where I0 is the modified Bessel function of order 0.
    So r follows Rice's distribution.
    """

    radius = 2.0
    std = 0.2
    extent = (-2.8, 2.8, -2.8, 2.8)
    _step = 0.05

    def _sample(self, key: jax.Array, n: int) -> jax.Array:
        key_angle, key_noise = jax.random.split(key)
        angle = jax.random.uniform(key_angle, (n,), jnp.float32, 0.0, 2 * np.pi)
        circle = self.radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        return circle + self.std * jax.random.normal(key_noise, (n, 2), jnp.float32)

    def _log_density(self, x: Any) -> Any:
        variance = self.std**2
        r = _norm(x)
        # i0e(k) = exp(-k) I0(k) leaves a square in the exponent, where r^2, R^2 and r R apart would cancel.
        scaled_bessel = jax.scipy.special.i0e(r * (self.radius / variance))
        return jnp.log(scaled_bessel) - (r - self.radius) ** 2 / (2 * variance) - float(np.log(2 * np.pi * variance))


class Pinwheel(Density):
    """Five arms, twisted: Gaussians along five spokes, turned by 0.5 rad for each unit of distance from the centre.

    An arm is drawn as v = (2 + 0.5 a, 0.2 b) with a, b standard normal, and x = Rotation(2 pi k / 5 + 0.5 |v|) v.
    As |x| = |v|, the twist is undone by turning back. In polar coordinates it adds a function of r to the angle, so its
    Jacobian determinant is 1, and p(x) is the average over k of the Gaussian density of x turned back.
    After the pinwheel of Johnson et al. (2016, arXiv:1603.06277), whose twist depends on v's first coordinate
    instead, and then has no inverse in the tails.
    """

    arms = 5
    radius = 2.0
    radial_std = 0.5
    tangential_std = 0.2
    twist = 0.5
    extent = (-4.0, 4.0, -4.0, 4.0)
    _step = 0.05

    def _sample(self, key: jax.Array, n: int) -> jax.Array:
        key_arm, key_noise = jax.random.split(key)
        noise = jax.random.normal(key_noise, (n, 2), jnp.float32)
        v1, v2 = self.radius + self.radial_std * noise[:, 0], self.tangential_std * noise[:, 1]
        arm = jax.random.randint(key_arm, (n,), 0, self.arms).astype(jnp.float32)
        turn = arm * (2 * np.pi / self.arms) + self.twist * jnp.hypot(v1, v2)
        cos, sin = jnp.cos(turn), jnp.sin(turn)
        return jnp.stack([cos * v1 - sin * v2, sin * v1 + cos * v2], axis=-1)

    def _log_density(self, x: Any) -> Any:
        arm_angles = jnp.asarray(2 * np.pi / self.arms * np.arange(self.arms), x.dtype)
        turn = arm_angles[None, :] + self.twist * _norm(x)[:, None]
        cos, sin = jnp.cos(turn), jnp.sin(turn)
        v1, v2 = cos * x[:, :1] + sin * x[:, 1:], cos * x[:, 1:] - sin * x[:, :1]
        log_arms = _log_normal(v1, self.radius, self.radial_std) + _log_normal(v2, 0.0, self.tangential_std)
        return jax.nn.logsumexp(log_arms, axis=-1) - float(np.log(self.arms))


class Checkerboard(Density):
    """Uniform on the eight dark squares, of side 2, of a four by four board on [-4, 4) x [-4, 4).

    The square that holds x is dark where floor(x1 / 2) + floor(x2 / 2) is even. The dark area is 32, so the entropy is
    log 32; the log density is -inf on the light squares and off the board.
    """

    side = 2.0
    extent = (-4.0, 4.0, -4.0, 4.0)

    def _sample(self, key: jax.Array, n: int) -> jax.Array:
        key_square, key_place = jax.random.split(key)
        square = jax.random.randint(key_square, (n,), 0, 8)
        row = square // 2
        column = 2 * (square % 2) + row % 2
        corner = self.side * (jnp.stack([column, row], axis=-1) - 2).astype(jnp.float32)
        return corner + self.side * jax.random.uniform(key_place, (n, 2), jnp.float32)

    def _log_density(self, x: Any) -> Any:
        cells = jnp.floor(x / self.side)
        on_board = ((cells >= -2) & (cells < 2)).all(axis=-1)
        dark = on_board & (cells.sum(axis=-1) % 2 == 0)
        log_density = jnp.where(dark, jnp.asarray(-self._entropy(), x.dtype), -jnp.inf)
        return jnp.where(jnp.isnan(x).any(axis=-1), jnp.nan, log_density)

    def _entropy(self) -> float:
        return float(np.log(8 * self.side**2))


class Banana(Density):
    """A bent Gaussian: x2 ~ N(0, 4), then x1 ~ N(x2^2 / 4, 1), where 4 and 1 are variances; features are (x1, x2).

    The density to learn in section 4.1 of Papamakarios, Pavlakou and Murray (2017, arXiv:1705.07057). The entropy is
    the sum of those of the two conditionals, 0.5 log(2 pi e 4) + 0.5 log(2 pi e) nats.
    """

    extent = (-4.0, 16.0, -7.0, 7.0)

    def _sample(self, key: jax.Array, n: int) -> jax.Array:
        noise = jax.random.normal(key, (n, 2), jnp.float32)
        x2 = 2 * noise[:, 1]
        return jnp.stack([x2**2 / 4 + noise[:, 0], x2], axis=-1)

    def _log_density(self, x: Any) -> Any:
        x1, x2 = x[:, 0], x[:, 1]
        return _log_normal(x2, 0.0, 2.0) + _log_normal(x1, x2**2 / 4, 1.0)

    def _entropy(self) -> float:
        return float(np.log(2 * np.pi * np.e) + np.log(2))


def _norm(x: Any) -> Any:
    """Return |x| along the last axis, with gradient 0 at the origin, where a bare square root gives NaN."""
    return jnp.sqrt(jnp.maximum((x**2).sum(axis=-1), float(np.finfo(np.float32).tiny)))


def _log_normal(x: Any, mean: Any, std: float) -> Any:
    return -0.5 * ((x - mean) / std) ** 2 - float(np.log(std) + 0.5 * np.log(2 * np.pi))


two_moons = TwoMoons()
eight_gaussians = EightGaussians()
ring = Ring()
pinwheel = Pinwheel()
checkerboard = Checkerboard()
banana = Banana()
