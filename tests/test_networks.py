"""Dense networks: what they compute, and the law of their first weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from gm_utils.networks import drawn_by_numpy, mlp


@pytest.mark.parametrize("widths", [[3, 2], [3, 5, 2], [3, 5, 4, 2]])
def test_a_network_is_products_sums_and_rectifiers(widths):
    network = mlp(widths, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    *hidden, last = [layer for layer in network.layers if isinstance(layer, nnx.Linear)]
    units = x
    for layer in hidden:
        layer.bias[...] = jnp.linspace(-0.5, 0.5, layer.out_features)
        units = np.maximum(units @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...]), 0)
    np.testing.assert_allclose(network(x), units @ np.asarray(last.kernel[...]), rtol=1e-5, atol=1e-6)
    assert [layer.out_features for layer in [*hidden, last]] == widths[1:]


def test_first_weights_are_normal_with_the_variance_of_one_over_their_number():
    weights = np.asarray(drawn_by_numpy(jax.random.key(1), (400, 50), jnp.float32))
    assert weights.dtype == np.float32
    assert stats.kstest(weights.ravel() * 20, "norm").pvalue > 0.001  # the root of 400


def test_first_weights_follow_the_seed():
    def first_weights(seed):
        return mlp([4, 4, 4], rngs=nnx.Rngs(seed)).layers[0].kernel[...]

    np.testing.assert_array_equal(first_weights(0), first_weights(0))
    assert not np.array_equal(first_weights(0), first_weights(1))


def test_layers_do_not_share_their_weights():
    layers = mlp([4, 4, 4], rngs=nnx.Rngs(0)).layers
    assert not np.array_equal(layers[0].kernel[...], layers[2].kernel[...])


def test_another_law_of_the_first_weights():
    network = mlp([2, 3], rngs=nnx.Rngs(0), kernel_init=nnx.initializers.constant(2.0))
    np.testing.assert_array_equal(network.layers[0].kernel[...], np.full((2, 3), 2.0))


@pytest.mark.parametrize(
    ("widths", "words"),
    [
        ([3], "expected widths to be two or more"),
        ([], "two or more"),
        ([3, 0], "expected each width to be a whole number"),
    ],
)
def test_refusals(widths, words):
    with pytest.raises(ValueError, match=words):
        mlp(widths, rngs=nnx.Rngs(0))
