"""Every flow, every size: round trip, log-determinant against the dense Jacobian, density against its own samples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.spatial.distance import cdist

from gm_utils.data import banana
from gm_utils.flows import IAF, MAF, AutoregressiveLayer, CouplingFlow, CouplingLayer, InverseAutoregressiveLayer
from gm_utils.precision import float64
from gm_utils.training import fit, fit_many

FLOWS = [MAF, IAF, CouplingFlow]
SIZES = [(1, 1, (4,)), (2, 3, (8, 12)), (5, 2, (16,))]  # features, layers, widths of the hidden layers
CASES = [(kind, size) for kind in FLOWS for size in SIZES if kind is not CouplingFlow or size[0] > 1]
LAYERS = [AutoregressiveLayer, InverseAutoregressiveLayer, CouplingLayer]
KEY = jax.random.key(0)


def stirred(model, seed=0, size=0.5):
    """Return the model with parameters far from those that it starts with, its first layer's scale apart from 1."""
    rng = np.random.default_rng(seed)
    parameters = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda p: jnp.asarray(p + size * rng.normal(size=p.shape), jnp.float32), parameters))
    return model


def flow_of(kind, features, seed=0, layers=2, hidden=(8, 12), **options):
    flow = stirred(kind(features, layers, hidden, rngs=nnx.Rngs(seed), **options), seed, size=0.2)
    rng = np.random.default_rng(seed)
    flow.standardise(rng.normal(size=(50, features)) * rng.uniform(0.5, 3, features) + 1)
    return flow


def points(features, n=20, seed=1):
    return jax.random.normal(jax.random.key(seed), (n, features))


def dense_log_det(function, x):
    """Return log |det d f / d x|, (batch,), from the Jacobian of every point in float64."""
    jacobians = jax.jit(jax.vmap(jax.jacfwd(lambda point: function(point[None])[0][0])))(x)
    return np.linalg.slogdet(np.asarray(jacobians, np.float64))[1]


def round_trip(flow):
    x = points(flow.features)
    np.testing.assert_allclose(flow.inverse(flow.forward(x)[0])[0], x, rtol=1e-4, atol=1e-4)


def log_determinant(flow):
    x = points(flow.features)
    u, log_det = flow.forward(x)
    _, log_det_back = flow.inverse(u)
    np.testing.assert_allclose(log_det, dense_log_det(flow.forward, x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(log_det_back, dense_log_det(flow.inverse, u), rtol=1e-4, atol=1e-4)
    normal = -0.5 * (np.asarray(u, np.float64) ** 2).sum(axis=1) - flow.features / 2 * np.log(2 * np.pi)
    np.testing.assert_allclose(flow.log_prob(x), normal + np.asarray(log_det), rtol=1e-5, atol=1e-5)
    assert np.ptp(np.asarray(log_det)) > 0.01 or flow.features == 1  # a constant would pass by accident


def density_integrates_to_one(flow):
    draws = np.asarray(flow.sample(KEY, 10_000))
    low, high = draws.min(axis=0), draws.max(axis=0)
    low, high = low - 0.5 * (high - low), high + 0.5 * (high - low)
    axes = [np.linspace(low[k], high[k], 1501) for k in range(flow.features)]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, flow.features)
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    log_p = np.asarray(flow.log_prob(grid), np.float64)
    assert np.exp(log_p).sum() * cell == pytest.approx(1, abs=2e-3)


def level(x, y, rng):
    """Permutation test of the energy distance: the share of 400 shuffles that lie at least as far apart as x and y.

    With a sign for each row, + for one sample and - for the other, the distance is -signs @ distances @ signs / n^2.
    """
    both = np.concatenate([x, y])
    signs = np.repeat([1.0, -1.0], len(x))
    shuffled = np.stack([signs, *(rng.permutation(signs) for _ in range(400))])
    apart = -((shuffled @ cdist(both, both)) * shuffled).sum(axis=1)
    return (apart[1:] >= apart[0]).mean()


def samples_agree_with_the_density(flow):
    """Two samples: the flow's own, and draws by the density alone, from importance weights over a wide Gaussian."""
    own = np.asarray(flow.sample(KEY, 600), np.float64)
    spread = 1.7 * np.linalg.cholesky(np.atleast_2d(np.cov(own.T)))
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(200_000, flow.features))
    wide = own.mean(axis=0) + noise @ spread.T
    log_weights = np.asarray(flow.log_prob(wide), np.float64) + 0.5 * (noise**2).sum(axis=1)
    weights = np.exp(log_weights - log_weights.max())
    assert weights.sum() ** 2 / (weights**2).sum() > 5_000  # effective draws, many more than are taken of them
    by_density = wide[rng.choice(len(wide), 600, p=weights / weights.sum())]
    scale = own.std(axis=0)
    assert level(own / scale, by_density / scale, rng) > 0.01
    assert level(own / scale, by_density / scale + 0.3, rng) < 0.01


def extreme_inputs_stay_finite(flow):
    slope = jax.jit(jax.value_and_grad(lambda x: flow.log_prob(x).sum()))
    for size in (0.0, 1e-30, 1e3, 1e6):
        x = size * jnp.where(points(flow.features) > 0, 1.0, -1.0)
        for values in (*slope(x), *flow.inverse(x)):
            assert np.isfinite(values).all()


PROMISES = [
    round_trip, log_determinant, density_integrates_to_one, samples_agree_with_the_density, extreme_inputs_stay_finite,
]  # fmt: skip
GRID = 2  # up to so many features a grid is possible


@pytest.mark.parametrize(
    ("promise", "kind", "size"),
    [(p, *c) for p in PROMISES for c in CASES if p is not density_integrates_to_one or c[1][0] <= GRID],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_every_flow_of_every_size(promise, kind, size):
    features, layers, hidden = size
    promise(flow_of(kind, features, layers=layers, hidden=hidden))


class ForgetsALittle(AutoregressiveLayer):
    def _inverse(self, u):
        x, log_det = super()._inverse(u)
        return 1.001 * x, log_det


class WrongSign(AutoregressiveLayer):
    def _forward(self, x):
        u, log_det = super()._forward(x)
        return u, -log_det


class Unbounded(AutoregressiveLayer):
    def _bounded(self, shift, log_scale):
        return shift, log_scale


class TwoPercentTooMuch(MAF):
    def _log_prob(self, x):
        return super()._log_prob(x) + 0.02


class NoiseTooWide(MAF):
    def _sample(self, key, *, n):
        return self._inverse(1.3 * jax.random.normal(key, (n, self.features)).T)[0].T


def of(layer):
    return type(layer.__name__, (MAF,), {"layer_type": layer})


BROKEN = dict(
    zip(PROMISES, [of(ForgetsALittle), of(WrongSign), TwoPercentTooMuch, NoiseTooWide, of(Unbounded)], strict=True)
)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_a_broken_flow_breaks_its_promise(promise):
    with pytest.raises(AssertionError):
        promise(flow_of(BROKEN[promise], 2))


@pytest.mark.parametrize("kind", FLOWS)
def test_one_dimension_is_a_gaussian_or_refused(kind):
    if kind is CouplingFlow:
        with pytest.raises(ValueError, match="expected features to be at least 2 for a coupling, got 1"):
            kind(1, 2, [4], rngs=nnx.Rngs(0))
        return
    flow = flow_of(kind, 1)
    x = np.linspace(-20, 20, 4001)
    p = np.exp(np.asarray(flow.log_prob(x[:, None]), np.float64))
    mean = (p * x).sum() / p.sum()
    std = np.sqrt((p * (x - mean) ** 2).sum() / p.sum())
    np.testing.assert_allclose(p, np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi)), atol=1e-5)


def test_extreme_parameters_stay_finite():
    """The bound on the log-scale: without it, exp overflows."""
    layers, bound = 3, 2.0
    for size in (10.0, 1e4):
        flow = stirred(MAF(4, layers, [8], rngs=nnx.Rngs(0), max_log_scale=bound), size=size)
        u, log_det = flow.forward(points(4))
        assert np.isfinite(u).all()
        assert (np.abs(log_det) <= layers * 4 * bound * (1 + 1e-6)).all()
    assert float(jnp.abs(flow.layer(0).conditioner(points(4))[1]).max()) == pytest.approx(bound)


@pytest.mark.parametrize(("features", "hidden"), [(1, [3]), (2, [8, 8]), (5, []), (9, [40, 30, 17])])
def test_inverse_by_degrees_equals_full_passes(features, hidden):
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(features)
        layer = stirred(AutoregressiveLayer(features, hidden, order=order, rngs=nnx.Rngs(seed)), seed, size=0.3)
        u = points(features)
        x = jnp.zeros_like(u)
        for feature in order:
            shift, log_scale = layer.conditioner(x)
            x = x.at[:, feature].set(u[:, feature] * jnp.exp(log_scale[:, feature]) + shift[:, feature])
        np.testing.assert_allclose(layer.inverse(u)[0], x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_jacobian_is_triangular_in_the_order(kind):
    order = [2, 0, 3, 4, 1]
    layer = stirred(kind(5, [16, 16], order=order, rngs=nnx.Rngs(0), activation=jnp.tanh))
    for function in (layer.forward, layer.inverse):
        jacobian = jax.jacobian(lambda point, function=function: function(point[None])[0][0])(points(5)[0])
        in_order = np.asarray(jacobian)[order][:, order]
        assert (np.triu(in_order, 1) == 0).all()
        assert (np.diag(in_order) > 0).all()
        if kind is CouplingLayer:  # the first two stay, the others depend on themselves and on these two
            np.testing.assert_array_equal(in_order[:2], np.eye(5)[:2])
            assert (in_order[2:, :2] != 0).all()
            assert (np.tril(in_order, -1)[2:, 2:] == 0).all()
        else:
            assert (np.tril(in_order, -1)[np.tri(5, k=-1, dtype=bool)] != 0).all()


def test_a_coupling_layer_is_an_autoregressive_layer_with_zeros():
    """Same shifts and log-scales, put into the autoregressive formula: u = (x - shift) exp(-log_scale)."""
    layer, x = stirred(CouplingLayer(4, [8], rngs=nnx.Rngs(0))), points(4)
    shift, log_scale = layer.conditioner(x)
    assert (shift[:, :2] == 0).all()
    assert (log_scale[:, :2] == 0).all()
    u, log_det = layer.forward(x)
    np.testing.assert_allclose(u, (x - shift) * jnp.exp(-log_scale), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(log_det, -log_scale.sum(axis=1), rtol=1e-6, atol=1e-6)


def test_an_inverse_layer_scales_and_shifts_noise_by_functions_of_noise():
    layer, u = stirred(InverseAutoregressiveLayer(3, [8], rngs=nnx.Rngs(0))), points(3)
    shift, log_scale = layer.conditioner(u)
    x, log_det = layer.inverse(u)
    np.testing.assert_allclose(x, u * jnp.exp(log_scale) + shift, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(log_det, log_scale.sum(axis=1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", FLOWS)
def test_layers_one_by_one_make_the_flow(kind):
    flow, x = flow_of(kind, 3, layers=3), points(3)
    u, log_det = (x - flow.mean[...][None]) / flow.std[...][None], -jnp.log(flow.std[...]).sum()
    for k in range(3):
        u, change = flow.layer(k).forward(u)
        log_det = log_det + change
    np.testing.assert_allclose(flow.forward(x)[0], u, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(flow.forward(x)[1], log_det, rtol=1e-5, atol=1e-5)


def test_orders_are_reversed_from_layer_to_layer_or_given():
    def orders(**options):
        degrees = MAF(3, 3, [4], rngs=nnx.Rngs(0), **options).stack.network.degrees[...]
        return np.argsort(degrees, axis=1).tolist()

    assert orders() == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]
    assert orders(order=[1, 0, 2]) == [[1, 0, 2], [2, 0, 1], [1, 0, 2]]
    assert orders(order=[[1, 0, 2]] * 3) == [[1, 0, 2]] * 3
    fixed = stirred(MAF(3, 3, [8], order=[[1, 0, 2]] * 3, rngs=nnx.Rngs(0), activation=jnp.tanh))
    jacobian = jax.jacobian(lambda point: fixed.forward(point[None])[0][0])(points(3)[0])
    assert (np.triu(np.asarray(jacobian)[[1, 0, 2]][:, [1, 0, 2]], 1) == 0).all()


def test_standardising_keeps_the_density_in_the_datas_own_space():
    """A flow near the identity is the Gaussian of the data's mean and deviations; the entropy counts their logs."""
    from scipy.stats import norm

    data = np.random.default_rng(0).normal(size=(1000, 2)) * [0.01, 30] + [5, -100]
    flow = MAF(2, 1, [4], rngs=nnx.Rngs(0))
    flow.standardise(data)
    nnx.update(flow, jax.tree.map(jnp.zeros_like, nnx.state(flow, nnx.Param)))
    expected = norm.logpdf(data, data.mean(axis=0), data.std(axis=0)).sum(axis=1)
    np.testing.assert_allclose(flow.log_prob(data), expected, rtol=1e-3, atol=1e-3)
    draws = np.asarray(flow.sample(KEY, 20_000))
    np.testing.assert_allclose(draws.mean(axis=0), data.mean(axis=0), atol=4 * 30 / np.sqrt(20_000) + 1)
    np.testing.assert_allclose(draws.std(axis=0), data.std(axis=0), rtol=0.03)


def minus_log_prob(model, batch):
    return -model.log_prob(batch).mean()


def test_one_layer_in_the_right_order_learns_the_banana_and_the_wrong_order_cannot():
    """The wrong order's best is the entropy plus KL(x1 | its Gaussian), since x1 is not Gaussian: well above."""
    x = banana.sample(KEY, 20_000)
    flows = [MAF(2, 1, [32, 32], order=order, rngs=nnx.Rngs(0)) for order in ([1, 0], [0, 1])]
    for flow in flows:
        flow.standardise(x)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 600))
    fit_many(flows, minus_log_prob, x, key=KEY, steps=600, batch_size=256, optimizer=optimizer)
    fresh = banana.sample(jax.random.key(1), 20_000)
    right, wrong = (float((banana.log_prob(fresh) - flow.log_prob(fresh)).mean()) for flow in flows)
    assert -1e-3 < right < 0.02  # a KL is at least zero, but for the draws
    assert wrong > 0.25
    assert (flows[0].mean[...] == flows[1].mean[...]).all()  # not trained
    np.testing.assert_array_equal(flows[0].stack.network.degrees[...], [[2, 1]])


@pytest.mark.parametrize("kind", FLOWS)
def test_every_flow_trains_from_the_start(kind):
    x = banana.sample(KEY, 2000)
    flow = kind(2, 2, [16], rngs=nnx.Rngs(0))
    flow.standardise(x)
    losses = fit(flow, minus_log_prob, x, key=KEY, steps=60, batch_size=200, optimizer=optax.adam(1e-2))
    assert losses[-10:].mean() < losses[0] - 0.1


def test_losses_after_training_are_log_prob_in_float64():
    """float32 against the same flow in float64: the difference is rounding, a few 1e-7 of each term."""
    flow, x = flow_of(MAF, 3, layers=3), points(3)
    single = np.asarray(flow.log_prob(x))
    graphdef, state = nnx.split(flow)
    with float64():
        wide = jax.tree.map(lambda leaf: leaf.astype(float) if leaf.dtype == jnp.float32 else leaf, state)
        double = np.asarray(nnx.merge(graphdef, wide)._log_prob(jnp.asarray(np.asarray(x).T, float)))
    assert double.dtype == np.float64
    np.testing.assert_allclose(single, double, rtol=2e-5, atol=2e-5)


def maf(**options):
    return MAF(3, 2, [4], rngs=nnx.Rngs(0), **options)


REFUSALS = {
    "x of another width": (lambda: maf().log_prob(jnp.zeros((2, 4))), r"x of shape \(batch, 3\), got \(2, 4\)"),
    "one point": (lambda: maf().forward(jnp.zeros(3)), r"expected x of shape \(batch, 3\), got \(3,\)"),
    "u of another width": (lambda: maf().inverse(jnp.zeros((2, 2))), r"expected u of shape \(batch, 3\)"),
    "no samples": (lambda: maf().sample(KEY, 0), "expected n to be a whole number above zero"),
    "no layers": (lambda: MAF(3, 0, [4], rngs=nnx.Rngs(0)), "expected layers to be a whole number above zero"),
    "no features": (lambda: MAF(0, 2, [4], rngs=nnx.Rngs(0)), "expected features to be a whole number above zero"),
    "an order with a gap": (lambda: maf(order=[0, 1, 3]), "expected order to have each of 0 to 2 once"),
    "orders for other layers": (lambda: maf(order=[[0, 1, 2]] * 3), "one for each of 2 layers, got 3 orders"),
    "a bound of zero": (lambda: maf(max_log_scale=0), "expected max_log_scale to be a finite number above zero"),
    "no such layer": (lambda: maf().layer(2), "expected k from 0 to 1, got 2"),
    "constant data": (lambda: maf().standardise([[1, 2, 3], [1, 2, 4]]), "vary in every feature, got feature 0"),
    "NaN in data": (lambda: maf().standardise([[1, 2, 3], [1, 2, np.nan]]), "expected data to be finite"),
    "a layer's x": (lambda: maf().layer(0).forward(jnp.zeros((2, 2))), r"expected x of shape \(batch, 3\)"),
    "a layer's u": (lambda: maf().layer(0).inverse(jnp.zeros((2, 2))), r"expected u of shape \(batch, 3\)"),
    "a conditioner's x": (lambda: maf().layer(0).conditioner(jnp.zeros((2, 2))), r"expected x of shape \(batch, 3\)"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case):
    call, words = REFUSALS[case]
    with pytest.raises(ValueError, match=words):
        call()
