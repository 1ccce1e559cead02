"""Mixtures against scikit-learn, scipy and numpyro; EM that never falls; labels as responsibilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_utils import mixtures
from gm_utils.mixtures import Mixture, fit_classes, fit_mixture

EPS = float(np.finfo(np.float32).eps)


def random_mixture(seed, k=3, d=2):
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(k, d, d)) * 0.5 + np.eye(d)
    parts = rng.dirichlet(np.full(k, 3.0)), rng.normal(size=(k, d)) * 2, roots @ roots.swapaxes(1, 2) + 0.05 * np.eye(d)
    return Mixture(*(jnp.asarray(part, jnp.float32) for part in parts))


def random_rows(seed, n=200, d=2):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d)) * rng.choice([0.3, 1.0], size=(n, 1)) + rng.integers(-2, 3, (n, d))
    return jnp.asarray(rows, jnp.float32)


def start_of(x, k):
    d = x.shape[1]
    return jnp.full(k, 1 / k), x[:k], jnp.broadcast_to(jnp.eye(d), (k, d, d))


def reference_log_prob(mixture, x):
    """Return log p(x) in float64 by scipy's multivariate normal."""
    from scipy.special import logsumexp
    from scipy.stats import multivariate_normal

    w, means, covariances = (np.asarray(part, np.float64) for part in mixture)
    terms = [np.log(w[k]) + multivariate_normal(means[k], covariances[k]).logpdf(x) for k in range(len(w))]
    return logsumexp(terms, axis=0)


@pytest.mark.parametrize(("k", "d"), [(1, 1), (3, 2), (4, 5)])
def test_log_prob_against_scipy(k, d):
    mixture, x = random_mixture(k, k, d), random_rows(1, 60, d)
    np.testing.assert_allclose(mixture.log_prob(x), reference_log_prob(mixture, np.asarray(x)), rtol=2e-5, atol=2e-5)


def test_log_prob_and_responsibilities_against_numpyro():
    numpyro = pytest.importorskip("numpyro.distributions")
    mixture, x = random_mixture(5), random_rows(2, 50)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        parts = numpyro.MultivariateNormal(mixture.means, covariance_matrix=mixture.covariances)
        peer = numpyro.MixtureSameFamily(numpyro.Categorical(mixture.weights), parts)
        density, joint = peer.log_prob(x), peer.component_log_probs(x)
    np.testing.assert_allclose(mixture.log_prob(x), density, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(mixture.responsibilities(x), jnp.exp(joint - density[:, None]), rtol=1e-4, atol=1e-6)


def test_the_density_integrates_to_one():
    ticks = np.arange(-14, 14, 0.1)
    plane = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    assert float(jnp.exp(random_mixture(7).log_prob(plane)).sum()) * 0.01 == pytest.approx(1, abs=1e-4)


def test_samples_have_the_moments_of_the_mixture():
    mixture, n = random_mixture(3), 100_000
    x = np.asarray(mixture.sample(jax.random.key(0), n), np.float64)
    w, means, covariances = (np.asarray(part, np.float64) for part in mixture)
    mean = w @ means
    second = np.einsum("k,kij->ij", w, covariances + means[:, :, None] * means[:, None])
    assert (np.abs(x.mean(axis=0) - mean) < 4 * x.std(axis=0) / np.sqrt(n)).all()
    products = x[:, :, None] * x[:, None]
    assert (np.abs(products.mean(axis=0) - second) < 4 * products.std(axis=0) / np.sqrt(n)).all()
    # The score of own draws is minus the entropy, which quadrature gives by another way.
    ticks = np.arange(-14, 14, 0.1)
    plane = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    log_p = reference_log_prob(mixture, plane)
    scores = np.asarray(mixture.log_prob(x))
    assert abs(scores.mean() - (np.exp(log_p) * log_p).sum() * 0.01) < 4 * scores.std() / np.sqrt(n) + 1e-4


@pytest.mark.parametrize(("k", "d", "steps"), [(1, 2, 1), (2, 1, 7), (3, 2, 10), (4, 3, 25)])
def test_em_against_scikit_learn(k, d, steps):
    """From the same start, for the same number of steps, with no floor in reach: the same mixture, the same scores."""
    import warnings

    from sklearn.mixture import GaussianMixture

    x = random_rows(10 + k, 300, d)
    weights, means, covariances = start_of(x, k)
    mixture, scores = fit_mixture(x, weights, means, covariances, steps=steps, floor=1e-6)
    peer = GaussianMixture(
        k, tol=0.0, reg_covar=0.0, max_iter=steps, weights_init=np.full(k, 1 / k),
        means_init=np.asarray(means, np.float64), precisions_init=np.asarray(covariances, np.float64),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was told to stop before convergence
        peer.fit(np.asarray(x, np.float64))
    assert peer.n_iter_ == steps
    # Rounding of 1e-7 grows by the condition of EM's map, which contracts here, and by the condition of a covariance.
    np.testing.assert_allclose(mixture.weights, peer.weights_, atol=2e-4)
    np.testing.assert_allclose(mixture.means, peer.means_, atol=1e-3)
    np.testing.assert_allclose(mixture.covariances, peer.covariances_, atol=2e-3)
    assert float(scores[-1]) == pytest.approx(peer.score(np.asarray(x, np.float64)), abs=1e-4)
    # Its last bound is the score before its last M-step.
    assert float(scores[-2]) == pytest.approx(peer.lower_bound_, abs=1e-4)
    np.testing.assert_allclose(mixture.responsibilities(x), peer.predict_proba(np.asarray(x, np.float64)), atol=5e-3)


def rounding(x, mixture, floor):
    """Return what float32 may take from a mean score.

    log p is a sum of few terms of the size of |log p| and of a square |L^-1 (x - mean)|^2 <= log p's own size times a
    few, whose relative error is eps times the condition of the covariance, at most spread / floor.
    """
    scores = reference_log_prob(mixture, np.asarray(x, np.float64))
    spread = float(np.linalg.eigvalsh(np.cov(np.asarray(x, np.float64).T)).max())
    return 16 * EPS * (1 + np.abs(scores).mean()) + EPS * spread / floor


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("floor", [1e-3, 1e-2, 0.3])
def test_the_likelihood_never_falls(seed, k, floor):
    x = random_rows(seed, 40)
    mixture, scores = fit_mixture(x, *start_of(x, k), steps=40, floor=floor)
    assert np.isfinite(scores).all()
    assert float(jnp.diff(scores).min()) >= -rounding(x, mixture, floor)
    assert float(scores[-1]) == pytest.approx(float(mixture.log_prob(x).mean()), abs=1e-5)
    assert np.linalg.eigvalsh(mixture.covariances).min() >= floor * (1 - 1e-3)


def test_a_ridge_would_fall_where_the_floor_does_not(monkeypatch):
    """The test above can fail: adding the floor to the diagonal, in place of raising to it, makes the score fall."""
    x = random_rows(4, 40)
    monkeypatch.setattr(
        mixtures, "_raised", lambda s, floor: s + floor * jnp.broadcast_to(jnp.eye(2), s.shape).astype(s.dtype)
    )
    start = Mixture(*(part.astype(jnp.float32) for part in start_of(x, 3)))
    with jax.disable_jit():
        _, scores = mixtures._em(start, x, jnp.ones(40), jnp.float32(0.3), steps=40)
    assert float(jnp.diff(scores).min()) < -1e-4


def test_the_raised_covariance_is_the_best_above_the_floor():
    """Among covariances with eigenvalues of at least the floor, none has a higher expected log-likelihood."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    scatter, floor = root @ root.T, 0.8

    def score(covariance):
        return -np.linalg.slogdet(covariance)[1] - np.trace(np.linalg.solve(covariance, scatter))

    raised = mixtures._raised(jnp.asarray(scatter[None], jnp.float32), jnp.float32(floor))
    best = score(np.asarray(raised[0], np.float64))
    assert np.linalg.eigvalsh(scatter).min() < floor
    for _ in range(2000):
        other = rng.normal(size=(3, 3)) * rng.uniform(0, 2)
        assert score(other @ other.T + floor * np.eye(3)) <= best + 1e-5


def test_a_component_on_one_row_is_held_by_the_floor():
    x = jnp.asarray([[0.0, 0.0], [5.0, 5.0], [5.0, 6.0], [6.0, 5.0], [6.0, 6.2]])
    start = jnp.array([0.5, 0.5]), x[:2], jnp.broadcast_to(jnp.eye(2), (2, 2, 2))
    mixture, scores = fit_mixture(x, *start, steps=30, floor=1e-4)
    np.testing.assert_allclose(mixture.covariances[0], 1e-4 * np.eye(2), rtol=1e-3, atol=1e-9)
    lower = fit_mixture(x, *start, steps=30, floor=1e-6)[1]
    # One row of five gains log 10 in each of two dimensions for a hundredth of the variance.
    assert float(lower[-1] - scores[-1]) == pytest.approx(2 * np.log(10) / 5, abs=1e-3)


def test_padding_changes_nothing_and_does_not_recompile():
    x = random_rows(6, 80)
    weights, means, covariances = start_of(x, 3)
    plain, scores = fit_mixture(x, weights, means, covariances, steps=15, floor=1e-3)

    def padded(k, n):
        _, m, c = start_of(x, 5)
        rows = (jnp.arange(80) < n).astype(jnp.float32)
        return fit_mixture(x, jnp.where(jnp.arange(5) < k, 1 / k, 0.0), m, c, steps=15, floor=1e-3, row_weights=rows)

    wide, wide_scores = padded(3, 80)
    np.testing.assert_allclose(wide_scores, scores, atol=1e-5)
    np.testing.assert_allclose(wide.means[:3], plain.means, atol=1e-4)
    assert (wide.weights[3:] == 0).all()
    assert (wide.means[3:] == start_of(x, 5)[1][3:]).all()
    np.testing.assert_allclose(wide.log_prob(x), plain.log_prob(x), atol=1e-4)
    compiled = mixtures._em._cache_size()
    for k, n in ((1, 80), (2, 50), (5, 10)):
        _, few_scores = padded(k, n)
        w, m, c = start_of(x, k)
        _, alone_scores = fit_mixture(x[:n], w, m, c, steps=15, floor=1e-3)
        np.testing.assert_allclose(few_scores, alone_scores, atol=2e-5)
    assert mixtures._em._cache_size() == compiled + 3  # those of the unpadded ones


def test_row_weights_count_rows():
    x = random_rows(8, 30)
    twice = jnp.concatenate([x, x[:10]])
    counts = jnp.where(jnp.arange(30) < 10, 2.0, 1.0)
    one, scores = fit_mixture(x, *start_of(x, 2), steps=10, floor=1e-3, row_weights=counts)
    other, other_scores = fit_mixture(twice, *start_of(x, 2), steps=10, floor=1e-3)
    np.testing.assert_allclose(scores, other_scores, atol=1e-5)
    np.testing.assert_allclose(one.means, other.means, atol=1e-4)


def test_many_fits_in_one_vectorised_run():
    xs = jnp.stack([random_rows(seed, 60) for seed in range(3)])
    many, scores = jax.vmap(lambda x: fit_mixture(x, *start_of(x, 2), steps=8, floor=1e-3))(xs)
    for i in range(3):
        one, one_scores = fit_mixture(xs[i], *start_of(xs[i], 2), steps=8, floor=1e-3)
        np.testing.assert_allclose(scores[i], one_scores, atol=1e-5)
        np.testing.assert_allclose(many.means[i], one.means, atol=1e-4)


def test_labels_for_responsibilities():
    """Class shares, means and covariances by NumPy in float64; the posterior by Bayes' rule on scipy's densities."""
    from scipy.special import softmax
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(1)
    labels = rng.choice(3, p=[0.5, 0.3, 0.2], size=200)
    x = jnp.asarray(rng.normal(size=(200, 2)) * (0.5 + labels[:, None]) + 2 * labels[:, None], jnp.float32)
    model = fit_classes(x, labels, classes=4, floor=1e-6)
    shares, wide = np.bincount(labels, minlength=4) / 200, np.asarray(x, np.float64)
    np.testing.assert_allclose(model.weights, shares, atol=1e-6)
    joint = []
    for c in range(3):
        mean, covariance = wide[labels == c].mean(axis=0), np.cov(wide[labels == c].T, bias=True)
        np.testing.assert_allclose(model.means[c], mean, atol=1e-5)
        np.testing.assert_allclose(model.covariances[c], covariance, atol=1e-4)
        joint.append(np.log(shares[c]) + multivariate_normal(mean, covariance).logpdf(wide))
    posterior = model.responsibilities(x)
    np.testing.assert_allclose(posterior[:, :3], softmax(np.transpose(joint), axis=1), atol=1e-4)
    assert (posterior[:, 3] == 0).all()


GOOD = {
    "x": np.zeros((6, 2)) + np.arange(6)[:, None], "weights": [0.5, 0.5], "means": [[0.0, 0.0], [1.0, 1.0]],
    "covariances": [np.eye(2), np.eye(2)], "steps": 2, "floor": 1e-3, "row_weights": np.ones(6),
}  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"x": np.zeros(6)}, r"expected x of shape \(n, d\), got \(6,\)"),
        ({"means": [[0.0], [1.0]]}, r"expected means of shape \(k, 2\), got \(2, 1\)"),
        ({"weights": [1.0]}, r"expected weights of shape \(2,\), got \(1,\)"),
        ({"covariances": np.eye(2)}, r"expected covariances of shape \(2, 2, 2\), got \(2, 2\)"),
        ({"row_weights": np.ones(5)}, r"expected row_weights of shape \(6,\), got \(5,\)"),
        ({"x": np.full((6, 2), np.nan)}, "expected x to be finite, got 12 of 12"),
        ({"means": [[0.0, np.inf], [1.0, 1.0]]}, "expected means to be finite"),
        ({"weights": [0.5, 0.6]}, "expected weights to be zero or more, of sum 1, got"),
        ({"weights": [1.5, -0.5]}, "expected weights to be zero or more, of sum 1, got"),
        ({"row_weights": np.zeros(6)}, "expected row_weights to be zero or more, and not all zero"),
        ({"row_weights": -np.ones(6)}, "expected row_weights to be zero or more, and not all zero"),
        ({"row_weights": np.full(6, np.nan)}, "expected row_weights to be zero or more, and not all zero"),
        ({"covariances": [[[1.0, 0.5], [0.0, 1.0]], np.eye(2)]}, "expected covariances to be symmetric"),
        ({"covariances": [[[1.0, 2.0], [2.0, 1.0]], np.eye(2)]}, "expected covariances without negative eigenvalues"),
        ({"steps": 0}, "expected steps to be a whole number above zero, got 0"),
        ({"floor": 0.0}, "expected floor to be a finite number above zero, got 0.0"),
        ({"floor": np.nan}, "expected floor to be a finite number above zero, got nan"),
    ],
)
def test_refusals_of_fit_mixture(bad, message):
    given = GOOD | bad
    start = [given.pop(name) for name in ("x", "weights", "means", "covariances")]
    with pytest.raises(ValueError, match=message):
        fit_mixture(*start, **given)


@pytest.mark.parametrize(
    ("x", "labels", "options", "message"),
    [
        (np.zeros(4), [0, 1, 0, 1], {}, r"expected x of shape \(n, d\)"),
        (np.zeros((4, 2)), [0, 1], {}, r"expected labels of shape \(4,\), got \(2,\)"),
        (np.zeros((4, 2)), [0.0, 1.0, 0.0, 1.0], {}, "expected labels to be whole numbers, got float"),
        (np.zeros((4, 2)), [0, 1, 2, 1], {}, "expected labels from 0 to 1, got 0 to 2"),
        (np.zeros((4, 2)), [0, -1, 0, 1], {}, "expected labels from 0 to 1, got -1 to 1"),
        (np.full((4, 2), np.inf), [0, 1, 0, 1], {}, "expected x to be finite"),
        (np.zeros((4, 2)), [0, 1, 0, 1], {"classes": 0}, "expected classes to be a whole number above zero"),
        (np.zeros((4, 2)), [0, 1, 0, 1], {"floor": -1.0}, "expected floor to be a finite number above zero"),
    ],
)
def test_refusals_of_fit_classes(x, labels, options, message):
    with pytest.raises(ValueError, match=message):
        fit_classes(x, labels, **({"classes": 2, "floor": 1e-3} | options))


def test_refusals_of_a_mixture():
    mixture = random_mixture(0)
    for call in (mixture.log_prob, mixture.responsibilities):
        with pytest.raises(ValueError, match=r"expected x of shape \(batch, 2\), got \(5, 3\)"):
            call(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="expected n to be a whole number above zero"):
        mixture.sample(jax.random.key(0), 0)
