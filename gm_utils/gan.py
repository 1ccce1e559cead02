"""The losses of generative adversarial networks, each with the sign that makes it one to minimise.

A discriminator returns *logits* a, with D(x) = sigmoid(a(x)) the probability that x is real. A critic returns *scores*
without a range. All losses are means over the batch. On logits log D = -softplus(-a) and log(1 - D) = -softplus(a):
values and gradients stay finite where D itself rounds to 0 or 1.

>>> fooled = jnp.zeros(4)  # D = 1/2
>>> print(f"{minimax_generator_loss(fooled):.4f}, {nonsaturating_generator_loss(fooled):.4f} = log 2")
-0.6931, 0.6931 = log 2
>>> print(f"{discriminator_loss(fooled, fooled):.4f} = log 4, {optimal_discriminator(0.25, 0.75):.2f}")
1.3863 = log 4, 0.25
>>> float(critic_loss([3.0, 5.0], [1.0])), float(gradient_penalty(jax.random.key(0), lambda x: 3 * x, [[1.0]], [[2.0]]))
(-3.0, 4.0)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gm_utils.validation import broadcast, floats, refuse, traced


def discriminator_loss(real_logits: Any, fake_logits: Any) -> jax.Array:
    """Return -E[log D(x)] - E[log(1 - D(G(z)))] in nats: what the discriminator minimises.

    Goodfellow et al. (2014, arXiv:1406.2661), the negative of equation 1. At the optimal discriminator it is
    log 4 - 2 JSD of data and fakes, and 0 at best. Each of the two means has weight 1, however many rows it has.

    Args:
        real_logits: a(x) of real rows, of any shape; (n,) as a rule.
        fake_logits: a(G(z)), of any shape.

    Raises:
        ValueError: for an empty array.
    """
    real, fake = _scores("real_logits", real_logits), _scores("fake_logits", fake_logits)
    return jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()


def minimax_generator_loss(fake_logits: Any) -> jax.Array:
    """Return E[log(1 - D(G(z)))] in nats: the generator's share of the game's value, at most 0.

    Goodfellow et al. (2014, arXiv:1406.2661), equation 1. Its derivative in a logit a is -sigmoid(a) / n: next to
    nothing for a fake that is found out.

    Args:
        fake_logits: a(G(z)), of any shape; (n,) as a rule.

    Raises:
        ValueError: for an empty array.
    """
    return -jax.nn.softplus(_scores("fake_logits", fake_logits)).mean()


def nonsaturating_generator_loss(fake_logits: Any) -> jax.Array:
    """Return -E[log D(G(z))] in nats: the other loss for the generator, at least 0.

    Goodfellow et al. (2014, arXiv:1406.2661), section 3. Its derivative in a logit a is -(1 - sigmoid(a)) / n: nearly
    -1 / n for a fake that is found out. It derives from no value that the discriminator shares.

    Args:
        fake_logits: a(G(z)), of any shape; (n,) as a rule.

    Raises:
        ValueError: for an empty array.
    """
    return jax.nn.softplus(-_scores("fake_logits", fake_logits)).mean()


def critic_loss(real_scores: Any, fake_scores: Any) -> jax.Array:
    """Return E[f(G(z))] - E[f(x)], in the unit of the scores: what a critic f minimises.

    Its negative is the critic's *gap*. With a constraint that makes f 1-Lipschitz the largest gap is the Wasserstein-1
    distance; without one it has no bound. Arjovsky, Chintala and Bottou (2017, arXiv:1701.07875), equation 2.

    Args:
        real_scores: f(x) of real rows, of any shape; (n,) as a rule.
        fake_scores: f(G(z)), of any shape.

    Raises:
        ValueError: for an empty array.
    """
    return _scores("fake_scores", fake_scores).mean() - _scores("real_scores", real_scores).mean()


def wasserstein_generator_loss(fake_scores: Any) -> jax.Array:
    """Return -E[f(G(z))], in the unit of the scores: the generator wants the scores of its fakes high.

    Arjovsky, Chintala and Bottou (2017, arXiv:1701.07875), theorem 3 and algorithm 1.

    Args:
        fake_scores: f(G(z)), of any shape; (n,) as a rule.

    Raises:
        ValueError: for an empty array.
    """
    return -_scores("fake_scores", fake_scores).mean()


def gradient_penalty(key: jax.Array, critic: Callable[[jax.Array], Any], real: Any, fake: Any) -> jax.Array:
    """Return E[(|grad f(y)| - 1)^2], to be multiplied by a weight lambda and added to ``critic_loss``.

    Each y lies at a uniform place of the segment between a real and a fake row, drawn from ``key``. Where the gradient
    is zero, its length gets the derivative 0. Gulrajani et al. (2017, arXiv:1704.00028), equation 3.

    Args:
        key: for the places on the segments.
        critic: a function of rows (n, ...) that returns a score a row, (n,) or (n, 1); no row may see another.
        real: (n, ...) rows.
        fake: (n, ...) rows, as many.

    Raises:
        ValueError: for shapes that differ, and for a critic that does not return one score a row.
    """
    real, fake = jnp.asarray(real), jnp.asarray(fake)
    if real.shape != fake.shape or real.ndim < 2 or not real.size:
        raise refuse("real and fake", "of one shape (n, ...) with rows", f"{real.shape} and {fake.shape}")
    place = jax.random.uniform(key, (len(real),) + (1,) * (real.ndim - 1), real.dtype)

    def total(y: jax.Array) -> jax.Array:
        scores = jnp.asarray(critic(y))
        if scores.shape not in ((len(real),), (len(real), 1)):
            raise refuse("critic", f"to return one score a row, ({len(real)},)", scores.shape)
        return scores.sum()

    gradient = jax.grad(total)(real + place * (fake - real)).reshape(len(real), -1)
    return ((optax.safe_norm(gradient, 0.0, axis=1) - 1.0) ** 2).mean()


def optimal_discriminator(p: Any, q: Any) -> jax.Array:
    """Return D*(x) = p(x) / (p(x) + q(x)), the best discriminator between data p and fakes q.

    Where both are 0 the value does not matter, and 0.5 is returned. Goodfellow et al. (2014, arXiv:1406.2661),
    proposition 1.

    Args:
        p: densities or probabilities of the data at some points, of any shape; the two broadcast.
        q: those of the fakes at the same points.

    Raises:
        ValueError: for shapes that do not broadcast, and for values that are negative, NaN or infinite.
    """
    p, q = floats(p), floats(q)
    for name, array in (("p", p), ("q", q)):
        if not traced(array):
            good = np.isfinite(array) & (np.asarray(array) >= 0)
            if not good.all():
                raise refuse(name, "to be finite and at least zero", np.asarray(array)[~good][0])
    p, q = broadcast(("p", "q"), (p, q))
    # p + q of two tiny or two huge densities would leave a float's range. D* does not depend on a common scale.
    largest = jax.lax.stop_gradient(jnp.maximum(p, q))
    possible = largest > 0
    scale = jnp.where(possible, largest, 1.0)
    return jnp.where(possible, (p / scale) / jnp.where(possible, p / scale + q / scale, 1.0), 0.5)


def _scores(what: str, value: Any) -> jax.Array:
    array = jnp.asarray(value)
    if not array.size:
        raise refuse(what, "to hold at least one score", array.shape)
    return array
