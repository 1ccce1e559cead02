import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import multivariate_normal, norm

from gm_utils.variational import (
    effective_samples,
    elbo,
    mean_field_gaussian,
    metropolis,
    reparameterised_gradient,
    score_function_gradient,
)

KEY = jax.random.key(0)
MEAN = jnp.array([0.5, -1.0])
CORRELATIONS = [0.0, 0.3, 0.9, 0.99, -0.99]
LOG_EVIDENCE = -3.25


def correlated(r, d=2):
    return (1 - r) * jnp.eye(d) + r * jnp.ones((d, d))


def log_joint(z, r=0.6):
    """Return the log density of N(MEAN, correlated(r)), and a constant on top: a joint with known evidence."""
    return jax.vmap(lambda one: multivariate_normal.logpdf(one, MEAN, correlated(r)))(z) + LOG_EVIDENCE


def log_q(z, mean, std):
    return norm.logpdf(z, mean[None], std[None]).sum(axis=1)


def two_by_two(mean, std):
    """Return four points of equal weight whose mean is exact for every quadratic under N(mean, diag(std^2))."""
    return mean[None] + std[None] * jnp.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])


@jax.jit
def kl_full(mean, std, r):
    """Return KL(N(mean, diag(std^2)) || N(MEAN, correlated(r))), the latter's inverse written out."""
    inverse = jnp.array([[1.0, -1.0], [-1.0, 1.0]]) * r / (1 - r**2) + jnp.eye(2) / (1 + r)
    quadratic = (mean - MEAN) @ inverse @ (mean - MEAN) + (jnp.diagonal(inverse) * std**2).sum()
    return 0.5 * (quadratic - 2 + jnp.log(1 - r**2)) - jnp.log(std).sum()


def kl_by_hand(covariance, of):
    """Return KL(N(0, covariance) || N(0, of)) in float64."""
    covariance, of = np.asarray(covariance, np.float64), np.asarray(of, np.float64)
    ratio = np.linalg.solve(of, covariance)
    return 0.5 * (np.trace(ratio) - len(of) - np.linalg.slogdet(ratio)[1])


def test_the_oracles_of_this_file_agree_with_numpyro():
    dist = pytest.importorskip("numpyro.distributions")
    z, std = jax.random.normal(KEY, (5, 2)), jnp.array([0.7, 1.2])
    target, q = dist.MultivariateNormal(MEAN, correlated(0.6)), dist.Normal(MEAN + 1, std).to_event(1)
    np.testing.assert_allclose(log_joint(z) - LOG_EVIDENCE, jax.vmap(target.log_prob)(z), rtol=1e-5)
    np.testing.assert_allclose(log_q(z, MEAN + 1, std), jax.vmap(q.log_prob)(z), rtol=1e-5)
    full = dist.MultivariateNormal(MEAN + 1, jnp.diag(std**2))
    np.testing.assert_allclose(kl_full(MEAN + 1, std, 0.6), dist.kl_divergence(full, target), rtol=1e-5)
    around = dist.MultivariateNormal(MEAN, jnp.diag(std**2))
    by_hand = kl_by_hand(np.diag(std**2), correlated(0.6))
    np.testing.assert_allclose(by_hand, dist.kl_divergence(around, target), rtol=1e-5)


# The bound


@pytest.mark.parametrize("r", CORRELATIONS[:3])
def test_bound_and_divergence_add_up_to_the_evidence(r):
    for mean, std in [(MEAN, jnp.array([1.0, 0.3])), (jnp.array([2.0, 3.0]), jnp.array([0.1, 4.0]))]:
        bound = elbo(functools.partial(log_joint, r=r), lambda z, m=mean, s=std: log_q(z, m, s), two_by_two(mean, std))
        gap = kl_full(mean, std, r)
        # Terms of the size of the gap are added in float32; division by 1 - r^2 enlarges their rounding.
        size = 1 + abs(float(gap)) / (1 - r**2)
        assert float(bound + gap) == pytest.approx(LOG_EVIDENCE, abs=50 * size * float(np.finfo(np.float32).eps))


@pytest.mark.parametrize("kind", [list, np.array, jnp.array])
def test_whole_numbers_of_a_discrete_code_stay_whole(kind):
    table = jnp.log(jnp.array([0.2, 0.8]))
    by_index = lambda z: table[z[:, 0]]  # noqa: E731
    assert float(elbo(by_index, lambda z: jnp.zeros(len(z)), kind([[0], [1]]))) == pytest.approx(float(table.mean()))


def test_the_bound_is_tight_at_the_posterior_for_any_single_draw():
    one = jax.random.normal(KEY, (1, 2)) * 3
    bound = elbo(log_joint, lambda z: log_joint(z) - LOG_EVIDENCE, one)
    np.testing.assert_allclose(bound, LOG_EVIDENCE, rtol=1e-6)


def test_draws_estimate_the_bound_without_bias():
    mean, std = jnp.zeros(2), jnp.array([0.7, 1.2])
    z = mean[None] + std[None] * jax.random.normal(KEY, (40_000, 2))
    got = elbo(log_joint, lambda z: log_q(z, mean, std), z)
    terms = log_joint(z) - log_q(z, mean, std)
    assert abs(float(got) - (LOG_EVIDENCE - float(kl_full(mean, std, 0.6)))) < 4 * float(terms.std()) / 200


# Mean field


@pytest.mark.parametrize("r", CORRELATIONS)
def test_two_dimensions_have_closed_forms(r):
    condition = (1 + abs(r)) / (1 - abs(r))  # of the matrix: it multiplies the rounding of an inverse
    rtol = 8 * condition * np.finfo(np.float32).eps
    mean, reverse = mean_field_gaussian(MEAN, correlated(r))
    np.testing.assert_array_equal(mean, MEAN)
    np.testing.assert_allclose(reverse, np.full(2, 1 - r**2), rtol=rtol)
    _, forward = mean_field_gaussian(MEAN, correlated(r), "forward")
    np.testing.assert_array_equal(forward, np.ones(2))
    gap = -0.5 * np.log(1 - r**2)
    for measured in (
        kl_by_hand(np.diag(reverse), correlated(r)),
        kl_by_hand(correlated(r), np.diag(forward)),
    ):
        np.testing.assert_allclose(measured, gap, rtol=1e-5, atol=rtol)


def test_in_three_dimensions_the_two_gaps_differ():
    r, target = 0.9, correlated(0.9, 3)
    reverse, forward = (mean_field_gaussian(jnp.zeros(3), target, name)[1] for name in ("reverse", "forward"))
    # Equal correlations: |R| = (1-r)^2 (1+2r), and the inverse has (1+r) / ((1-r)(1+2r)) on its diagonal.
    log_det = 2 * np.log(1 - r) + np.log(1 + 2 * r)
    expected = 0.5 * (3 * np.log((1 + r) / ((1 - r) * (1 + 2 * r))) + log_det), -0.5 * log_det
    measured = kl_by_hand(np.diag(reverse), target), kl_by_hand(target, np.diag(forward))
    np.testing.assert_allclose(measured, expected, rtol=1e-5)
    assert expected[1] - expected[0] > 0.5


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_no_other_variances_do_better(direction):
    covariance = np.array([[2.0, 0.8, -0.3], [0.8, 1.0, 0.2], [-0.3, 0.2, 0.5]])

    def gap(variance):
        pair = (np.diag(variance), covariance)
        return kl_by_hand(*(pair if direction == "reverse" else pair[::-1]))

    best = np.asarray(mean_field_gaussian(jnp.zeros(3), covariance, direction)[1], dtype=np.float64)
    others = best * np.exp(0.02 * np.random.default_rng(3).normal(size=(200, 3)))
    # A step of 2 % costs some 1e-4, an error of float32 in the best itself some 1e-12.
    assert min(gap(other) for other in others) > gap(best)


def test_mean_field_under_jit_and_vmap():
    covariances = jnp.stack([correlated(r) for r in (0.2, 0.7)])
    _, variances = jax.jit(jax.vmap(mean_field_gaussian))(jnp.zeros((2, 2)), covariances)
    np.testing.assert_allclose(variances, [[0.96, 0.96], [0.51, 0.51]], rtol=1e-5)


# The gradients


def exact_gradient(mean, log_std):
    """Return the derivatives of log evidence - KL(q || p), by JAX from the closed form."""
    return jax.grad(lambda m, s: -kl_full(m, jnp.exp(s), 0.6), argnums=(0, 1))(mean, log_std)


ESTIMATORS = {
    "reparameterised": reparameterised_gradient,
    "score": score_function_gradient,
    "score with baseline": functools.partial(score_function_gradient, baseline=True),
}


@functools.partial(jax.jit, static_argnames=("name", "joint", "samples"))
def estimate(name, key, joint, mean, log_std, samples):
    return ESTIMATORS[name](key, joint, mean, log_std, samples=samples)


def standard_normal(z):
    return norm.logpdf(z).sum(axis=1)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("seed", range(2))
def test_unbiased(name, seed):
    mean, log_std, n = jnp.array([1.0, 0.2]), jnp.array([-0.4, 0.3]), 40_000
    estimates = estimate(name, jax.random.key(seed), log_joint, mean, log_std, n)
    for each, exact in zip(estimates, exact_gradient(mean, log_std), strict=True):
        assert each.shape == (n, 2)
        error = np.asarray(each.std(axis=0)) / np.sqrt(n)
        assert (np.abs(np.asarray(each.mean(axis=0) - exact)) < 4 * error).all()


@pytest.mark.parametrize("pair", [(1.0, 1.0), (0.5, 1.5)])
@pytest.mark.parametrize("d", [1, 10, 100])
def test_variances_against_dimension(d, pair):
    """Target N(0, I), q = N(mu, s^2 I): the factor is a sum of d terms a e^2 + b e + c, so its moments are sums."""
    mu, s = pair
    n, a, b, c = 20_000, (1 - s**2) / 2, -mu * s, -(mu**2) / 2 + np.log(s)
    rest, spread = (d - 1) * (a + c), (d - 1) * (2 * a**2 + b**2)
    own = 15 * a**2 + 3 * b**2 + c**2 + 6 * a * c
    plain = (own + 2 * (3 * a + c) * rest + spread + rest**2) / s**2 - mu**2
    centred = -a
    with_baseline = (15 * a**2 + 3 * b**2 + centred**2 + 6 * a * centred + spread) / s**2 - mu**2
    expected = {"reparameterised": s**2, "score": plain, "score with baseline": with_baseline}

    for name in ESTIMATORS:
        estimates = estimate(name, KEY, standard_normal, jnp.full(d, mu), jnp.full(d, np.float32(np.log(s))), n)[0]
        x = np.asarray(estimates[:, 0], dtype=np.float64)
        squares = (x - x.mean()) ** 2
        assert abs(squares.mean() - expected[name]) < 4 * squares.std() / np.sqrt(n), name


def test_a_baseline_removes_any_constant():
    arguments = (jnp.zeros(2), jnp.zeros(2))
    plain = score_function_gradient(KEY, log_joint, *arguments, samples=500, baseline=True)
    raised = score_function_gradient(KEY, lambda z: log_joint(z) + 50, *arguments, samples=500, baseline=True)
    for one, other in zip(plain, raised, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_the_baseline_leaves_each_draw_out():
    mean, log_std = jnp.array([0.3, 0.0]), jnp.array([0.1, -0.2])

    def one_above_q(z):
        return log_q(z, mean, jnp.exp(log_std)) + 1.0

    score, _ = score_function_gradient(KEY, one_above_q, mean, log_std, samples=5)  # its factor is 1
    plain, _ = score_function_gradient(KEY, log_joint, mean, log_std, samples=5)
    factor = np.asarray(plain / score)[:, 0]
    others = np.array([np.delete(factor, k).mean() for k in range(5)])
    with_baseline, _ = score_function_gradient(KEY, log_joint, mean, log_std, samples=5, baseline=True)
    np.testing.assert_allclose(with_baseline, (factor - others)[:, None] * np.asarray(score), rtol=2e-4, atol=1e-5)


# The chain


def two_bumps(z):
    return jnp.logaddexp(norm.logpdf(z, -1.5).sum(axis=1), norm.logpdf(z, 1.5).sum(axis=1) + jnp.log(3.0))


def test_chains_reach_their_target():
    draws, accepted = metropolis(KEY, two_bumps, jnp.full((64, 1), 4.0), steps=4000, scale=2.5)
    assert draws.shape == (4000, 64, 1)
    assert accepted.shape == (64,)
    after = np.asarray(draws[500:, :, 0], dtype=np.float64)
    for function, exact in ((lambda z: z, 0.75), (np.square, 1 + 1.5**2), (lambda z: z > 0, None)):
        if exact is None:
            exact = float(0.25 * norm.cdf(-1.5) + 0.75 * norm.cdf(1.5))
        means = function(after).mean(axis=0)  # one independent mean for each chain
        assert abs(means.mean() - exact) < 4 * means.std(ddof=1) / np.sqrt(len(means))


def test_chains_move_or_stay_and_count_it():
    draws, accepted = metropolis(KEY, two_bumps, jnp.zeros((3, 1)), steps=200, scale=1.0)
    moved = np.diff(np.concatenate([np.zeros((1, 3)), draws[:, :, 0]]), axis=0) != 0
    np.testing.assert_allclose(moved.mean(axis=0), accepted, rtol=1e-6)
    assert ((accepted > 0.2) & (accepted < 0.95)).all()
    _, tiny = metropolis(KEY, two_bumps, jnp.zeros((3, 1)), steps=200, scale=1e-4)
    assert (tiny > 0.99).all()


def test_a_chain_never_enters_where_the_density_is_zero():
    def half(z):
        return jnp.where(z[:, 0] > 0, norm.logpdf(z[:, 0]), -jnp.inf)

    draws, _ = metropolis(KEY, half, jnp.ones((4, 1)), steps=500, scale=1.0)
    assert (draws > 0).all()


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_effective_samples_of_a_first_order_autoregression(phi):
    rng, n = np.random.default_rng(1), 50_000
    worth = []
    for _ in range(8):
        noise = rng.normal(size=n)
        x = np.empty(n)
        x[0] = noise[0] / np.sqrt(1 - phi**2)
        for k in range(1, n):
            x[k] = phi * x[k - 1] + noise[k]
        worth.append(effective_samples(x))
    wanted = n * (1 - phi) / (1 + phi)
    assert abs(np.mean(worth) - wanted) < 4 * np.std(worth, ddof=1) / np.sqrt(8) + 0.02 * wanted
    diagnostics = pytest.importorskip("numpyro.diagnostics")
    assert worth[-1] == pytest.approx(float(diagnostics.effective_sample_size(x[None])), rel=0.02)


def test_effective_samples_by_the_sums_they_stand_for():
    x = np.random.default_rng(2).normal(size=40).cumsum()
    centred = x - x.mean()
    rho = [(centred[: 40 - k] * centred[k:]).sum() / (centred**2).sum() for k in range(40)]
    time, smallest = -1.0, np.inf
    for k in range(0, 40, 2):
        if rho[k] + rho[k + 1] <= 0:
            break
        smallest = min(smallest, rho[k] + rho[k + 1])
        time += 2 * smallest
    assert effective_samples(x) == pytest.approx(40 / time, rel=1e-9)


def test_a_chain_that_avoids_itself_is_worth_its_length():
    assert effective_samples(np.tile([1.0, -1.0], 50)) == 100


# Refusals

Z = jnp.zeros((4, 2))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: elbo(log_joint, log_joint, jnp.zeros(2)), "expected samples of shape (n, d), got (2,)"),
        (lambda: elbo(lambda z: z, log_joint, Z), "expected log_joint of (4, 2) points of shape (4,), got (4, 2)"),
        (lambda: elbo(log_joint, lambda z: z.sum(), Z), "expected log_q of (4, 2) points of shape (4,), got ()"),
        (lambda: mean_field_gaussian(0.0, jnp.eye(1)), "expected mean of shape (d,), got ()"),
        (lambda: mean_field_gaussian(MEAN, jnp.eye(3)), "expected covariance of shape (2, 2), got (3, 3)"),
        (lambda: mean_field_gaussian(MEAN, correlated(1.1)), "symmetric and positive definite"),
        (lambda: mean_field_gaussian(MEAN, jnp.array([[1.0, 0.5], [0.4, 1.0]])), "symmetric and positive definite"),
        (lambda: mean_field_gaussian(MEAN, jnp.eye(2) * jnp.nan), "expected covariance to be finite"),
        (lambda: mean_field_gaussian(MEAN * jnp.nan, jnp.eye(2)), "expected mean to be finite"),
        (lambda: mean_field_gaussian(MEAN, jnp.eye(2), "backward"), "direction to be 'reverse' or 'forward'"),
        (lambda: metropolis(KEY, two_bumps, jnp.zeros(2), steps=9, scale=1.0), "expected start of shape (chains, d)"),
        (lambda: metropolis(KEY, two_bumps, Z, steps=0, scale=1.0), "expected steps to be a whole number above zero"),
        (lambda: metropolis(KEY, two_bumps, Z, steps=9, scale=0.0), "expected scale to be a finite number above zero"),
        (lambda: metropolis(KEY, lambda z: z[:, 0] * -jnp.inf, Z + 1, steps=9, scale=1.0), "log_prob(start) to be fin"),
        (lambda: metropolis(KEY, lambda z: z, Z, steps=9, scale=1.0), "expected log_prob of (4, 2) points of shape"),
        (lambda: effective_samples(np.zeros((3, 2))), "expected chain of shape (n,), got (3, 2)"),
        (lambda: effective_samples(np.array([1.0, np.nan])), "expected chain to be finite"),
        (lambda: effective_samples(np.ones(5)), "expected chain to move, got 5 equal values"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match="expected") as caught:
        call()
    assert words in str(caught.value)


@pytest.mark.parametrize("estimator", ESTIMATORS.values())
def test_refusals_of_the_gradients(estimator):
    for arguments, samples, words in [
        ((jnp.zeros((1, 2)), jnp.zeros(2)), 8, "expected mean of shape (d,), got (1, 2)"),
        ((jnp.zeros(2), jnp.zeros(3)), 8, "expected log_std of shape (2,), got (3,)"),
        ((jnp.zeros(2), jnp.zeros(2)), 0, "expected samples to be a whole number above zero, got 0"),
    ]:
        with pytest.raises(ValueError, match="expected") as caught:
            estimator(KEY, log_joint, *arguments, samples=samples)
        assert words in str(caught.value)
    with pytest.raises(ValueError, match="expected log_joint of"):
        estimator(KEY, lambda z: z, jnp.zeros(2), jnp.zeros(2), samples=8)


def test_a_baseline_needs_a_second_draw():
    with pytest.raises(ValueError, match="expected samples to be two or more with a baseline, got 1"):
        score_function_gradient(KEY, log_joint, MEAN, MEAN, samples=1, baseline=True)
