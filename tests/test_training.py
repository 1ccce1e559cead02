import inspect
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gm_utils import loop
from gm_utils.gan import (
    critic_loss,
    discriminator_loss,
    minimax_generator_loss,
    nonsaturating_generator_loss,
    wasserstein_generator_loss,
)
from gm_utils.training import Diverged, fit, fit_adversarial, fit_adversarial_many, fit_many, minibatch

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
    together = loop.rows_of_steps(KEY, 1, 4, 50, 16)
    np.testing.assert_array_equal(together, drawn[1:5])
    assert not np.array_equal(drawn[0], minibatch(jax.random.key(8), 0, rows=50, batch_size=16)[0])
    assert sorted(minibatch(KEY, 3, rows=50, batch_size=50)[0].tolist()) == list(range(50))
    with pytest.raises(ValueError, match="expected batch_size to be at most the 50 rows of the data, got 51"):
        minibatch(KEY, 0, rows=50, batch_size=51)


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
    first, compiled = len(traces), loop.chunk._cache_size()
    assert first > 0
    for seed, steps in [(1, 20), (2, 33), (3, 1)]:
        fit(Net(seed), loss, data, key=jax.random.key(seed), steps=steps, batch_size=16, optimizer=ADAM)
    assert len(traces) == first
    assert loop.chunk._cache_size() == compiled
    fit(Net(0), loss, data, key=KEY, steps=20, batch_size=8, optimizer=ADAM)
    assert len(traces) > first  # the count does see a new shape


def test_a_weakly_typed_parameter_compiles_once():
    before = loop.chunk._cache_size()
    fit(Normal(), negative_log_likelihood, jnp.ones(7), key=KEY, steps=10, batch_size=7, optimizer=ADAM)
    assert loop.chunk._cache_size() == before + 1


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
    chunk, calls = loop.chunk, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return chunk(*args, **kwargs)

    monkeypatch.setattr(loop, "chunk", interrupted)
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


@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_a_setting_without_a_key(shape):
    losses = fit_many(
        [Line(), Line()], lambda model, batch, scale: scale.mean() * squares(model, batch), regression(), key=KEY,
        steps=1, batch_size=60, optimizer=SGD, settings=jnp.ones(shape).at[1].set(3.0),
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


@pytest.mark.parametrize("seconds", [0.0, 0.3, 1e9])
def test_a_member_that_diverges_spoils_no_other_wherever_chunks_end(seconds, monkeypatch):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", seconds)
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


# --- projections ---


def test_a_projection_is_applied_after_each_update():
    def clip(model):
        model.weight[...] = jnp.clip(model.weight[...], -0.1, 0.1)

    data, model, watched = regression(), Line(), []
    exact = np.linalg.lstsq(np.asarray(data["x"]), np.asarray(data["y"]))[0]
    assert (np.abs(exact) > 0.1).any()
    fit(model, squares, data, key=KEY, steps=50, batch_size=60, optimizer=SGD, project=clip)
    np.testing.assert_allclose(np.abs(parameters(model)).max(), 0.1, rtol=1e-6)

    def clip_to(model, limit):
        watched.append(1)
        model.weight[...] = jnp.clip(model.weight[...], -limit, limit)

    models, limits = [Line(), Line(), Line()], jnp.array([0.1, 0.2, jnp.inf])
    with_limit = lambda model, batch, setting: squares(model, batch)  # noqa: E731
    fit_many(models, with_limit, data, key=KEY, steps=50, batch_size=60, optimizer=SGD, project=clip_to,
             settings=limits)  # fmt: skip
    np.testing.assert_allclose(parameters(models[0]), parameters(model), rtol=1e-6)
    np.testing.assert_allclose(np.abs(parameters(models[1])).max(), 0.2, rtol=1e-6)
    np.testing.assert_allclose(parameters(models[2]), exact, rtol=1e-2)
    assert len(watched) <= 2  # while tracing


# --- two adversaries ---


class Maker(nnx.Module):
    """A generator on the plane."""

    def __init__(self, seed=0, width=8):
        rngs = nnx.Rngs(seed)
        self.hidden, self.out = nnx.Linear(2, width, rngs=rngs), nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, z):
        return self.out(nnx.tanh(self.hidden(z)))


def noise_for(key, batch):
    return jax.random.normal(key, batch.shape)


def judge_loss(generator, discriminator, batch, key):
    return discriminator_loss(discriminator(batch), discriminator(generator(noise_for(key, batch))))


def maker_loss(generator, discriminator, batch, key):
    return nonsaturating_generator_loss(discriminator(generator(noise_for(key, batch))))


PLANE = jax.random.normal(jax.random.key(11), (96, 2)) + 1.0
GAME = {"losses": (maker_loss, judge_loss), "optimizers": (ADAM, SGD), "key": KEY, "batch_size": 16}


def play_by_hand(generator, discriminator, steps, discriminator_steps):
    """Take the turns in Python; return the losses of rounds and a record of who moved when."""

    @nnx.jit
    def judge_step(generator, discriminator, optimizer, batch, key):
        value, gradient = nnx.value_and_grad(judge_loss, argnums=1)(generator, discriminator, batch, key)
        optimizer.update(discriminator, gradient)
        return value

    @nnx.jit
    def maker_step(generator, discriminator, optimizer, batch, key):
        value, gradient = nnx.value_and_grad(maker_loss, argnums=0)(generator, discriminator, batch, key)
        optimizer.update(generator, gradient)
        return value

    makers, judges, moved = [], [], []
    with jax.numpy_dtype_promotion("standard"):
        of_maker = nnx.Optimizer(generator, ADAM, wrt=nnx.Param)
        of_judge = nnx.Optimizer(discriminator, SGD, wrt=nnx.Param)
        for u in range(steps * (discriminator_steps + 1)):
            before = parameters(generator), parameters(discriminator)
            rows, key = minibatch(KEY, u, rows=96, batch_size=16)
            if u % (discriminator_steps + 1) < discriminator_steps:
                judges.append(judge_step(generator, discriminator, of_judge, PLANE[rows], key))
            else:
                makers.append(maker_step(generator, discriminator, of_maker, PLANE[rows], key))
            after = parameters(generator), parameters(discriminator)
            moved.append([not np.array_equal(a, b) for a, b in zip(before, after, strict=True)])
    return np.array([makers, np.reshape(judges, (steps, discriminator_steps)).mean(axis=1)]), moved


@pytest.mark.parametrize("discriminator_steps", [1, 3])
def test_two_in_turn_equal_a_loop_of_compiled_steps(discriminator_steps):
    pair, twins = (Maker(), Net()), (Maker(), Net())
    losses = fit_adversarial(*pair, PLANE, steps=20, discriminator_steps=discriminator_steps, **GAME)
    by_hand, moved = play_by_hand(*twins, 20, discriminator_steps)
    assert losses.shape == (2, 20)
    assert losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, by_hand, rtol=1e-4)
    for mine, theirs in zip(pair, twins, strict=True):
        np.testing.assert_allclose(parameters(mine), parameters(theirs), rtol=1e-3, atol=1e-5)
    assert moved == ([[False, True]] * discriminator_steps + [[True, False]]) * 20


def test_a_frozen_player_is_not_moved():
    """With a rate of zero for one, the other's first update is what an ordinary gradient step gives."""
    still, pair = optax.sgd(0.0), (Maker(), Net())
    before = parameters(pair[0])
    fit_adversarial(*pair, PLANE, steps=5, **GAME | {"optimizers": (still, SGD)})
    np.testing.assert_array_equal(parameters(pair[0]), before)
    assert not np.array_equal(parameters(pair[1]), parameters(Net()))
    other = (Maker(), Net())
    fit_adversarial(*other, PLANE, steps=5, **GAME | {"optimizers": (SGD, still)})
    np.testing.assert_array_equal(parameters(other[1]), parameters(Net()))
    assert not np.array_equal(parameters(other[0]), before)


class Point(nnx.Module):
    """A generator whose fakes all lie at one number."""

    def __init__(self, start):
        self.at = nnx.Param(jnp.asarray(start, jnp.float32))


def clip(critic):
    critic.weight[...] = jnp.clip(critic.weight[...], -1.0, 1.0)


def critic_of(generator, critic, batch):
    return critic_loss(critic(batch), critic(generator.at[...][None, None]))


def point_of(generator, critic, batch):
    return wasserstein_generator_loss(critic(generator.at[...][None, None]))


def test_a_critic_of_limited_slope_pulls_a_point_to_the_mean():
    """With f(x) = w x and |w| <= 1 the generator moves by the rate times w: it arrives, and W1 is |mean - at|."""
    generator, critic = Point(-1.0), Line(1)
    x = 3.0 + jax.random.normal(KEY, (40, 1))
    seen = []
    g, d = fit_adversarial(
        generator, critic, x, losses=(point_of, critic_of), optimizers=(optax.sgd(0.05), optax.sgd(1.0)), key=KEY,
        steps=60, batch_size=40, discriminator_steps=5, project=clip, every=10,
        watch=lambda step: seen.append((step, float(generator.at[...]), float(critic.weight[...][0]))),
    )  # fmt: skip
    # The slope is at its limit from the first round on, and the point walks 0.05 a round.
    assert [step for step, *_ in seen] == [0, 10, 20, 30, 40, 50, 60]
    np.testing.assert_allclose([at for _, at, _ in seen], -1.0 + 0.05 * np.arange(0, 61, 10), atol=1e-5)
    assert [w for *_, w in seen] == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    gap = np.mean(x) - (-1.0 + 0.05 * np.arange(1, 60))
    np.testing.assert_allclose(d[1:], -gap, rtol=1e-5)
    np.testing.assert_allclose(g, 1.0 - 0.05 * np.arange(60), rtol=1e-4, atol=1e-5)


def test_a_round_may_be_longer_than_the_rows_that_are_drawn_at_a_time():
    generator, critic, rounds = Point(-1.0), Line(1), []
    fit_adversarial(
        generator, critic, np.full((16384, 1), 3.0), losses=(point_of, critic_of), key=KEY, batch_size=16384, steps=2,
        optimizers=(optax.sgd(0.05), optax.sgd(1.0)), discriminator_steps=100, project=clip, watch=rounds.append,
    )  # fmt: skip
    assert rounds == [0, 1, 2]
    assert (float(generator.at[...]), float(critic.weight[...][0])) == (pytest.approx(-0.9), 1.0)


@pytest.mark.parametrize(("every", "steps"), [(1, 4), (3, 7), (50, 4)])
def test_snapshots_are_the_states_of_shorter_runs(every, steps):
    pair, seen = (Maker(), Net()), {}
    fit_adversarial(*pair, PLANE, steps=steps, discriminator_steps=2, every=every, **GAME,
                    watch=lambda step: seen.update({step: [parameters(one) for one in pair]}))  # fmt: skip
    assert sorted(seen) == list(range(0, steps + 1, every))
    for step, states in seen.items():
        shorter = (Maker(), Net())
        if step:
            fit_adversarial(*shorter, PLANE, steps=step, discriminator_steps=2, **GAME)
        for mine, theirs in zip(states, shorter, strict=True):
            np.testing.assert_allclose(mine, parameters(theirs), rtol=1e-5, atol=1e-7)


def test_optimizers_of_two_continue():
    once, twice = (Maker(), Net()), (Maker(), Net())
    whole = fit_adversarial(*once, PLANE, steps=12, discriminator_steps=2, **GAME)
    with jax.numpy_dtype_promotion("standard"):
        own = tuple(nnx.Optimizer(one, how, wrt=nnx.Param) for one, how in zip(twice, (ADAM, SGD), strict=True))
    parts = [fit_adversarial(*twice, PLANE, steps=steps, discriminator_steps=2, **GAME | {"optimizers": own})
             for steps in (5, 7)]  # fmt: skip
    assert [int(one.step[...]) for one in own] == [12, 24]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-5)


def test_a_second_adversarial_run_compiles_nothing():
    traces = []

    def counted(generator, discriminator, batch, key):
        traces.append(1)
        return judge_loss(generator, discriminator, batch, key)

    game = GAME | {"losses": (maker_loss, counted)}
    fit_adversarial(Maker(0), Net(0), PLANE, steps=3, **game)
    first, compiled = len(traces), loop.chunk._cache_size()
    for seed, steps in [(1, 3), (2, 40)]:
        fit_adversarial(Maker(seed), Net(seed), PLANE, steps=steps, **game)
    assert len(traces) == first > 0
    assert loop.chunk._cache_size() == compiled
    fit_adversarial(Maker(0), Net(0), PLANE, steps=3, discriminator_steps=2, **game)
    assert loop.chunk._cache_size() == compiled + 1


def game_of_counters(generator_loss, discriminator_loss):
    return {
        "losses": (lambda g, d, batch: generator_loss(g, batch) + 0.0 * d.n[...],
                   lambda g, d, batch: discriminator_loss(d, batch) + 0.0 * g.n[...]),
        "optimizers": (ONE, ONE), "key": KEY, "batch_size": 2,
    }  # fmt: skip


def slope_down(model, batch):
    return trap(model, batch, lambda n: 0.0)


@pytest.mark.parametrize("bad", [nan_loss, infinite_loss, nan_gradient])
@pytest.mark.parametrize("discriminator_steps", [1, 3])
def test_a_bad_turn_of_either_keeps_the_last_good_pair(bad, discriminator_steps):
    generator, discriminator = Counter(), Counter()
    with pytest.raises(Diverged, match="diverged at step 4: the generator's") as caught:
        fit_adversarial(generator, discriminator, jnp.ones(4), steps=20, discriminator_steps=discriminator_steps,
                        **game_of_counters(bad, slope_down))  # fmt: skip
    # The generator stands at 4 when its turn of round 4 refuses; that state of 4 was tested by round 4's other turns.
    assert (caught.value.step, caught.value.loss) == (4, 2.0)
    assert float(generator.n[...]) == 4.0
    assert float(discriminator.n[...]) == 5 * discriminator_steps - 1
    assert caught.value.losses.shape == (2, 4)
    np.testing.assert_array_equal(caught.value.losses[0], [5.0, 4.0, 3.0, 2.0])
    generator, discriminator = Counter(), Counter()
    with pytest.raises(Diverged, match="the discriminator's") as caught:
        fit_adversarial(generator, discriminator, jnp.ones(4), steps=20, discriminator_steps=discriminator_steps,
                        **game_of_counters(slope_down, bad))  # fmt: skip
    assert caught.value.step == 4 // discriminator_steps
    assert caught.value.loss == 2.0
    assert float(discriminator.n[...]) == (4.0 if discriminator_steps == 1 else 3.0)


def test_the_last_update_of_two_is_tested_too():
    for steps, stops in ((4, False), (5, True)):
        generator, discriminator = Counter(), Counter(-50.0)
        arguments = game_of_counters(nan_loss, slope_down) | {"steps": steps}
        if stops:
            with pytest.raises(Diverged):
                fit_adversarial(generator, discriminator, jnp.ones(4), **arguments)
        else:
            assert fit_adversarial(generator, discriminator, jnp.ones(4), **arguments).shape == (2, 4)
    generator, discriminator = Counter(-50.0), Counter(1.0)
    with pytest.raises(Diverged) as caught:  # the discriminator's third update made it bad: seen after the last round
        fit_adversarial(generator, discriminator, jnp.ones(4), steps=3, **game_of_counters(slope_down, nan_loss))
    assert caught.value.step == 3
    assert caught.value.losses.shape == (2, 3)
    assert float(discriminator.n[...]) == 4.0


def test_each_of_two_has_its_own_limit():
    scaled = lambda model, batch: 1e7 * slope_down(model, batch)  # noqa: E731
    rates = {"optimizers": (ONE, optax.sgd(1e-7))}
    generator, discriminator = Counter(), Counter()
    fit_adversarial(generator, discriminator, jnp.ones(4), steps=3,
                    **game_of_counters(slope_down, scaled) | rates)  # fmt: skip
    with pytest.raises(Diverged, match="the generator's loss -1e\\+07 is beyond the limit of 2e\\+06") as caught:
        fit_adversarial(Counter(), Counter(), jnp.ones(4), steps=20, **game_of_counters(runaway, scaled) | rates)
    assert caught.value.step == 7


def test_an_interrupt_leaves_a_usable_pair(monkeypatch):
    chunk, calls = loop.chunk, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return chunk(*args, **kwargs)

    monkeypatch.setattr(loop, "chunk", interrupted)
    pair = Counter(-1e4), Counter(-1e4)
    with pytest.raises(KeyboardInterrupt):
        fit_adversarial(*pair, jnp.ones(4), steps=5000, **game_of_counters(slope_down, slope_down))
    kept = [int(one.n[...]) + 10_000 for one in pair]
    assert 0 < kept[0] < 5000
    assert kept[1] - kept[0] in (0, 1)


# --- several pairs ---


def weighted_maker(generator, discriminator, batch, key, setting):
    logits = discriminator(generator(noise_for(key, batch)))
    return jnp.stack([minimax_generator_loss(logits), nonsaturating_generator_loss(logits)])[setting["kind"]]


def weighted_judge(generator, discriminator, batch, key, setting):
    return judge_loss(generator, discriminator, batch, key)


def minimax_maker(generator, discriminator, batch, key):
    return minimax_generator_loss(discriminator(generator(noise_for(key, batch))))


def test_pairs_learn_what_they_would_learn_alone():
    pairs, twins, seen = [(Maker(k), Net(k)) for k in range(3)], [(Maker(k), Net(k)) for k in range(3)], []
    together = fit_adversarial_many(
        *zip(*pairs, strict=True), PLANE, steps=15, discriminator_steps=2, every=5,
        settings={"kind": jnp.array([1, 0, 1])}, **GAME | {"losses": (weighted_maker, weighted_judge)},
        watch=lambda step: seen.append((step, parameters(pairs[1][0]))),
    )  # fmt: skip
    assert together.shape == (2, 3, 15)
    for member, loss in enumerate([maker_loss, minimax_maker, maker_loss]):
        alone = fit_adversarial(*twins[member], PLANE, steps=15, discriminator_steps=2,
                                **GAME | {"losses": (loss, judge_loss)})  # fmt: skip
        np.testing.assert_allclose(together[:, member], alone, rtol=1e-4)
        for mine, theirs in zip(pairs[member], twins[member], strict=True):
            np.testing.assert_allclose(parameters(mine), parameters(theirs), rtol=1e-3, atol=1e-5)
    assert [step for step, _ in seen] == [0, 5, 10, 15]
    np.testing.assert_array_equal(seen[-1][1], parameters(pairs[1][0]))
    assert not np.array_equal(seen[1][1], seen[2][1])


def test_a_pair_that_diverges_spoils_no_other():
    generators, discriminators = [Counter(-30.0), Counter(0.0)], [Counter(-60.0), Counter(-60.0)]
    with pytest.raises(Diverged, match=r"1 of 2 members.*member 1 at step 4: the generator's loss is nan") as caught:
        fit_adversarial_many(generators, discriminators, jnp.ones(4), steps=10, discriminator_steps=2,
                             **game_of_counters(nan_loss, slope_down))  # fmt: skip
    assert caught.value.members == {1: 4}
    assert (caught.value.step, caught.value.loss) == (4, 2.0)
    assert [float(one.n[...]) for one in generators] == [-20.0, 4.0]
    assert [float(one.n[...]) for one in discriminators] == [-40.0, -51.0]
    assert caught.value.losses.shape == (2, 2, 10)
    steps = np.arange(10.0)
    np.testing.assert_array_equal(caught.value.losses[0], [35 - steps, np.where(steps < 4, 5 - steps, np.nan)])


def test_a_projection_clips_each_critic_by_its_setting():
    def clip(discriminator, setting):
        clipped = jax.tree.map(lambda w: jnp.clip(w, -setting["limit"], setting["limit"]),
                               nnx.state(discriminator, nnx.Param))  # fmt: skip
        nnx.update(discriminator, clipped)

    generators, discriminators = [Maker(0), Maker(0)], [Net(0), Net(0)]
    fit_adversarial_many(
        generators, discriminators, PLANE, steps=6, project=clip, **GAME | {"losses": (weighted_maker, weighted_judge)},
        settings={"kind": jnp.array([1, 1]), "limit": jnp.array([0.05, jnp.inf])},
    )  # fmt: skip
    np.testing.assert_allclose(np.abs(parameters(discriminators[0])).max(), 0.05, rtol=1e-6)
    assert np.abs(parameters(discriminators[1])).max() > 0.3
    assert np.abs(parameters(generators[0])).max() > 0.3  # the generator is not clipped


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
    monkeypatch.setattr(loop, "BAR_AFTER_SECONDS", 0.0 if slow else 1e9)

    def show(text):
        fake.print(text)
        said.append(len(fake.output))
        assert "step" in text

    monkeypatch.setattr(loop, "print", show, raising=False)
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
    monkeypatch.setattr(loop, "BAR_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(loop, "print", fake.print, raising=False)
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
        (ONE_LINE, None, "expected models to be a list of nnx modules, got Line"),
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": maker_loss}, "expected losses to be a pair: the generator's, the discriminator's, got"),
        ({"losses": (maker_loss,)}, "expected losses to be a pair"),
        ({"losses": (maker_loss, squares)}, r"expected loss .*\(generator, discriminator, batch\) .* got \(model"),
        ({"optimizers": ADAM}, "expected optimizers to be a pair"),
        ({"optimizers": (ADAM, 0.1)}, "expected optimizer to be an optax transformation"),
        ({"discriminator_steps": 0}, "expected discriminator_steps to be a whole number above zero, got 0"),
        ({"every": 0.5}, "expected every to be a whole number above zero, got 0.5"),
        ({"data": jnp.full((96, 2), jnp.nan)}, "expected data to be finite"),
        ({"batch_size": 97}, "expected batch_size to be at most the 96 rows"),
        ({"generator": nnx.Dropout(0.1)}, r"expected generator to have parameters \(nnx.Param\), got none"),
        ({"discriminator": nnx.Dropout(0.1)}, r"expected discriminator to have parameters"),
        ({"discriminator": jnp.tanh}, "expected generator and discriminator to be a list of nnx modules, got"),
    ],
)
def test_refusals_of_fit_adversarial(changes, message):
    arguments = {"generator": Maker(), "discriminator": Net(), "data": PLANE, "steps": 3, **GAME} | changes
    pair = [arguments.pop(name) for name in ("generator", "discriminator", "data")]
    with pytest.raises(ValueError, match=message):
        fit_adversarial(*pair, **arguments)


def test_a_model_against_itself_is_refused():
    model = Net()
    with pytest.raises(ValueError, match="to be different objects, got one of them twice"):
        fit_adversarial(model, model, PLANE, steps=3, **GAME)


@pytest.mark.parametrize(
    ("generators", "discriminators", "settings", "message"),
    [
        ([Maker()], [Net(0), Net(1)], None, "expected discriminators to be 1, one a generator, got 2"),
        ([], [], None, "expected generators to be a list of nnx modules"),
        ([Maker(), Maker(width=4)], [Net(0), Net(1)], None, "expected models to share the shapes"),
        ([Maker(), Maker()], [Net(0), Net(1)], jnp.ones(3), "expected settings to have a leading axis of 2"),
        ([Maker(), Maker()], [Net(0), Net(1)], jnp.ones(2), r"expected loss to be .*batch, key, setting\)"),
    ],
)
def test_refusals_of_fit_adversarial_many(generators, discriminators, settings, message):
    without_key = lambda generator, discriminator, batch: 0.0  # noqa: E731
    game = GAME | {"losses": (without_key, without_key)}
    with pytest.raises(ValueError, match=message):
        fit_adversarial_many(generators, discriminators, PLANE, steps=3, settings=settings, **game)
