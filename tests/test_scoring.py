"""Scores of generated digits against scipy, closed forms and counts; a classifier that has learnt something."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.linalg import sqrtm

from gm_utils.data import digits
from gm_utils.scoring import class_coverage, embed, fit_classifiers, frechet_distance, real_floor

KEY = jax.random.key(0)


def by_scipy(a, b):
    """Return equation 6 of Heusel et al. as it stands there, by scipy's root of the product."""
    covariance_a, covariance_b = np.cov(a.T), np.cov(b.T)
    root = sqrtm(covariance_a @ covariance_b)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariance_a + covariance_b - 2 * np.real(root))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("features", [2, 5, 32])
def test_frechet_distance_against_scipy(seed, features):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(200, features)) @ rng.normal(size=(features, features))
    b = rng.normal(size=(300, features)) @ rng.normal(size=(features, features)) + rng.normal(size=features)
    assert frechet_distance(a, b) == pytest.approx(by_scipy(a, b), rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_frechet_distance_in_closed_form():
    rng = np.random.default_rng(4)
    a = rng.normal(size=(100, 3))
    assert frechet_distance(a, a) < 1e-9
    assert frechet_distance(a, a + np.array([3.0, 4.0, 0.0])) == pytest.approx(25)  # moved only: the squared way
    # Stretched by 2 about its mean: the deviations, not the variances, differ by a factor of 2.
    stretched = a.mean(0) + 2 * (a - a.mean(0))
    assert frechet_distance(a, stretched) == pytest.approx(np.trace(np.cov(a.T)))
    narrow = np.zeros((50, 3))  # no variance: the trace of the other
    assert frechet_distance(a - a.mean(0), narrow) == pytest.approx(np.trace(np.cov(a.T)))
    one = a[:, :1]
    assert frechet_distance(one, 3 * one - 2 * one.mean()) == pytest.approx(4 * one.var(ddof=1))


def test_frechet_distance_survives_dead_features():
    a = np.random.default_rng(5).normal(size=(40, 32)) * (np.arange(32) < 4)
    assert frechet_distance(a, a) < 1e-9
    assert np.isfinite(frechet_distance(a, a[::-1] * 2))


def test_the_floor_is_what_chance_leaves():
    """For one Gaussian feature of variance 1 the expected value has a closed form in the two sizes."""
    features = np.random.default_rng(6).normal(size=(4000, 1))
    floor = real_floor(KEY, features, size=1000, repeats=200)
    variance = features.var()
    # mean: v (1/n + 1/m); deviations: difference of two sample deviations, each of variance v / (2 n).
    expected = 1.5 * variance * (1 / 1000 + 1 / 3000)
    assert floor.shape == (200,)
    assert abs(floor.mean() - expected) < 4 * floor.std() / np.sqrt(200)
    np.testing.assert_array_equal(floor[:3], real_floor(KEY, features, size=1000, repeats=200)[:3])


def test_the_floor_rises_as_samples_get_fewer():
    features = np.random.default_rng(7).normal(size=(1000, 8))
    few, many = (real_floor(KEY, features, size=size, repeats=5).mean() for size in (20, 500))
    assert few > 5 * many


def test_the_smallest_and_the_largest_sample_of_a_floor():
    features = np.random.default_rng(8).normal(size=(5, 2))
    assert np.isfinite([real_floor(KEY, features, size=size, repeats=2) for size in (2, 3)]).all()


def test_coverage_counts():
    real = np.repeat(np.arange(10), 10)
    assert class_coverage(real, real)[1:] == (10, 0.0)
    ones = class_coverage(np.ones(50, int), real)
    assert ones.covered == 1
    assert ones.total_variation == pytest.approx(0.9)
    # 40 in class 0, two in each of five others: 2 of 50 is 0.04, above a quarter of 0.1; then one of 100, below it.
    assert class_coverage([0] * 40 + [1, 2, 3, 4, 5] * 2, real).covered == 6
    assert class_coverage([0] * 98 + [1, 2], real).covered == 1
    assert class_coverage([0] * 98 + [1, 2], real, least=0.05).covered == 3
    np.testing.assert_allclose(class_coverage([3, 3, 3, 9], real).shares, np.eye(10)[3] * 0.75 + np.eye(10)[9] * 0.25)
    # A share that is just enough, a quarter of a quarter, is enough.
    assert class_coverage([0] * 15 + [1], [0, 1, 2, 3]).covered == 2
    # A class that real data lack is not covered by having none of it.
    assert class_coverage([0, 1], [0, 1]).covered == 2


@pytest.fixture(scope="module")
def trained():
    data = digits()
    grey, black = data.train / 16, (data.train >= 8).astype(jnp.float32)
    shuffled = jax.random.permutation(KEY, data.train_labels)
    sets = [(grey, data.train_labels), (black, data.train_labels), (black, shuffled)]
    return data, fit_classifiers(KEY, sets)


def test_classifiers_learn_from_their_own_set(trained):
    data, (grey, black, shuffled) = trained
    truth = np.asarray(data.test_labels)

    def right(model, images):
        return (embed(model, images)[1] == truth).mean()

    def right_by_nearest_mean(train, test):
        means = np.stack([np.asarray(train)[np.asarray(data.train_labels) == k].mean(axis=0) for k in range(10)])
        return (((np.asarray(test)[:, None] - means) ** 2).sum(axis=2).argmin(axis=1) == truth).mean()

    assert right(grey, data.test / 16) > right_by_nearest_mean(data.train, data.test)
    assert right(black, data.test >= 8) > right_by_nearest_mean(data.train >= 8, data.test >= 8)
    assert right(shuffled, data.test >= 8) < 0.3  # labels without meaning: chance is 0.1


def test_features_are_those_of_the_network(trained):
    data, (grey, _, _) = trained
    features, classes = embed(grey, data.test[:7] / 16)
    assert features.shape == (7, 32)
    assert features.min() >= 0
    np.testing.assert_allclose(features, nnx.Sequential(*grey.layers[:-1])(data.test[:7] / 16), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(classes, np.asarray(grey(data.test[:7] / 16)).argmax(axis=1))


def test_the_distance_sees_what_is_worse(trained):
    data, (grey, _, _) = trained
    real, _ = embed(grey, data.test / 16)
    noise = jnp.clip(data.train[:297] / 16 + 0.3 * jax.random.normal(KEY, (297, 64)), 0, 1)
    close = frechet_distance(embed(grey, data.train[:297] / 16)[0], real)
    assert frechet_distance(embed(grey, noise)[0], real) > 3 * close
    ones = data.train[np.asarray(data.train_labels) == 1]
    assert frechet_distance(embed(grey, ones / 16)[0], real) > 10 * close


GOOD = np.zeros((4, 64), np.float32), np.arange(4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: frechet_distance(np.zeros((1, 3)), np.zeros((5, 3))), "features_a of shape"),
        (lambda: frechet_distance(np.zeros((5, 3)), np.zeros(5)), "features_b of shape"),
        (lambda: frechet_distance(np.zeros((5, 3)), np.zeros((5, 4))), "features_b to have 3 features"),
        (lambda: frechet_distance(np.full((5, 3), np.nan), np.zeros((5, 3))), "features_a to be finite"),
        (lambda: real_floor(KEY, np.zeros((5, 3)), size=4), "size to be from 2 to 3"),
        (lambda: real_floor(KEY, np.zeros((5, 3)), size=1), "size to be from 2 to 3"),
        (lambda: real_floor(KEY, np.zeros((5, 3)), size=2, repeats=0), "repeats to be a whole"),
        (lambda: class_coverage([0, 10], [0]), "predicted to be whole numbers 0 to 9"),
        (lambda: class_coverage([0.5], [0]), "predicted to be whole numbers"),
        (lambda: class_coverage([], [0]), "predicted of shape"),
        (lambda: class_coverage([0], [[0]]), "real of shape"),
        (lambda: class_coverage([0], [-1]), "real to be whole"),
        (lambda: class_coverage([0], [0], least=0.0), "least to be above zero"),
        (lambda: class_coverage([0], [0], least=1.5), "least to be above zero"),
        (lambda: fit_classifiers(KEY, []), "sets to be one or more"),
        (lambda: fit_classifiers(KEY, [(GOOD[0][0], 1)]), "images of shape"),
        (lambda: fit_classifiers(KEY, [(16 + GOOD[0], GOOD[1])]), "images to lie in"),
        (lambda: fit_classifiers(KEY, [(np.nan + GOOD[0], GOOD[1])]), "images to lie in"),
        (lambda: fit_classifiers(KEY, [(GOOD[0], GOOD[1][:3])]), "labels of shape"),
        (lambda: fit_classifiers(KEY, [(GOOD[0], 9 + GOOD[1])]), "labels to be whole"),
        (lambda: fit_classifiers(KEY, [GOOD, (GOOD[0][:, :9], GOOD[1])]), "sets to share one shape"),
        (lambda: fit_classifiers(KEY, [GOOD], batch_size=5), "batch_size to be at most the 4"),
        (lambda: fit_classifiers(KEY, [GOOD], batch_size=2, steps=0), "steps to be a whole"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=f"expected {words}.*, got"):
        call()


def test_embed_refuses(trained):
    _, (grey, _, _) = trained
    with pytest.raises(ValueError, match=r"expected images of shape \(n, 64\)"):
        embed(grey, np.zeros((3, 63)))
    for wrong in (np.nan, 16.0, 1.01, -0.01):
        with pytest.raises(ValueError, match=r"expected images to lie in \[0, 1\], got values from"):
            embed(grey, np.full((3, 64), wrong))
