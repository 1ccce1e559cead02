"""Every divergence: zero if and only if equal, known values, symmetry, gradients, peers and refusals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, spatial, stats

from gm_utils.divergences import (
    js_categorical,
    kl_categorical,
    kl_normal,
    wasserstein_histogram,
    wasserstein_samples,
)

HISTOGRAMS = [np.random.default_rng(seed).dirichlet(np.full(6, 0.7)).astype(np.float32) for seed in range(4)]
LINE = [np.random.default_rng(seed).normal(size=20).astype(np.float32) for seed in range(4)]
CLOUDS = [np.random.default_rng(seed).normal(size=(20, 3)).astype(np.float32) for seed in range(4)]
NORMALS = [(np.float32(0), np.float32(1)), (np.float32(0), np.float32(1.01)), (np.float32(-2), np.float32(0.3))]


def between_normals(q, p):
    return kl_normal(*q, *p)


# name: function, distributions that all differ, symmetric?, triples (first, second, value) known by hand
CASES = {
    "kl_categorical": (
        kl_categorical,
        HISTOGRAMS,
        False,
        [
            ([1, 0], [0.5, 0.5], np.log(2)),
            ([0.5, 0.5], [1, 0], np.inf),
            ([0.5, 0.5, 0], [0.25, 0.75, 0], 0.5 * np.log(2) + 0.5 * np.log(2 / 3)),
        ],
    ),
    "js_categorical": (
        js_categorical,
        HISTOGRAMS,
        True,
        [
            ([1, 0], [0, 1], np.log(2)),
            # The middle is (3/4, 1/4).
            ([1, 0], [0.5, 0.5], 0.5 * np.log(4 / 3) + 0.25 * np.log(2 / 3) + 0.25 * np.log(2)),
        ],
    ),
    "kl_normal": (
        between_normals,
        NORMALS,
        False,
        [
            ((3.0, 1.0), (0.0, 1.0), 4.5),
            ((0.0, 2.0), (0.0, 1.0), 1.5 - np.log(2)),
            ((0.0, 1.0), (0.0, 2.0), np.log(2) - 3 / 8),
        ],
    ),
    "wasserstein_histogram": (
        wasserstein_histogram,
        HISTOGRAMS,
        True,
        [([1, 0, 0], [0, 0, 1], 2), ([0.5, 0.5, 0], [0, 0.5, 0.5], 1)],
    ),
    "wasserstein_samples": (wasserstein_samples, LINE, True, [([3, 1], [2, 0], 1), ([0, 0, 0], [3, 0, 0], 1)]),
    "wasserstein_samples in the plane": (
        wasserstein_samples,
        CLOUDS,
        True,
        [([[0, 0], [1, 0]], [[1, 0], [0, 0]], 0), ([[0, 0], [10, 0]], [[13, 4], [0, 1]], 3)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_divergence(name):
    function, distributions, symmetric, known = CASES[name]
    for one in distributions:
        assert function(one, one) == 0
    for one, other in itertools.permutations(distributions, 2):
        assert function(one, other) > 1e-5
    asymmetries = [abs(function(a, b) - function(b, a)) for a, b in itertools.combinations(distributions, 2)]
    assert max(asymmetries) < 1e-6 if symmetric else min(asymmetries) > 1e-7
    for first, second, value in known:
        result = function(first, second)
        assert result.shape == ()
        assert result.dtype == jnp.float32
        assert float(result) == pytest.approx(value, rel=1e-6)


def test_js_is_at_most_log_2():
    p = np.random.default_rng(0).dirichlet(np.full(8, 0.1), size=(50, 1)).astype(np.float32)
    q = np.random.default_rng(1).dirichlet(np.full(8, 0.1), size=(1, 50)).astype(np.float32)
    values = js_categorical(p, q)
    assert values.shape == (50, 50)
    assert (values <= np.log(2) + 1e-6).all()
    assert values.max() > 0.6


@pytest.mark.parametrize("distance", [0, 2, 12])
def test_js_of_tails_that_fade_below_the_least_float(distance):
    grid = np.arange(-20, 30, 0.01)
    p, q = (np.exp(-((grid - at) ** 2) / 2) / np.exp(-(grid**2) / 2).sum() for at in (0, distance))
    exact = stats.entropy((p + q) / 2) - (stats.entropy(p) + stats.entropy(q)) / 2
    assert float(js_categorical(p, q)) == pytest.approx(exact, abs=1e-6)


def test_categorical_against_scipy():
    p = np.random.default_rng(2).dirichlet(np.ones(9), size=5)
    q = np.random.default_rng(3).dirichlet(np.ones(9), size=5)
    p[:, 0] = 0
    p /= p.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(kl_categorical(p, q), stats.entropy(p, q, axis=-1), rtol=1e-5)
    expected = spatial.distance.jensenshannon(p, q, axis=-1) ** 2
    np.testing.assert_allclose(js_categorical(p, q), expected, rtol=1e-5)
    # One q for the batch, and batch axes that broadcast both ways.
    np.testing.assert_allclose(kl_categorical(p, q[0]), [stats.entropy(row, q[0]) for row in p], rtol=1e-5)
    assert kl_categorical(p[:, None], q[None]).shape == (5, 5)


def test_a_kl_lost_in_rounding_is_not_negative():
    p = np.random.default_rng(4).dirichlet(np.ones(30), size=2000).astype(np.float32)
    q = p + np.float32(1e-8)
    exact = np.sum(p.astype(np.float64) * (np.log(p.astype(np.float64)) - np.log(q.astype(np.float64))), axis=-1)
    values = np.asarray(kl_categorical(p, q))
    assert (values >= 0).all()
    assert (values == 0).any()
    np.testing.assert_allclose(values, np.maximum(exact, 0), atol=1e-6)


def test_kl_normal_against_numpyro_and_quadrature():
    rng = np.random.default_rng(5)
    mean_q, mean_p = rng.normal(size=(2, 4, 3)).astype(np.float32)
    std_q, std_p = rng.uniform(0.2, 3, size=(2, 4, 3)).astype(np.float32)
    values = kl_normal(mean_q, std_q, mean_p, std_p)
    assert values.shape == (4,)

    def one(mq, sq, mp, sp):
        q, p = stats.norm(mq, sq), stats.norm(mp, sp)
        return integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), mq - 12 * sq, mq + 12 * sq)[0]

    np.testing.assert_allclose(values, np.vectorize(one)(mean_q, std_q, mean_p, std_p).sum(axis=-1), rtol=1e-5)
    distributions = pytest.importorskip("numpyro.distributions")
    pair = distributions.Normal(mean_q, std_q), distributions.Normal(mean_p, std_p)
    np.testing.assert_allclose(values, distributions.kl_divergence(*pair).sum(axis=-1), rtol=1e-5)


def test_kl_normal_to_the_standard_normal_and_shapes():
    mean, std = np.array([[0.5, -1.0], [2.0, 0.0]], np.float32), np.array([0.7, 1.2], np.float32)
    expected = 0.5 * np.sum(mean**2 + std**2 - 1 - np.log(std**2), axis=-1)
    np.testing.assert_allclose(kl_normal(mean, std), expected, rtol=1e-6)
    assert kl_normal(mean[0], std).shape == ()
    assert kl_normal(0, std[:, None]).shape == (2,)


def test_kl_normal_keeps_its_digits_near_equality():
    """Two terms near the gap, each rounded to 2^-23 relative, leave gap^2 and so an error of a few 2^-23 / gap."""
    for gap in (1e-1, 1e-2, 1e-3, 1e-4):
        std = np.float32(1 + gap)
        exact = 0.5 * (float(std) ** 2 - 1) - np.log(float(std))
        assert float(kl_normal(0.0, std)) == pytest.approx(exact, rel=4 * 2**-23 / gap)


def test_wasserstein_against_scipy():
    p, q = (np.random.default_rng(seed).dirichlet(np.ones(7), size=4) for seed in (6, 7))
    grid = 0.25 * np.arange(7)
    expected = [stats.wasserstein_distance(grid, grid, one, other) for one, other in zip(p, q, strict=True)]
    np.testing.assert_allclose(wasserstein_histogram(p, q, 0.25), expected, rtol=1e-5)

    x, y = LINE[:2]
    expected = stats.wasserstein_distance(x, y)
    assert float(wasserstein_samples(x, y)) == pytest.approx(expected, rel=1e-5)
    assert float(wasserstein_samples(x[:, None], y[:, None])) == pytest.approx(expected, rel=1e-5)
    # Points on a line in space go through the assignment and must agree with the sorting.
    direction = np.array([0.6, 0.0, -0.8], np.float32)
    on_a_line = wasserstein_samples(x[:, None] * direction, y[:, None] * direction)
    assert float(on_a_line) == pytest.approx(expected, rel=1e-5)


def test_wasserstein_samples_is_the_best_pairing():
    x, y = CLOUDS[0][:6], CLOUDS[1][:6]
    costs = [np.linalg.norm(x - y[list(order)], axis=1).mean() for order in itertools.permutations(range(6))]
    assert float(wasserstein_samples(x, y)) == pytest.approx(min(costs), rel=1e-6)


@pytest.mark.parametrize("function", [kl_categorical, js_categorical, wasserstein_histogram])
def test_gradients_are_finite_at_the_border(function):
    """At p = 0, and at p = q = 0; a KL that is infinite keeps finite gradients too."""
    q = jnp.array([0.3, 0.7, 0.0, 0.0])
    for p in ([0.0, 1.0, 0.0, 0.0], [0.3, 0.7, 0.0, 0.0], [0.2, 0.3, 0.5, 0.0]):
        value, gradients = jax.value_and_grad(function, argnums=(0, 1))(jnp.array(p), q)
        assert not jnp.isnan(value)
        assert jnp.isfinite(jnp.stack(gradients)).all()


@pytest.mark.parametrize("function", [kl_categorical, js_categorical])
def test_gradients_against_central_differences(function):
    """Along directions that keep the sums at 1, in logits, at p = q too."""
    logits = jnp.array([0.2, -0.4, 1.0]), jnp.array([-0.3, 0.5, 0.1])
    for a, b in (logits, (logits[0], logits[0])):

        def of_logits(a, b=b):
            return function(jax.nn.softmax(a), jax.nn.softmax(b))

        gradient = jax.grad(of_logits)(a)
        steps = 1e-2 * jnp.eye(3)
        differences = jnp.stack([(of_logits(a + step) - of_logits(a - step)) / 2e-2 for step in steps])
        np.testing.assert_allclose(gradient, differences, atol=2e-4)


def test_the_gradient_of_kl_at_equality_is_minus_p_over_q():
    """The floor at zero carries no gradient, neither at a tie nor below."""
    p = jnp.array([0.3, 0.7])
    np.testing.assert_allclose(jax.grad(kl_categorical, argnums=1)(p, p), [-1, -1], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(kl_normal)(1.5, 0.5), 1.5, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_jit_and_vmap(name):
    function, distributions, _, _ = CASES[name]
    one, other = jax.tree.map(jnp.asarray, (distributions[0], distributions[1]))
    if name == "wasserstein_samples in the plane":
        with pytest.raises(ValueError, match="expected x and y of several features to be outside jit, vmap and grad"):
            jax.jit(function)(one, other)
        return
    assert float(jax.jit(function)(one, other)) == pytest.approx(float(function(one, other)), rel=1e-5)
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *distributions)
    values = jax.vmap(function, in_axes=(None, 0))(one, stacked)
    expected = [function(one, row) for row in distributions]
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("function", [kl_categorical, js_categorical, wasserstein_histogram])
@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        ([0.5, 0.5], [0.4, 0.5], r"expected q to sum to 1 over the last axis, within 1e-5, got 0\.9"),
        ([[0.5, 0.5], [0.5, 0.6]], [1, 0], r"expected p to sum to 1 over the last axis, within 1e-5, got 1\.1"),
        ([1.5, -0.5], [1, 0], r"expected p to be at least zero, got -0\.5"),
        ([np.nan, 0.5], [1, 0], "expected p to be finite, got 1 of 2 values"),
        ([1, 0], [0.5, 0.25, 0.25], r"expected p and q to have last axes of one length, got \(2,\) and \(3,\)"),
        (np.full((2, 2), 0.5), np.full((3, 2), 0.5), r"expected p and q to have shapes that broadcast, got \(2, 2\) a"),
        (1.0, [1.0], r"expected p of shape \(..., k\) with k above zero, got \(\)"),
        ([], [], r"expected p of shape \(..., k\) with k above zero, got \(0,\)"),
    ],
)
def test_refusals_of_histograms(function, p, q, message):
    with pytest.raises(ValueError, match=message):
        function(p, q)


def test_shapes_are_refused_while_tracing_too():
    with pytest.raises(ValueError, match="last axes of one length"):
        jax.jit(kl_categorical)(jnp.ones(2), jnp.ones(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kl_normal(0.0, 0.0), "expected std_q to be above zero, got 0.0"),
        (lambda: kl_normal(0.0, 1.0, 0.0, [1.0, -1.0]), "expected std_p to be above zero, got -1.0"),
        (lambda: kl_normal(np.inf, 1.0), "expected mean_q to be finite"),
        (lambda: kl_normal(np.zeros(2), np.ones(3)), r"to have shapes that broadcast, got \(2,\) and \(3,\)"),
        (lambda: wasserstein_histogram([1, 0], [0, 1], 0), "expected spacing to be a finite number above zero, got 0"),
        (lambda: wasserstein_histogram([1, 0], [0, 1], [1.0]), r"to be a finite number above zero, got \[1.0\]"),
        (lambda: wasserstein_samples(np.zeros(3), np.zeros(4)), r"as many points as x, of shape \(3,\), got \(4,\)"),
        (lambda: wasserstein_samples(np.zeros((3, 2)), np.zeros((3, 3))), r"of shape \(3, 2\), got \(3, 3\)"),
        (lambda: wasserstein_samples(np.zeros((3, 2, 1)), np.zeros(3)), r"expected x of shape \(n,\), got \(3, 2, 1\)"),
        (lambda: wasserstein_samples(np.zeros(0), np.zeros(0)), r"expected x of shape \(n,\), got \(0,\)"),
        (lambda: wasserstein_samples([0.0, np.nan], [0.0, 1.0]), "expected x to be finite, got 1 of 2"),
        (lambda: wasserstein_samples([0.0, 1.0], [0.0, np.inf]), "expected y to be finite, got 1 of 2"),
    ],
)
def test_other_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
