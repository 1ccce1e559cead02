import inspect
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gm_utils import training
from gm_utils.training import Diverged, fit, fit_many, minibatch

KEY = jax.random.key(7)
ADAM = optax.adam(1e-2)
SGD = optax.sgd(0.1)


class Line(nnx.Module):
    """A linear map of ``features`` numbers to one."""

    def __init__(self, features=3):
        self.weight = nnx.Param(jnp.zeros(features))

    def __call__(self, x):
        return x @ self.weight[...]


class Normal(nnx.Module):
    def __init__(self):
        self.mean = nnx.Param(jnp.asarray(0.0))  # weakly typed on purpose, as readers write it
        self.log_std = nnx.Param(jnp.asarray(0.0))

    def log_prob(self, x):
        u = (x - self.mean[...]) * jnp.exp(-self.log_std[...])
        return -0.5 * u**2 - self.log_std[...] - 0.5 * jnp.log(2 * jnp.pi)


class Net(nnx.Module):
    def __init__(self, seed=0, width=8):
        rngs = nnx.Rngs(seed)
        self.hidden = nnx.Linear(2, width, rngs=rngs)
        self.out = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.tanh(self.hidden(x)))[:, 0]


class Mask(nnx.Variable):
    pass


class Busy(nnx.Module):
    """A model with a mask, a random stream and running means beside its parameters."""

    def __init__(self):
        rngs = nnx.Rngs(3)
        self.linear = nnx.Linear(2, 2, rngs=rngs)
        self.mask = Mask(jnp.array([[1.0, 0.0], [1.0, 1.0]]))
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.dropout(x @ (self.linear.kernel[...] * self.mask[...])))


def squares(model, batch):
    return ((model(batch["x"]) - batch["y"]) ** 2).mean()


def squares_under_noise(model, batch, key):
    noise = jax.random.normal(key, batch["x"].shape)
    return ((model(batch["x"] + 0.1 * noise) - batch["y"]) ** 2).mean()


def negative_log_likelihood(model, batch):
    return -model.log_prob(batch).mean()


def regression(features=3, rows=60, seed=0):
    key_x, key_w, key_y = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(key_x, (rows, features))
    return {"x": x, "y": x @ jax.random.normal(key_w, (features,)) + 0.3 * jax.random.normal(key_y, (rows,))}


def parameters(model):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))])


class Counter(nnx.Module):
    """One parameter that gradient descent with rate 1 raises by exactly 1 at each step of ``trap``."""

    def __init__(self, start=0.0):
        self.n = nnx.Param(jnp.asarray(start, jnp.float32))


def trap(model, batch, poison):
    """Return a loss with slope -1 in ``n``, value 5 - n and a trap at n = 4."""
    n = model.n[...]
    value = 5.0 - n
    return value + poison(n) + 0.0 * batch.sum()


ONE = optax.sgd(1.0)


def nan_loss(model, batch):
    """Be NaN at 4 alone: a run that went on would find good losses again."""
    return trap(model, batch, lambda n: jnp.where(n == 4.0, jnp.nan, 0.0))


def infinite_loss(model, batch):
    return trap(model, batch, lambda n: jnp.where(n >= 4.0, jnp.inf, 0.0))


@jax.custom_jvp
def flat_until_four(n):
    """Return zero everywhere; the derivative is NaN from 4 on."""
    return 0.0 * n


@flat_until_four.defjvp
def _(primals, tangents):
    (n,), (dn,) = primals, tangents
    return flat_until_four(n), dn * jnp.where(n >= 4.0, jnp.nan, 0.0)


def nan_gradient(model, batch):
    return trap(model, batch, flat_until_four)


def runaway(model, batch):
    """Return -10^n, finite and without a lower bound, with slope -1 in ``n``."""
    n = jax.lax.stop_gradient(model.n[...])
    return -jnp.power(10.0, n) + (n - model.n[...]) + 0.0 * batch.sum()


# --- what is learnt ---


def test_least_squares_reaches_the_normal_equations():
    data, model = regression(), Line()
    losses = fit(model, squares, data, key=KEY, steps=400, batch_size=60, optimizer=SGD)
    exact, residual, *_ = np.linalg.lstsq(np.asarray(data["x"]), np.asarray(data["y"]))
    np.testing.assert_allclose(parameters(model), exact, rtol=1e-5)
    assert losses.shape == (400,)
    assert losses.dtype == jnp.float32
    np.testing.assert_allclose(losses[0], (data["y"] ** 2).mean(), rtol=1e-5)
    np.testing.assert_allclose(losses[-1], residual[0] / 60, rtol=1e-5)


def test_a_normal_density_reaches_the_sample_mean_and_variance():
    x = 3.0 + 2.0 * jax.random.normal(jax.random.key(1), (200,))
    model = Normal()
    fit(model, negative_log_likelihood, x, key=KEY, steps=3000, batch_size=200, optimizer=ADAM)
    np.testing.assert_allclose(model.mean[...], np.mean(x), rtol=1e-4)
    np.testing.assert_allclose(np.exp(2 * model.log_std[...]), np.var(x), rtol=1e-4)


def train_by_hand(model, loss, data, key, steps, batch_size, optimizer):
    rows = len(jax.tree.leaves(data)[0])
    takes_key = len(inspect.signature(loss).parameters) == 3

    @nnx.jit
    def step(model, optimizer, batch, key):
        extras = (key,) if takes_key else ()
        value, gradient = nnx.value_and_grad(loss)(model, batch, *extras)
        optimizer.update(model, gradient)
        return value

    losses = []
    with jax.numpy_dtype_promotion("standard"):
        optimizer = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
        for t in range(steps):
            chosen, loss_key = minibatch(key, t, rows=rows, batch_size=batch_size)
            batch = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], data)
            losses.append(step(model, optimizer, batch, loss_key))
    return np.asarray(losses)


@pytest.mark.parametrize("loss", [squares, squares_under_noise])
def test_equals_a_loop_of_compiled_steps(loss):
    data, model, twin = regression(2), Net(), Net()
    losses = fit(model, loss, data, key=KEY, steps=40, batch_size=16, optimizer=ADAM)
    np.testing.assert_allclose(losses, train_by_hand(twin, loss, data, KEY, 40, 16, ADAM), rtol=1e-5)
    np.testing.assert_allclose(parameters(model), parameters(twin), rtol=1e-4)


def test_an_epoch_uses_each_row_at_most_once_and_epochs_differ():
    drawn = [minibatch(KEY, t, rows=50, batch_size=16)[0] for t in range(6)]
    epochs = [np.concatenate(drawn[:3]), np.concatenate(drawn[3:])]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 48
        assert set(epoch.tolist()) < set(range(50))
    assert not np.array_equal(*epochs)
    together = training._rows_of_steps(KEY, 1, 4, 50, 16)
    np.testing.assert_array_equal(together, drawn[1:5])
    assert not np.array_equal(drawn[0], minibatch(jax.random.key(8), 0, rows=50, batch_size=16)[0])


def test_other_variables_are_carried_along():
    model = Busy()
    mask = np.asarray(model.mask[...])
    x = 5.0 + jax.random.normal(KEY, (64, 2))
    fit(model, lambda model, batch: (model(batch) - 1.0).sum() ** 2, x, key=KEY, steps=5, batch_size=64, optimizer=ADAM)
    np.testing.assert_array_equal(model.mask[...], mask)
    assert int(model.dropout.rngs.count[...]) == 5  # once a step: the last test leaves no trace
    assert not np.allclose(model.norm.mean[...], 0.0)


def test_a_plain_array_and_any_pytree_are_data():
    data = regression()
    pair = (data["x"], data["y"])
    runs = [
        fit(Line(), loss, given, key=KEY, steps=5, batch_size=10, optimizer=SGD)
        for loss, given in [
            (squares, data),
            (lambda model, batch: ((model(batch[0]) - batch[1]) ** 2).mean(), pair),
            (lambda model, batch: ((model(batch[:, :3]) - batch[:, 3]) ** 2).mean(), np.column_stack(pair)),
        ]
    ]
    for run in runs[1:]:
        np.testing.assert_allclose(run, runs[0], rtol=1e-6)


def test_parameters_with_a_default_are_left_alone():
    def loss(model, batch, weight=2.0):
        return weight * squares(model, batch)

    doubled = fit(Line(), loss, regression(), key=KEY, steps=1, batch_size=60, optimizer=SGD)
    single = fit(Line(), squares, regression(), key=KEY, steps=1, batch_size=60, optimizer=SGD)
    np.testing.assert_allclose(doubled, 2 * single, rtol=1e-6)


def test_an_nnx_optimizer_continues():
    data, once, twice = regression(2), Net(), Net()
    whole = fit(once, squares_under_noise, data, key=KEY, steps=30, batch_size=16, optimizer=ADAM)
    with jax.numpy_dtype_promotion("standard"):
        optimizer = nnx.Optimizer(twice, ADAM, wrt=nnx.Param)
    parts = [
        fit(twice, squares_under_noise, data, key=KEY, steps=steps, batch_size=16, optimizer=optimizer)
        for steps in (11, 19)
    ]
    assert int(optimizer.step[...]) == 30
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-6)
    np.testing.assert_allclose(parameters(twice), parameters(once), rtol=1e-6)


def test_a_second_run_compiles_nothing():
    traces = []

    def loss(model, batch):
        traces.append(1)
        return squares(model, batch)

    data = regression(2)
    fit(Net(0), loss, data, key=KEY, steps=20, batch_size=16, optimizer=ADAM)
    first, compiled = len(traces), training._chunk._cache_size()
    assert first > 0
    for seed, steps in [(1, 20), (2, 33), (3, 1)]:
        fit(Net(seed), loss, data, key=jax.random.key(seed), steps=steps, batch_size=16, optimizer=ADAM)
    assert len(traces) == first
    assert training._chunk._cache_size() == compiled
    fit(Net(0), loss, data, key=KEY, steps=20, batch_size=8, optimizer=ADAM)
    assert len(traces) > first  # the count does see a new shape


def test_a_weakly_typed_parameter_compiles_once():
    before = training._chunk._cache_size()
    fit(Normal(), negative_log_likelihood, jnp.ones(7), key=KEY, steps=10, batch_size=7, optimizer=ADAM)
    assert training._chunk._cache_size() == before + 1


# --- divergence ---


@pytest.mark.parametrize(
    ("loss", "reason"),
    [(nan_loss, "its loss is nan"), (infinite_loss, "its loss is inf"), (nan_gradient, "gradient is not finite")],
)
def test_the_state_before_a_bad_loss_or_gradient_is_kept(loss, reason):
    model = Counter()
    with pytest.raises(Diverged, match=reason) as caught:
        fit(model, loss, jnp.ones(4), key=KEY, steps=20, batch_size=2, optimizer=ONE)
    assert caught.value.step == 4
    assert float(model.n[...]) == 3.0
    np.testing.assert_array_equal(caught.value.losses, [5.0, 4.0, 3.0, 2.0])
    assert caught.value.loss == 2.0
    assert caught.value.members == {}


@pytest.mark.parametrize("steps", [3, 4, 5])
def test_the_state_after_the_last_update_is_tested_too(steps):
    model = Counter()
    arguments = {"key": KEY, "steps": steps, "batch_size": 2, "optimizer": ONE}
    if steps == 3:
        assert fit(model, nan_loss, jnp.ones(4), **arguments).shape == (3,)
    else:
        with pytest.raises(Diverged) as caught:
            fit(model, nan_loss, jnp.ones(4), **arguments)
        assert caught.value.step == 4
    assert float(model.n[...]) == 3.0


def test_a_bad_first_step_leaves_the_model_as_it_came():
    model = Counter(4.0)
    with pytest.raises(Diverged) as caught:
        fit(model, nan_loss, jnp.ones(4), key=KEY, steps=3, batch_size=2, optimizer=ONE)
    assert caught.value.step == 0
    assert np.isnan(caught.value.loss)
    assert caught.value.losses.shape == (0,)
    assert float(model.n[...]) == 4.0


def test_a_finite_loss_without_bound_is_stopped_by_the_limit():
    model = Counter()
    with pytest.raises(Diverged, match="beyond the limit of 2e\\+06") as caught:
        fit(model, runaway, jnp.ones(4), key=KEY, steps=30, batch_size=2, optimizer=ONE)
    # The first loss is -1, so the limit is 1e6 * (1 + 1), and -10^7 is the first beyond it.
    assert caught.value.step == 7
    assert float(model.n[...]) == 6.0
    np.testing.assert_allclose(caught.value.loss, -1e6, rtol=1e-5)
    free = Counter()
    limit = {"divergence_limit": float("inf")}
    assert len(fit(free, runaway, jnp.ones(4), key=KEY, steps=30, batch_size=2, optimizer=ONE, **limit)) == 30


def test_the_optimizer_keeps_its_last_good_state_too():
    model = Counter()
    optimizer = nnx.Optimizer(model, ONE, wrt=nnx.Param)
    with pytest.raises(Diverged):
        fit(model, nan_loss, jnp.ones(4), key=KEY, steps=9, batch_size=2, optimizer=optimizer)
    assert int(optimizer.step[...]) == 3


def test_an_interrupt_leaves_a_usable_model(monkeypatch):
    chunk, calls = training._chunk, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return chunk(*args, **kwargs)

    monkeypatch.setattr(training, "_chunk", interrupted)
    model = Counter()
    optimizer = nnx.Optimizer(model, ONE, wrt=nnx.Param)
    before = model.n[...]
    slope = lambda model, batch: -model.n[...] + 0.0 * batch.sum()  # noqa: E731
    arguments = {"key": KEY, "batch_size": 2, "optimizer": optimizer}
    with pytest.raises(KeyboardInterrupt):
        fit(model, slope, jnp.ones(4), steps=5000, **arguments)
    kept = int(model.n[...])
    assert 0 < kept < 5000
    assert int(optimizer.step[...]) == kept
    assert float(before) == 0.0  # its buffer was not given away
    monkeypatch.undo()
    fit(model, slope, jnp.ones(4), steps=10, **arguments)
    assert int(model.n[...]) == kept + 10


# --- several members ---


def weighted(model, batch, key, setting):
    return setting["weight"] * squares_under_noise(model, batch, key)


def test_members_learn_what_they_would_learn_alone():
    data = regression(2)
    models, twins = [Net(seed) for seed in range(3)], [Net(seed) for seed in range(3)]
    arguments = {"key": KEY, "steps": 60, "batch_size": 16, "optimizer": ADAM}
    together = fit_many(models, squares_under_noise, data, **arguments)
    alone = [fit(twin, squares_under_noise, data, **arguments) for twin in twins]
    assert together.shape == (3, 60)
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    for model, twin in zip(models, twins, strict=True):
        np.testing.assert_allclose(parameters(model), parameters(twin), rtol=1e-4)


def test_each_member_has_its_setting():
    data, weights = regression(2), jnp.array([0.5, 2.0])
    arguments = {"key": KEY, "steps": 30, "batch_size": 16, "optimizer": SGD}
    together = fit_many([Net() for _ in weights], weighted, data, settings={"weight": weights}, **arguments)
    for losses, weight in zip(together, weights, strict=True):
        alone = fit(Net(), lambda model, batch, key, w=weight: weighted(model, batch, key, {"weight": w}), data,
                    **arguments)  # fmt: skip
        np.testing.assert_allclose(losses, alone, rtol=1e-5)


def test_a_setting_without_a_key():
    losses = fit_many(
        [Line(), Line()], lambda model, batch, scale: scale * squares(model, batch), regression(), key=KEY, steps=1,
        batch_size=60, optimizer=SGD, settings=jnp.array([1.0, 3.0]),
    )  # fmt: skip
    np.testing.assert_allclose(losses[1], 3 * losses[0], rtol=1e-6)


def test_other_variables_of_members_survive():
    models = [Busy(), Busy()]
    models[1].mask[...] = jnp.ones((2, 2))
    masks = [np.asarray(model.mask[...]) for model in models]
    loss = lambda model, batch: (model(batch) ** 2).mean()  # noqa: E731
    fit_many(models, loss, jnp.ones((8, 2)), key=KEY, steps=4, batch_size=8, optimizer=ADAM)
    for model, mask in zip(models, masks, strict=True):
        np.testing.assert_array_equal(model.mask[...], mask)
        assert int(model.dropout.rngs.count[...]) == 4


def test_a_member_that_diverges_spoils_no_other():
    models = [Counter(-30.0), Counter(0.0), Counter(2.0), Counter(-50.0)]
    with pytest.raises(Diverged, match=r"2 of 4 members.*member 1 at step 4.*member 2 at step 2") as caught:
        fit_many(models, nan_loss, jnp.ones(4), key=KEY, steps=20, batch_size=2, optimizer=ONE)
    assert caught.value.members == {1: 4, 2: 2}
    assert (caught.value.step, caught.value.loss) == (2, 2.0)
    assert [float(model.n[...]) for model in models] == [-10.0, 3.0, 3.0, -30.0]
    steps = np.arange(20.0)
    expected = [35 - steps, np.where(steps < 4, 5 - steps, np.nan), np.where(steps < 2, 3 - steps, np.nan), 55 - steps]
    np.testing.assert_array_equal(caught.value.losses, expected)


def test_when_all_members_diverge_the_losses_keep_their_shape():
    models = [Counter(1.0), Counter(2.0)]
    with pytest.raises(Diverged) as caught:
        fit_many(models, nan_gradient, jnp.ones(4), key=KEY, steps=5000, batch_size=2, optimizer=ONE)
    assert caught.value.members == {0: 3, 1: 2}
    assert caught.value.losses.shape == (2, 5000)
    assert int(np.isfinite(caught.value.losses).sum()) == 5
    assert [float(model.n[...]) for model in models] == [3.0, 3.0]


# --- the bar ---


class FakeIPython(types.ModuleType):
    """Stand in for IPython: an ``output`` that ``clear_output`` empties, as a front end's cell does."""

    def __init__(self, kernel):
        super().__init__("IPython")
        self.shell = types.SimpleNamespace(**({"kernel": object()} if kernel else {}))
        self.display = types.ModuleType("IPython.display")
        self.display.clear_output = self.clear_output
        self.output, self.waiting = [], False

    def get_ipython(self):
        return self.shell

    def clear_output(self, wait=False):
        self.waiting = wait
        if not wait:
            self.output.clear()

    def print(self, text):
        if self.waiting:
            self.output.clear()
        self.waiting = False
        self.output.append(text)


@pytest.mark.parametrize(("kernel", "slow", "bars"), [(True, True, True), (True, False, False), (False, True, False)])
def test_a_slow_run_shows_a_bar_that_leaves_nothing(monkeypatch, capsys, kernel, slow, bars):
    fake, said = FakeIPython(kernel), []
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", fake.display)
    monkeypatch.setattr(training, "BAR_AFTER_SECONDS", 0.0 if slow else 1e9)

    def show(text):
        fake.print(text)
        said.append(len(fake.output))
        assert "step" in text

    monkeypatch.setattr(training, "print", show, raising=False)
    for switch in (True, False):
        said.clear()
        fit(Counter(-40.0), nan_loss, jnp.ones(4), key=KEY, steps=30, batch_size=2, optimizer=ONE, progress=switch)
        assert bool(said) == (bars and switch)
        assert set(said) <= {1}  # a new bar replaces the old one
        assert fake.output == []
    assert capsys.readouterr().out == ""


def test_an_interrupted_or_diverged_run_clears_its_bar(monkeypatch):
    fake = FakeIPython(kernel=True)
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", fake.display)
    monkeypatch.setattr(training, "BAR_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(training, "print", fake.print, raising=False)
    with pytest.raises(Diverged):
        fit(Counter(), nan_loss, jnp.ones(4), key=KEY, steps=30, batch_size=2, optimizer=ONE)
    assert fake.output == []


# --- refusals ---

GOOD = {"key": KEY, "steps": 3, "batch_size": 4, "optimizer": SGD}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": jnp.ones((5, 3)).at[2, 1].set(jnp.nan)}, "expected data to be finite, got 1 of 15"),
        ({"data": jnp.full((5, 3), jnp.inf)}, "expected data to be finite, got 15 of 15"),
        ({"data": (jnp.ones((5, 3)), jnp.ones(6))}, "expected data to be arrays of equal length, got .*5, 6"),
        ({"data": jnp.ones((0, 3))}, "expected data to have at least one row, got"),
        ({"data": {}}, "expected data to be an array"),
        ({"data": 3.0}, "expected data to be an array"),
        ({"batch_size": 6}, "expected batch_size to be at most the 5 rows of the data, got 6"),
        ({"batch_size": 0}, "expected batch_size to be a whole number above zero, got 0"),
        ({"steps": 0}, "expected steps to be a whole number above zero, got 0"),
        ({"steps": 2.5}, "expected steps to be a whole number above zero, got 2.5"),
        ({"key": 3}, "expected key to be one key, as jax.random.key makes it, got 3"),
        ({"key": jax.random.split(KEY, 2)}, r"expected key to be one key, .* got \(2,\)"),
        ({"optimizer": 0.1}, "expected optimizer to be an optax transformation .* got 0.1"),
        ({"model": nnx.Dropout(0.1)}, r"expected model to have parameters \(nnx.Param\), got none"),
        ({"model": jnp.tanh}, "expected model to be an nnx.Module, got"),
        ({"loss": lambda model: 0.0}, r"expected loss to be .* \(model, batch\) .* got \(model\)"),
        ({"loss": lambda model, batch, key, more: 0.0}, "expected loss to be .* got .*more"),
        ({"loss": lambda model, batch, key=None: 0.0}, "expected loss to be .* got .*key=None"),
        ({"loss": 3.0}, "expected loss to be a hashable function .* got 3.0"),
        ({"loss": lambda model, batch: model(batch)}, r"expected loss to return a scalar, got \(4,\)"),
        ({"loss": lambda model, batch: 1.0}, "expected loss to return a scalar, got float"),
        ({"divergence_limit": 0.0}, "expected divergence_limit to be above zero, got 0.0"),
        ({"divergence_limit": float("nan")}, "expected divergence_limit to be above zero, got nan"),
    ],
)
def test_refusals_of_fit(changes, message):
    arguments = {"model": Line(), "loss": lambda model, batch: model(batch).mean(), "data": jnp.ones((5, 3)), **GOOD}
    arguments |= changes
    model, loss, data = (arguments.pop(name) for name in ("model", "loss", "data"))
    with pytest.raises(ValueError, match=message):
        fit(model, loss, data, **arguments)
    if isinstance(model, Line):
        np.testing.assert_array_equal(parameters(model), np.zeros(3))


ONE_LINE = Line()


@pytest.mark.parametrize(
    ("models", "settings", "message"),
    [
        ([], None, "expected models to be a list of nnx modules, got"),
        ([Line(), 3], None, r"expected models to be a list of nnx modules, got \['Line', 'int'\]"),
        ([ONE_LINE, ONE_LINE], None, "expected models to be different objects, got one of them twice"),
        ([Line(3), Line(4)], None, r"expected models to share the shapes \[\(3,\)\] of the first, got \[\(4,\)\] in 1"),
        ([Line(), Net()], None, "expected models to share"),
        ([Counter(), Normal.__new__(Normal)], None, "expected models to share"),
        ([nnx.Dropout(0.1), nnx.Dropout(0.1)], None, "expected model to have parameters"),
        ([nnx.Sequential(Line(), jnp.tanh), nnx.Sequential(Line(), jnp.sin)], None, "expected models to share the fir"),
        ([Line(), Line()], jnp.ones(3), r"expected settings to have a leading axis of 2, .* got \(3,\)"),
        ([Line(), Line()], 1.0, r"expected settings to have a leading axis of 2, .* got \(\)"),
        ([Line(), Line()], jnp.ones(2), r"expected loss to be .*\(model, batch, setting\).* got \(model, batch\)"),
    ],
)
def test_refusals_of_fit_many(models, settings, message):
    with pytest.raises(ValueError, match=message):
        fit_many(models, lambda model, batch: model(batch).mean(), jnp.ones((5, 3)), settings=settings, **GOOD)
