"""Variational autoencoders: an encoder q(z | x), a decoder p(x | z), and the bound that trains both.

The prior is p(z) = N(0, I) and q(z | x) = N(mean, diag(exp(log_var))), with mean and log_var from the encoder.
Kingma and Welling (2014, arXiv:1312.6114); Rezende, Mohamed and Wierstra (2014, arXiv:1401.4082).

>>> model, x = VAE(4, 2, [8], rngs=nnx.Rngs(0)), jnp.ones((3, 4))
>>> mean, log_var = model.encode(x)
>>> mean.shape, kl_to_prior(mean, log_var).shape, model.decode(mean).shape
((3, 2), (3, 2), (3, 4))
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gm_utils.networks import mlp
from gm_utils.validation import array_of_shape, binary, positive_int, refuse

_LECUN = nnx.initializers.lecun_normal()  # that of nnx.Linear, so that a network written by hand starts alike


class VAE(nnx.Module):
    """A variational autoencoder of black-and-white data: every feature of x is 0 or 1.

    ``hidden`` are the widths of the encoder's hidden layers; the decoder has them in reverse order.

    Args:
        features: size of x.
        latent: size of z.
        hidden: widths of the hidden layers, one or more, such as ``[128]``.
        rngs: random streams of the initial weights.

    Raises:
        ValueError: for sizes that are not whole numbers above zero, and for no hidden layer.
    """

    def __init__(self, features: int, latent: int, hidden: Sequence[int], *, rngs: nnx.Rngs) -> None:
        self.sizes = positive_int("features", features), positive_int("latent", latent)
        widths = [positive_int("hidden", width) for width in hidden]
        if not widths:
            raise refuse("hidden", "to be one or more widths", list(hidden))
        self.encoder = mlp([features, *widths, 2 * latent], rngs=rngs, kernel_init=_LECUN)
        self.decoder = mlp([latent, *widths[::-1], features], rngs=rngs, kernel_init=_LECUN)

    def encode(self, x: Any) -> tuple[jax.Array, jax.Array]:
        """Return mean and log variance of q(z | x), each (batch, latent), for ``x`` of shape (batch, features).

        Raises:
            ValueError: for an ``x`` of another shape.
        """
        mean, log_var = jnp.split(self.encoder(self._x(x)), 2, axis=-1)
        return mean, log_var

    def decode(self, z: Any) -> jax.Array:
        """Return the logits of p(x_i = 1 | z), (batch, features), for ``z`` of shape (batch, latent).

        Raises:
            ValueError: for a ``z`` of another shape.
        """
        return self.decoder(array_of_shape("z", jnp.asarray(z, jnp.float32), ("batch", self.sizes[1])))

    def log_likelihood(self, x: Any, z: Any) -> jax.Array:
        """Return log p(x | z) in nats, (batch,): a Bernoulli term for each feature. Override for other data.

        Args:
            x: (batch, features), zeros and ones.
            z: (batch, latent).

        Raises:
            ValueError: for another shape and for values other than 0 and 1; traced values cannot be checked.
        """
        x, logits = self._x(x), self.decode(z)
        binary("x", x, "to be zeros and ones, as a Bernoulli likelihood needs")
        return (x * logits - jax.nn.softplus(logits)).sum(axis=-1)

    def elbo(self, key: jax.Array, x: Any, beta: Any = 1.0) -> jax.Array:
        """Return one draw's estimate of E_q[log p(x | z)] - beta KL(q(z | x) || p(z)) in nats, for each example.

        The KL is exact, the expectation is estimated at one reparameterised z. At ``beta = 1`` the expected value is at
        most log p(x). Kingma and Welling (2014), equation 10; Higgins et al. (2017) for other weights.

        Args:
            key: a JAX random key.
            x: (batch, features), zeros and ones.
            beta: weight of the KL, a scalar; may be traced.

        Returns:
            (batch,). Its negative mean is the loss.

        Raises:
            ValueError: for another shape, and for values that ``log_likelihood`` refuses.
        """
        x = self._x(x)
        mean, log_var = self.encode(x)
        kl = kl_to_prior(mean, log_var).sum(axis=-1)
        return self.log_likelihood(x, reparameterise(key, mean, log_var)) - beta * kl

    def log_prob(self, key: jax.Array, x: Any, samples: int) -> jax.Array:
        """Return the importance-weighted estimate of log p(x) in nats, for each example.

        The logarithm of the mean of p(x, z) / q(z | x) over ``samples`` draws of z from q. Its expected value is the
        evidence bound for one sample, never falls as samples are added, and tends to log p(x) from below. Burda, Grosse
        and Salakhutdinov (2016, arXiv:1509.00519), equation 8.

        Args:
            key: a JAX random key.
            x: (batch, features), zeros and ones.
            samples: number of draws for each example. They are made one after the other, to save memory.

        Returns:
            (batch,).

        Raises:
            ValueError: as for ``elbo``, and for a number of samples that is no whole number above zero.
        """
        x, samples = self._x(x), positive_int("samples", samples)
        mean, log_var = self.encode(x)

        def log_weight(key: jax.Array) -> jax.Array:
            z = reparameterise(key, mean, log_var)
            log_q = _log_normal(z - mean, log_var)
            return self.log_likelihood(x, z) + _log_normal(z, jnp.zeros_like(z)) - log_q

        log_weights = jax.lax.map(log_weight, jax.random.split(key, samples))  # (samples, batch)
        return jax.nn.logsumexp(log_weights, axis=0) - math.log(samples)

    def sample(self, key: jax.Array, n: int) -> jax.Array:
        """Draw z from the prior, then x from p(x | z): (n, features) float32, zeros and ones.

        Raises:
            ValueError: if ``n`` is not a whole number above zero.
        """
        key_z, key_x = jax.random.split(key)
        z = jax.random.normal(key_z, (positive_int("n", n), self.sizes[1]))
        return jax.random.bernoulli(key_x, jax.nn.sigmoid(self.decode(z))).astype(jnp.float32)

    def _x(self, x: Any) -> jax.Array:
        return array_of_shape("x", jnp.asarray(x, jnp.float32), ("batch", self.sizes[0]))


def reparameterise(key: jax.Array, mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """Return z = mean + exp(log_var / 2) * noise with standard normal noise, of the shape of ``mean``.

    z has the law N(mean, exp(log_var)), and gradients with respect to both. Kingma and Welling (2014), section 2.4.
    """
    return mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape)


def kl_to_prior(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """Return KL(N(mean, exp(log_var)) || N(0, 1)) in nats, entry by entry: sum over the last axis for a vector z.

    (mean^2 + var - 1 - log var) / 2. Kingma and Welling (2014), appendix B. Averaged over data, an entry says how much
    a unit of the code is used; see ``active_units``.
    """
    # expm1 keeps the digits that var - 1 loses for a unit close to the prior.
    return 0.5 * (mean**2 + jnp.expm1(log_var) - log_var)


def active_units(mean: Any, threshold: float = 0.01) -> jax.Array:
    """Return which units of the code depend on x, (latent,) booleans: the variance of their mean is over ``threshold``.

    Burda, Grosse and Salakhutdinov (2016, arXiv:1509.00519), section 5.2.

    Args:
        mean: posterior means of many examples, (batch, latent), from ``encode``.
        threshold: in squared units of z, whose prior variance is 1.

    Raises:
        ValueError: for another shape.
    """
    return array_of_shape("mean", jnp.asarray(mean, jnp.float32), ("batch", "latent")).var(axis=0) > threshold


def _log_normal(gap: jax.Array, log_var: jax.Array) -> jax.Array:
    """Return the log density of N(0, diag(exp(log_var))) at ``gap``, summed over the last axis."""
    return -0.5 * (gap**2 * jnp.exp(-log_var) + log_var + math.log(2 * math.pi)).sum(axis=-1)
