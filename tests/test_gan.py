"""The losses of adversarial training, against formulas of their own, limits, and a second route."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

from gm_utils.divergences import js_categorical
from gm_utils.gan import (
    critic_loss,
    discriminator_loss,
    gradient_penalty,
    minimax_generator_loss,
    nonsaturating_generator_loss,
    optimal_discriminator,
    wasserstein_generator_loss,
)

KEY = jax.random.key(3)
REAL, FAKE = jax.random.normal(KEY, (7,)), 1.5 * jax.random.normal(jax.random.key(4), (5,)) - 1.0
OF_FAKES = [minimax_generator_loss, nonsaturating_generator_loss, wasserstein_generator_loss]
OF_BOTH = [discriminator_loss, critic_loss]


def probability(logits):
    return expit(np.asarray(logits, np.float64))


def test_the_losses_by_their_definitions():
    d_real, d_fake = probability(REAL), probability(FAKE)
    value = np.log(d_real).mean() + np.log(1 - d_fake).mean()
    np.testing.assert_allclose(discriminator_loss(REAL, FAKE), -value, rtol=1e-6)
    np.testing.assert_allclose(minimax_generator_loss(FAKE), np.log(1 - d_fake).mean(), rtol=1e-6)
    np.testing.assert_allclose(nonsaturating_generator_loss(FAKE), -np.log(d_fake).mean(), rtol=1e-6)
    np.testing.assert_allclose(critic_loss(REAL, FAKE), np.mean(FAKE) - np.mean(REAL), rtol=1e-5)
    np.testing.assert_allclose(wasserstein_generator_loss(FAKE), -np.mean(FAKE), rtol=1e-6)


@pytest.mark.parametrize("generator_loss", OF_FAKES)
def test_a_generator_gains_by_higher_scores(generator_loss):
    """Its gradient step must make fakes look more real, and the one for its opponent less."""
    assert (np.asarray(jax.grad(generator_loss)(FAKE)) < 0).all()
    assert float(generator_loss(FAKE + 1)) < float(generator_loss(FAKE))


@pytest.mark.parametrize("loss", OF_BOTH)
def test_an_opponent_gains_by_higher_scores_of_the_real_and_lower_of_the_fake(loss):
    of_real, of_fake = jax.grad(loss, argnums=(0, 1))(REAL, FAKE)
    assert (np.asarray(of_real) < 0).all()
    assert (np.asarray(of_fake) > 0).all()


def test_the_ratio_of_the_two_generator_gradients():
    for d in (0.01, 0.5, 0.99):
        logit = jnp.float32(np.log(d / (1 - d)))
        weak, strong = jax.grad(minimax_generator_loss)(logit), jax.grad(nonsaturating_generator_loss)(logit)
        np.testing.assert_allclose([weak, strong], [-d, -(1 - d)], rtol=1e-5)
        np.testing.assert_allclose(strong / weak, (1 - d) / d, rtol=1e-4)


def test_a_generator_moves_the_term_of_the_fakes_alone():
    def value(shift):  # of a fixed discriminator a(x) = 2x - 1
        return discriminator_loss(2 * REAL - 1, 2 * (FAKE + shift) - 1)

    of_value = jax.grad(value)(0.0)
    of_own_loss = jax.grad(lambda shift: minimax_generator_loss(2 * (FAKE + shift) - 1))(0.0)
    np.testing.assert_allclose(of_value, -of_own_loss, rtol=1e-6)


@pytest.mark.parametrize("logit", [-200.0, -30.0, 0.0, 30.0, 200.0])
def test_values_and_gradients_stay_finite_and_right_at_any_logit(logit):
    x = jnp.full((3,), logit)
    up, down = np.logaddexp(0, logit), np.logaddexp(0, -logit)  # softplus of a and of -a
    expected = [-up, down, -logit]
    for loss, wanted in zip(OF_FAKES, expected, strict=True):
        value, gradient = jax.value_and_grad(loss)(x)
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-37)
        assert np.isfinite(gradient).all()
    slopes = [-expit(logit), -expit(-logit), -1.0]
    for loss, wanted in zip(OF_FAKES, slopes, strict=True):
        np.testing.assert_allclose(jax.grad(loss)(x), np.full(3, wanted / 3), rtol=1e-5, atol=1e-37)
    for loss in OF_BOTH:
        for other in (-200.0, 0.0, 200.0):
            value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(x, jnp.full((2,), other))
            assert np.isfinite([value, *np.ravel(gradients[0]), *np.ravel(gradients[1])]).all()
    np.testing.assert_allclose(discriminator_loss(x, x), up + down, rtol=1e-6)


def test_real_and_fake_in_unequal_numbers_count_alike():
    thrice = jnp.concatenate([REAL, REAL, REAL])
    for loss in OF_BOTH:
        np.testing.assert_allclose(loss(thrice, FAKE), loss(REAL, FAKE), rtol=1e-5)


# --- the optimal discriminator ---


def test_at_the_optimum_the_loss_is_log_4_less_twice_the_divergence():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(12), 2)
    d = np.asarray(optimal_discriminator(p, q), np.float64)
    logits = np.log(d / (1 - d))
    # Expectations under p and q are means over copies, in whole numbers.
    copies_p, copies_q = np.rint(1e5 * p).astype(int), np.rint(1e5 * q).astype(int)
    loss = discriminator_loss(np.repeat(logits, copies_p), np.repeat(logits, copies_q))
    np.testing.assert_allclose(loss, np.log(4) - 2 * js_categorical(p, q), rtol=1e-3)
    for _ in range(20):
        other = logits + 0.3 * rng.normal(size=12)
        assert discriminator_loss(np.repeat(other, copies_p), np.repeat(other, copies_q)) > loss


def test_two_bells_by_quadrature():
    x = np.linspace(-5, 8, 27)
    d = optimal_discriminator(norm.pdf(x), norm.pdf(x, 3))
    np.testing.assert_allclose(d, expit(3 * (1.5 - x)), rtol=2e-5)  # the log ratio of two unit bells is linear

    def integrand(x):
        d = expit(3 * (1.5 - x))
        return norm.pdf(x) * np.log(d) + norm.pdf(x, 3) * np.log1p(-d)

    grid = np.linspace(-9, 12, 4001)
    p, q = (norm.pdf(grid, mean) for mean in (0, 3))
    value = quad(integrand, -9, 12)[0]
    np.testing.assert_allclose(value, -np.log(4) + 2 * js_categorical(p / p.sum(), q / q.sum()), rtol=1e-4)


@pytest.mark.parametrize(
    ("p", "q", "d"),
    [(0.0, 0.0, 0.5), (0.0, 2.0, 0.0), (3.0, 0.0, 1.0), (2e-38, 6e-38, 0.25), (2e38, 2e38, 0.5), (1, 3, 0.25)],
)
def test_limits_of_the_optimal_discriminator(p, q, d):
    np.testing.assert_allclose(optimal_discriminator(p, q), d, rtol=1e-6)
    assert np.isfinite(jax.grad(optimal_discriminator, argnums=(0, 1))(float(p), float(q))).all()


# --- the gradient penalty ---


def test_a_linear_critic_pays_for_its_slope_everywhere():
    real, fake, slope = jnp.ones((6, 3)), jnp.zeros((6, 3)), jnp.array([1.0, 2.0, 2.0])
    np.testing.assert_allclose(gradient_penalty(KEY, lambda y: y @ slope, real, fake), (3.0 - 1) ** 2, rtol=1e-6)
    np.testing.assert_allclose(gradient_penalty(KEY, lambda y: (y @ slope)[:, None] / 3, real, fake), 0.0, atol=1e-12)


def test_the_places_fill_the_segments_evenly():
    n = 20_000
    # |grad x^2 / 2| = x at places uniform on (0, 2): the mean of (x - 1)^2 is 1/3, its spread sqrt(4/45) a place.
    penalty = gradient_penalty(KEY, lambda y: y[:, 0] ** 2 / 2, 2 * jnp.ones((n, 1)), jnp.zeros((n, 1)))
    assert abs(float(penalty) - 1 / 3) < 4 * np.sqrt(4 / 45 / n)
    assert float(penalty) != float(gradient_penalty(jax.random.key(9), lambda y: y[:, 0] ** 2 / 2,
                                                    2 * jnp.ones((n, 1)), jnp.zeros((n, 1))))  # fmt: skip


def test_each_place_lies_between_its_own_two_rows():
    real = jnp.array([[0.0, 0.0], [10.0, 0.0]])
    seen = []

    def critic(y):
        jax.debug.callback(lambda y: seen.append(np.array(y)), y)
        return y[:, 0]

    gradient_penalty(KEY, critic, real, real + jnp.array([[0.0, 4.0]]))
    jax.effects_barrier()
    np.testing.assert_array_equal(seen[0][:, 0], [0.0, 10.0])
    assert ((seen[0][:, 1] > 0) & (seen[0][:, 1] < 4)).all()
    assert seen[0][0, 1] != seen[0][1, 1]


def test_images_have_one_gradient_a_row():
    real, fake = jnp.ones((4, 2, 3)), jnp.zeros((4, 2, 3))
    penalty = gradient_penalty(KEY, lambda y: 2 * y.sum(axis=(1, 2)), real, fake)
    np.testing.assert_allclose(penalty, (2 * np.sqrt(6) - 1) ** 2, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 200.0])
def test_the_penalty_has_finite_gradients_even_where_the_critic_is_flat(scale):
    def penalty(weight):
        return gradient_penalty(KEY, lambda y: jnp.tanh(y @ weight), jnp.ones((5, 2)), -jnp.ones((5, 2)))

    value, gradient = jax.value_and_grad(penalty)(scale * jnp.ones(2))
    assert np.isfinite([value, *gradient]).all()


def test_the_gap_overshoots_by_the_law_of_point_masses():
    """Data at w, fakes at 0: a critic of slope s gains s w - lambda (s - 1)^2, most at s = 1 + w / (2 lambda)."""
    w, n = 1.39, 4
    real, fake = jnp.full((n, 1), w), jnp.zeros((n, 1))
    for lam in (10.0, 1.0, 0.1):

        def objective(s, lam=lam):
            critic = lambda y: s * y[:, 0]  # noqa: E731
            return critic_loss(critic(real), critic(fake)) + lam * gradient_penalty(KEY, critic, real, fake)

        s = 1 + w / (2 * lam)
        np.testing.assert_allclose(jax.grad(objective)(s), 0.0, atol=1e-4 * s)
        assert objective(s) < min(objective(s * 1.01), objective(s * 0.99))


# --- refusals ---


@pytest.mark.parametrize("loss", OF_FAKES)
def test_an_empty_batch_is_refused(loss):
    with pytest.raises(ValueError, match=r"expected fake_\w+ to hold at least one score, got \(0,\)"):
        loss(jnp.zeros(0))


@pytest.mark.parametrize("loss", OF_BOTH)
def test_an_empty_side_is_refused(loss):
    with pytest.raises(ValueError, match=r"expected real_\w+ to hold at least one score, got \(0,\)"):
        loss(jnp.zeros(0), FAKE)
    with pytest.raises(ValueError, match=r"expected fake_\w+ to hold at least one score, got \(0,\)"):
        loss(REAL, jnp.zeros(0))


@pytest.mark.parametrize(
    ("critic", "real", "fake", "message"),
    [
        (lambda y: y[:, 0], (4, 2), (5, 2), r"expected real and fake of one shape .* got \(4, 2\) and \(5, 2\)"),
        (lambda y: y[:, 0], (4,), (4,), r"expected real and fake of one shape .* got \(4,\) and \(4,\)"),
        (lambda y: y[:, 0], (0, 2), (0, 2), "expected real and fake of one shape"),
        (lambda y: y.sum(), (4, 2), (4, 2), r"expected critic to return one score a row, \(4,\), got \(\)"),
        (lambda y: y, (4, 2), (4, 2), r"expected critic to return one score a row, \(4,\), got \(4, 2\)"),
    ],
)
def test_refusals_of_the_penalty(critic, real, fake, message):
    with pytest.raises(ValueError, match=message):
        gradient_penalty(KEY, critic, jnp.ones(real), jnp.ones(fake))


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        ([0.5, -0.5], [1.0, 1.0], "expected p to be finite and at least zero, got -0.5"),
        ([0.5, 0.5], [1.0, np.nan], "expected q to be finite and at least zero, got nan"),
        ([np.inf], [1.0], "expected p to be finite and at least zero, got inf"),
        ([1.0, 1.0], [1.0, 1.0, 1.0], r"expected p and q to have shapes that broadcast, got \(2,\) and \(3,\)"),
    ],
)
def test_refusals_of_the_optimal_discriminator(p, q, message):
    with pytest.raises(ValueError, match=message):
        optimal_discriminator(jnp.array(p), jnp.array(q))
