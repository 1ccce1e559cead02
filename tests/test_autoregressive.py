"""MADE against enumeration, its masks against the Jacobian, its sampler against D full passes; AR(p) against scipy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gm_utils.autoregressive import MADE, MaskedNetwork, ar_log_prob, degrees_of, made_masks

SIZES = [(1, [3]), (2, []), (2, [5, 4]), (3, [1, 6]), (5, [3]), (6, [16, 9, 20]), (9, [8, 8])]


def orders(features):
    """Return the natural order, the reversed one, and two at random."""
    rng = np.random.default_rng(features)
    return [np.arange(features), np.arange(features)[::-1], *(rng.permutation(features) for _ in range(2))]


def vectors(features):
    """Return all binary vectors, (2^features, features)."""
    return jnp.asarray(list(itertools.product([0, 1], repeat=features)), jnp.float32)


def reach(masks):
    """Return how many paths lead from each input to each output."""
    paths = np.eye(masks[0].shape[0], dtype=np.int64)
    for mask in masks:
        paths = paths @ np.asarray(mask, np.int64)
    return paths


def test_masks_of_a_small_network_by_hand():
    first, last = made_masks([1, 2, 3], [[1, 2, 2]], [1, 2, 3])
    np.testing.assert_array_equal(first, [[1, 1, 1], [0, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(last, [[0, 1, 1], [0, 0, 1], [0, 0, 1]])


@pytest.mark.parametrize(("features", "hidden"), SIZES)
def test_masks_multiplied_connect_an_output_to_earlier_features_only(features, hidden):
    rng = np.random.default_rng(features)
    for order in orders(features):
        degrees = degrees_of(order, features)
        hidden_degrees = [rng.integers(1, max(2, features), width) for width in hidden]
        paths = reach(made_masks(degrees, hidden_degrees, degrees))
        later_or_same = degrees[:, None] >= degrees[None, :]
        assert (paths[later_or_same] == 0).all()
        assert hidden or (paths == ~later_or_same).all()


@pytest.mark.parametrize(("features", "hidden"), SIZES)
def test_jacobian_is_strictly_triangular_in_the_order(features, hidden):
    outputs = 2

    @jax.jit
    def slopes_of(state, x):  # one compilation for all orders: they are no part of the structure
        network = nnx.merge(graphdef, state)
        return jax.jacobian(lambda point: network(point[None])[0])(x)  # (outputs, features, features)

    for seed, order in enumerate(orders(features)):
        degrees = degrees_of(order, features)
        network = MaskedNetwork(degrees, hidden, outputs, rngs=nnx.Rngs(seed), activation=jnp.tanh)
        graphdef, state = nnx.split(network)
        slopes = np.asarray(slopes_of(state, jax.random.normal(jax.random.key(seed), (features,))))
        in_order = slopes[:, order][:, :, order]  # (outputs, k-th output, k-th input)
        assert (np.triu(in_order) == 0).all()
        # Units enough for every degree: then each earlier feature counts.
        if all(width >= features - 1 for width in hidden):
            assert (in_order[:, np.tri(features, k=-1, dtype=bool)] != 0).all()
    assert slopes_of._cache_size() == 1


@pytest.mark.parametrize(("features", "width"), [(2, 5), (5, 4), (5, 9), (64, 256), (7, 2), (1, 3)])
def test_hidden_degrees_are_sorted_even_and_reach_the_last(features, width):
    (degrees,) = MaskedNetwork(degrees_of(None, features), [width], 1, rngs=nnx.Rngs(0)).hidden_degrees()
    counts = np.bincount(degrees, minlength=features)[1:]
    assert (np.diff(degrees) >= 0).all()
    assert degrees.min() >= 1
    assert degrees.max() == max(1, features - 1)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(("features", "hidden"), [*SIZES, (35, []), (35, [40, 10, 90])])
def test_degree_by_degree_equals_full_passes(features, hidden):
    """The rule mixes both outputs and what is given, so an error in any unit, bias or place shows."""

    def rule(outputs, noise):
        return noise * jnp.exp(jnp.tanh(outputs[1])) + outputs[0], {"second": outputs[1]}

    def full_passes(network, order, noise):
        def one(k, x):
            value, _ = rule(network(x)[:, :, order[k]].T, noise[:, order[k]])
            return x.at[:, order[k]].set(value)

        x = jax.lax.fori_loop(0, features, one, jnp.zeros_like(noise))
        return x, network(x)[:, 1]

    @jax.jit
    def both(state, order, noise):
        network = nnx.merge(graphdef, state)
        by_degree = network.in_order(rule, noise.T)
        return jax.tree.map(jnp.transpose, by_degree), full_passes(network, order, noise)

    for seed, order in enumerate(orders(features)):
        graphdef, state = nnx.split(MaskedNetwork(degrees_of(order, features), hidden, 2, rngs=nnx.Rngs(seed)))
        noise = 3 * jax.random.normal(jax.random.key(seed), (4, features))
        (values, record), (expected, second) = both(state, jnp.asarray(order), noise)
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(record["second"], second, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("features", "hidden"), [(2, [9, 9]), (6, [10, 13, 8]), (3, [1, 7])])
def test_a_hidden_layer_in_pieces_equals_the_layer_at_once(features, hidden, monkeypatch):
    network = MaskedNetwork(degrees_of(None, features), hidden, 2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (5, features))
    at_once = network(x)
    monkeypatch.setattr("gm_utils.autoregressive.UNITS_AT_A_TIME", 3)
    np.testing.assert_allclose(network(x), at_once, rtol=1e-6, atol=1e-6)


def test_examples_in_pieces_equal_all_at_once(monkeypatch):
    model = MADE(6, [20], rngs=nnx.Rngs(1))
    at_once = model._sample(jax.random.key(2), jnp.float32(1), jnp.full((403, 6), jnp.nan))
    monkeypatch.setattr("gm_utils.autoregressive.EXAMPLES_AT_A_TIME", 100)
    in_pieces = model._sample(jax.random.key(2), jnp.float32(1), jnp.full((403, 6), jnp.nan))
    np.testing.assert_array_equal(at_once, in_pieces)


def sharp(features, hidden, seed, **options):
    """Return a MADE whose probabilities are far from one half."""
    model = MADE(features, hidden, rngs=nnx.Rngs(seed), **options)
    last = f"weights{len(model.network.hidden)}"
    setattr(model.network, last, nnx.Param(5 * getattr(model.network, last)[...]))
    return model


@pytest.mark.parametrize("order", [None, [3, 1, 0, 4, 2]])
@pytest.mark.parametrize("hidden", [[], [7], [16, 3, 8]])
def test_probabilities_of_all_vectors_add_up_to_one(order, hidden):
    model = sharp(5, hidden, 3, order=order)
    log_p = np.asarray(model.log_prob(vectors(5)), np.float64)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-5)
    assert np.ptp(log_p) > 1


def test_one_feature_is_a_coin():
    model = sharp(1, [4], 0)
    p = jax.nn.sigmoid(model.logits(jnp.zeros((1, 1))))
    np.testing.assert_allclose(jnp.exp(model.log_prob([[0.0], [1.0]])), [1 - p[0, 0], p[0, 0]], rtol=1e-6)
    assert model.sample(jax.random.key(0), 3).shape == (3, 1)


def test_one_pass_equals_the_sum_of_conditionals():
    """P(x_k | before) from enumeration of the joint: sums over all that comes later in the order."""
    order, x = [2, 0, 3, 1], vectors(4)
    model = sharp(4, [12], 5, order=order)
    joint = np.exp(np.asarray(model.log_prob(x), np.float64))
    rows = np.asarray(x)
    for row, logits in zip(rows, np.asarray(model.logits(x)), strict=True):
        for k, feature in enumerate(order):
            agrees = (rows[:, order[:k]] == row[order[:k]]).all(axis=1)
            one = joint[agrees & (rows[:, feature] == 1)].sum() / joint[agrees].sum()
            assert 1 / (1 + np.exp(-logits[feature])) == pytest.approx(one, rel=1e-4)


LEVEL = 1e-3  # of the tests below: a right sampler fails one of a thousand seeds, and the seeds are fixed


def p_value(draws, probabilities):
    """Return the level of a chi-square test of binary draws against the probabilities of all vectors."""
    from scipy.stats import chisquare

    features = draws.shape[1]
    index = np.asarray(draws, int) @ (2 ** np.arange(features)[::-1])
    expected = np.asarray(probabilities, np.float64) * len(draws)
    assert expected.min() > 5
    return chisquare(np.bincount(index, minlength=2**features), expected * len(draws) / expected.sum()).pvalue


@pytest.mark.parametrize("order", [None, [1, 3, 0, 2]])
def test_samples_have_the_probabilities(order):
    model = sharp(4, [16], 1, order=order)
    draws = model.sample(jax.random.key(5), 20_000)
    assert p_value(draws, np.exp(model.log_prob(vectors(4)))) > LEVEL
    other = sharp(4, [16], 2, order=order)
    assert p_value(draws, np.exp(other.log_prob(vectors(4)))) < 1e-9


def test_temperature_divides_each_logit():
    model, x, temperature = sharp(3, [16], 1), vectors(3), 0.4
    log_p = jax.nn.log_sigmoid((2 * x - 1) * model.logits(x) / temperature).sum(axis=1)
    draws = model.sample(jax.random.key(6), 50_000, temperature=temperature)
    assert p_value(draws, np.exp(log_p)) > LEVEL
    # The joint at this temperature is another distribution.
    joint = jnp.exp(model.log_prob(x) / temperature)
    assert p_value(draws, joint / joint.sum()) < 1e-9


def test_known_first_features_give_the_conditional_distribution():
    order = [2, 0, 3, 1]
    model, x = sharp(4, [16], 1, order=order), vectors(4)
    draws = model.sample(jax.random.key(7), 20_000, known=[0, np.nan, 1, np.nan])
    assert (draws[:, 0] == 0).all()
    assert (draws[:, 2] == 1).all()
    agrees = np.asarray((x[:, 0] == 0) & (x[:, 2] == 1))
    joint = np.exp(np.asarray(model.log_prob(x), np.float64))[agrees]
    assert p_value(draws[:, [1, 3]], joint / joint.sum()) > LEVEL


def test_known_features_may_differ_from_row_to_row():
    known = jnp.asarray([[0, 1, jnp.nan], [jnp.nan, 0, 1], [1, 1, 1]])
    draws = sharp(3, [8], 0).sample(jax.random.key(0), 3, known=known)
    assert np.where(np.isnan(known), np.asarray(draws) == np.round(draws), np.asarray(draws) == known).all()


def test_orders_share_one_structure():
    first, second = (MADE(4, [8], order=order, rngs=nnx.Rngs(0)) for order in ([0, 1, 2, 3], [3, 1, 0, 2]))
    assert nnx.split(first)[0] == nnx.split(second)[0]
    np.testing.assert_array_equal(second.network.degrees[...], [3, 2, 4, 1])


def test_orders_train_together_and_degrees_stay():
    import optax

    from gm_utils.training import fit_many

    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, 400)
    data = jnp.asarray(np.stack([first, first ^ (rng.random(400) < 0.1)], axis=1), jnp.float32)
    models = [MADE(2, [8], order=order, rngs=nnx.Rngs(0)) for order in ([0, 1], [1, 0])]
    losses = fit_many(
        models, minus_log_prob, data, key=jax.random.key(0), steps=200, batch_size=100, optimizer=optax.adam(0.02)
    )  # fmt: skip
    # Two fair coins that differ with probability 0.1; the sample's own entropy lies within a few hundredths of it.
    entropy = np.log(2) - 0.1 * np.log(0.1) - 0.9 * np.log(0.9)
    np.testing.assert_allclose(losses[:, -50:].mean(axis=1), entropy, atol=0.08)
    np.testing.assert_array_equal(models[1].network.degrees[...], [2, 1])


def minus_log_prob(model, batch):
    return -model.log_prob(batch).mean()


def stationary(p, seed):
    """Return coefficients of a stationary process, from partial autocorrelations by the Levinson-Durbin recursion."""
    coefficients = np.zeros(0)
    for k in np.random.default_rng(seed).uniform(-0.9, 0.9, p):
        coefficients = np.append(coefficients - k * coefficients[::-1], k)
    return coefficients


def autocovariances(coefficients, scale, times):
    """Return those of lags 0 to times - 1, from the weights of the moving average that equals the process."""
    weights = [1.0]
    while len(weights) < 20_000:
        weights.append(sum(a * w for a, w in zip(coefficients, weights[::-1], strict=False)))
    weights = np.asarray(weights)
    return np.asarray([scale**2 * weights[: len(weights) - lag] @ weights[lag:] for lag in range(times)])


def test_first_order_covariance_in_closed_form():
    from scipy.stats import multivariate_normal

    phi, scale, times = 0.8, 1.5, 12
    lags = np.abs(np.subtract.outer(np.arange(times), np.arange(times)))
    normal = multivariate_normal(np.zeros(times), scale**2 * phi**lags / (1 - phi**2))
    x = np.random.default_rng(0).normal(size=(5, times)) * 2
    np.testing.assert_allclose(ar_log_prob(x, [phi], scale), normal.logpdf(x), rtol=1e-5)


@pytest.mark.parametrize(("p", "times"), [(0, 6), (1, 8), (2, 9), (3, 2), (4, 15), (5, 5)])
def test_stationary_density_is_the_multivariate_normal(p, times):
    from scipy.linalg import toeplitz
    from scipy.stats import multivariate_normal

    coefficients, scale = stationary(p, p), 0.7
    normal = multivariate_normal(np.zeros(times), toeplitz(autocovariances(coefficients, scale, times)))
    x = np.random.default_rng(1).normal(size=(6, times))
    np.testing.assert_allclose(ar_log_prob(x, coefficients, scale), normal.logpdf(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("p", [1, 2, 4])
def test_likelihood_of_statsmodels(p):
    from statsmodels.tsa.arima.model import ARIMA

    coefficients, scale = stationary(p, 10 + p), 1.3
    x = np.random.default_rng(2).normal(size=40).cumsum() * 0.3
    peer = ARIMA(x, order=(p, 0, 0), trend="n").loglike([*coefficients, scale**2])
    assert float(ar_log_prob(x[None], coefficients, scale)[0]) == pytest.approx(peer, rel=2e-5)


def test_conditional_density_is_the_rest_of_the_joint_and_its_best_fit_is_least_squares():
    coefficients, scale = stationary(2, 3), 0.9
    x = jnp.asarray(np.random.default_rng(3).normal(size=(3, 30)), jnp.float32)
    rest = ar_log_prob(x, coefficients, scale) - ar_log_prob(x[:, :2], coefficients, scale)
    np.testing.assert_allclose(ar_log_prob(x, coefficients, scale, conditional=True), rest, rtol=1e-5)
    past = np.stack([x[0, 1:-1], x[0, :-2]], axis=1)
    best = jnp.asarray(np.linalg.lstsq(past, x[0, 2:], rcond=None)[0])
    slope = jax.grad(lambda a: ar_log_prob(x[:1], a, scale, conditional=True).sum())(best)
    np.testing.assert_allclose(slope, 0, atol=1e-4)


def test_gradients_pass_and_traced_coefficients_that_are_not_stationary_give_nan():
    x = jnp.ones((1, 5))
    slope = jax.grad(lambda a: ar_log_prob(x, a, 1.0).sum())
    assert np.isfinite(slope(jnp.asarray([0.5, -0.2]))).all()
    assert np.isnan(jax.jit(lambda a: ar_log_prob(x, a, 1.0))(jnp.asarray([1.2]))).all()


def made(**options):
    return MADE(3, [4], rngs=nnx.Rngs(0), **options)


KEY = jax.random.key(0)
REFUSALS = {
    "degrees with two axes": (lambda: made_masks([[1]], [], [1]), r"expected degrees_in of shape \(units,\)"),
    "degrees that are not whole": (lambda: made_masks([1, 2], [[1.5]], [1]), r"hidden_degrees\[0\] to be whole"),
    "an order with a gap": (lambda: made(order=[0, 1, 3]), "expected order to have each of 0 to 2 once, got"),
    "a short order": (lambda: made(order=[0, 1]), "expected order"),
    "no features": (lambda: MADE(0, [4], rngs=nnx.Rngs(0)), "expected features"),
    "a width of zero": (lambda: MADE(3, [0], rngs=nnx.Rngs(0)), "expected each width of hidden"),
    "x of another shape": (lambda: made().log_prob(jnp.zeros((2, 4))), r"shape \(batch, 3\), got \(2, 4\)"),
    "logits of another shape": (lambda: made().logits(jnp.zeros(3)), "expected x of shape"),
    "grey values": (lambda: made().log_prob([[0, 0.5, 1]]), "expected x to hold 0 and 1, got 0.5 among 3 values"),
    "missing values": (lambda: made().log_prob([[0, np.nan, 1]]), "expected x to hold 0 and 1, got nan"),
    "no samples": (lambda: made().sample(KEY, 0), "expected n to be a whole number above zero"),
    "temperature zero": (lambda: made().sample(KEY, 2, temperature=0.0), "expected temperature"),
    "known of another shape": (lambda: made().sample(KEY, 2, known=jnp.zeros((4, 3))), "expected known of shape"),
    "known grey": (lambda: made().sample(KEY, 2, known=[0.2, 0, 1]), "expected known to hold 0, 1 and NaN"),
    "a series without batch": (lambda: ar_log_prob(jnp.zeros(4), [0.1], 1.0), r"expected x of shape \(batch, times\)"),
    "a series with NaN": (lambda: ar_log_prob([[np.nan]], [0.1], 1.0), "expected x to be finite"),
    "NaN coefficients": (lambda: ar_log_prob([[0.0]], [np.nan], 1.0), "expected coefficients to be finite"),
    "a matrix of coefficients": (lambda: ar_log_prob([[0.0]], [[0.1]], 1.0), "expected coefficients of shape"),
    "scale zero": (lambda: ar_log_prob([[0.0]], [0.1], 0.0), "expected scale to be a finite number above zero"),
    "a root of size 1": (lambda: ar_log_prob([[0.0]], [0.5, 1.0], 1.0), "expected coefficients of a stationary"),
    "a random walk": (lambda: ar_log_prob([[0.0]], [1.0], 1.0), "expected coefficients of a stationary process"),
    "an explosive pair": (lambda: ar_log_prob([[0.0]], [0.5, 0.6], 1.0), "expected coefficients of a stationary"),
    "a short condition": (lambda: ar_log_prob([[0.0]], [0.5], 1.0, conditional=True), "to have more than 1 times"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case):
    call, words = REFUSALS[case]
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(("pair", "fits"), [([0.5, 0.49], True), ([0.5, 0.51], False), ([-1.9, -0.95], True)])
def test_the_border_of_the_stationarity_triangle(pair, fits):
    """AR(2) is stationary if and only if |a_2| < 1 and a_2 < 1 - |a_1|."""
    assert fits == (abs(pair[1]) < 1 and pair[1] < 1 - abs(pair[0]))
    if fits:
        assert np.isfinite(ar_log_prob(jnp.ones((1, 4)), pair, 1.0)).all()
    else:
        with pytest.raises(ValueError, match="stationary"):
            ar_log_prob(jnp.ones((1, 4)), pair, 1.0)
