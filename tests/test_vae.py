"""The VAE against quadrature, enumeration, peers, and a linear-Gaussian one in which everything is known."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.scipy.stats import norm
from scipy.stats import bernoulli, multivariate_normal

import notebook_tools as tools
from gm_utils.training import fit
from gm_utils.vae import VAE, active_units, kl_to_prior, reparameterise

KEY = jax.random.key(0)


def some_vae(features=5, seed=0):
    """Return a VAE of two code numbers whose pictures depend on z, with an encoder near the prior."""
    model = VAE(features, 2, [16, 8], rngs=nnx.Rngs(seed))
    for part, scale in ((model.encoder, 0.7), (model.decoder, 1.7)):
        nnx.update(part, jax.tree.map(lambda leaf, scale=scale: scale * leaf, nnx.state(part, nnx.Param)))
    return model


def many(model, x, count, samples=None):
    """Return estimates of the bound, or with ``samples`` of log p(x), under ``count`` keys: (count, batch)."""
    if samples is None:
        return jnp.stack([model.elbo(key, x) for key in jax.random.split(KEY, count)])
    return nnx.jit(nnx.vmap(lambda model, key: model.log_prob(key, x, samples), in_axes=(None, 0)))(
        model, jax.random.split(KEY, count)
    )


def all_pictures(features):
    return jnp.asarray(list(itertools.product([0.0, 1.0], repeat=features)), jnp.float32)


def exact_log_prob(model, x):
    """Return log p(x) by a sum over a grid of z in two dimensions."""
    line = jnp.linspace(-7, 7, 281)
    z = jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)
    logits = model.decode(z)
    log_joint = x @ logits.T - jax.nn.softplus(logits).sum(axis=1)[None] + norm.logpdf(z).sum(axis=1)[None]
    return jax.nn.logsumexp(log_joint, axis=1) + 2 * math.log(0.05)


class Linear(VAE):
    """p(x | z) = N(W z, std^2 I) with the best q of independent parts: its bound falls short by ``gap`` for every x."""

    def __init__(self, weights, std):
        self.weights, self.std, self.sizes = nnx.Param(weights), std, weights.shape
        self.precision = nnx.Variable(jnp.eye(weights.shape[1]) + weights.T @ weights / std**2)
        diagonal, determinant = jnp.diagonal(self.precision[...]), jnp.linalg.slogdet(self.precision[...])[1]
        self.gap = float(0.5 * (jnp.log(diagonal).sum() - determinant))

    def encode(self, x):
        mean = jnp.linalg.solve(self.precision[...], self.weights[...].T @ x.T).T / self.std**2
        return mean, jnp.broadcast_to(-jnp.log(jnp.diagonal(self.precision[...])), mean.shape)

    def log_likelihood(self, x, z):
        return norm.logpdf(x, z @ self.weights[...].T, self.std).sum(axis=-1)

    def log_evidence(self, x):
        covariance = self.weights[...] @ self.weights[...].T + self.std**2 * jnp.eye(self.sizes[0])
        return multivariate_normal(cov=np.asarray(covariance)).logpdf(np.asarray(x))


def linear(columns):
    """Return a linear VAE of 5 features and data drawn from it; orthogonal columns leave no gap."""
    model = Linear(jnp.asarray(columns, jnp.float32).T, 0.7)
    z, noise = jax.random.normal(KEY, (3000, 2)), jax.random.normal(jax.random.key(1), (3000, 5))
    return model, z @ model.weights[...].T + 0.7 * noise


ORTHOGONAL = [[1, 1, 0, 0, 1], [1, -1, 2, 0, 0]]
OBLIQUE = [[1, 1, 0, 0.5, 1], [1, 0.5, 0.3, 0, 0.6]]


def test_bound_of_the_linear_vae_misses_by_its_gap():
    for columns, has_gap in ((ORTHOGONAL, False), (OBLIQUE, True)):
        model, x = linear(columns)
        assert (model.gap > 0.1) == has_gap
        short = model.log_evidence(x) - many(model, x, 20).mean(axis=0)
        assert abs(short.mean() - model.gap) < 4 * short.std() / math.sqrt(len(x))


def test_importance_weights_of_the_linear_vae_are_constant_where_q_is_the_posterior():
    model, x = linear(ORTHOGONAL)
    np.testing.assert_allclose(model.log_prob(KEY, x, 1), model.log_evidence(x), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(model.log_prob(KEY, x, 7), model.log_evidence(x), rtol=1e-5, atol=1e-4)


def test_bound_importance_weighted_and_exact_come_in_this_order():
    model, x = linear(OBLIQUE)
    steps = [float(model.log_prob(KEY, x, samples).mean()) for samples in (1, 10, 100, 1000)]
    truth = float(model.log_evidence(x).mean())
    bound = many(model, x, 20).mean()
    assert bound < steps[1] < steps[2] < steps[3]
    assert abs(bound - steps[0]) < 0.1 * model.gap  # one sample is the bound
    assert steps[2] < truth
    assert truth - steps[3] < (truth - steps[2]) / 2 < (truth - steps[1]) / 4


def test_decoder_is_a_distribution_over_pictures():
    model = some_vae()
    for z in ([0.0, 0.0], [1.5, -2.0]):
        log_p = model.log_likelihood(all_pictures(5), jnp.tile(jnp.array(z), (32, 1)))
        assert jnp.exp(log_p).sum() == pytest.approx(1, rel=1e-5)
    x = all_pictures(5)
    z = jax.random.normal(KEY, (32, 2))
    peer = bernoulli(np.asarray(jax.nn.sigmoid(model.decode(z)), np.float64)).logpmf(np.asarray(x)).sum(axis=1)
    np.testing.assert_allclose(model.log_likelihood(x, z), peer, rtol=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_estimate_of_log_p_against_quadrature(seed):
    model, x = some_vae(seed=seed), all_pictures(5)
    exact = exact_log_prob(model, x)
    assert jnp.exp(exact).sum() == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(model.log_prob(KEY, x, 20_000), exact, atol=0.05)
    bound = many(model, x, 100)
    assert (bound.mean(axis=0) < exact + 4 * bound.std(axis=0) / math.sqrt(100)).all()


def test_estimate_is_unbiased_for_p():
    model, x = some_vae(seed=3), all_pictures(5)[5:6]
    p = jnp.exp(many(model, x, 800, samples=3)[:, 0])
    assert abs(p.mean() - jnp.exp(exact_log_prob(model, x)[0])) < 4 * p.std() / math.sqrt(800)


def test_bound_is_likelihood_minus_beta_kl():
    peers = pytest.importorskip("numpyro.distributions")
    model, x = some_vae(), all_pictures(5)
    mean, log_var = model.encode(x)
    kl = peers.kl_divergence(peers.Normal(mean, jnp.exp(log_var / 2)), peers.Normal(0.0, 1.0)).sum(axis=1)
    at = [model.elbo(KEY, x, beta) for beta in (0.0, 1.0, 3.0)]
    np.testing.assert_allclose(at[0] - at[1], kl, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(at[0] - at[2], 3 * kl, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(at[0], model.log_likelihood(x, reparameterise(KEY, mean, log_var)), rtol=1e-5)
    np.testing.assert_array_equal(at[1], model.elbo(KEY, x))


def test_kl_to_prior():
    peers = pytest.importorskip("numpyro.distributions")
    mean, std = np.random.default_rng(0).normal(size=(20, 3)), np.exp(np.random.default_rng(1).normal(size=(20, 3)))
    peer = peers.kl_divergence(peers.Normal(jnp.float32(mean), jnp.float32(std)), peers.Normal(0.0, 1.0))
    np.testing.assert_allclose(kl_to_prior(jnp.float32(mean), jnp.float32(2 * np.log(std))), peer, rtol=1e-4, atol=1e-5)
    assert kl_to_prior(jnp.zeros(1), jnp.zeros(1))[0] == 0
    # Near the prior the value is log_var^2 / 4: var - 1 computed first would leave rounding only.
    assert kl_to_prior(jnp.zeros(()), jnp.float32(1e-3)) == pytest.approx(1e-6 / 4, rel=1e-2)


def test_reparameterised_draws_have_mean_and_variance_and_slopes():
    mean, log_var = jnp.full((40_000, 2), 3.0), jnp.broadcast_to(jnp.log(jnp.array([0.25, 9.0])), (40_000, 2))
    z = reparameterise(KEY, mean, log_var)
    np.testing.assert_allclose(z.mean(axis=0), 3, atol=4 * 3 / 200)
    np.testing.assert_allclose(z.var(axis=0), [0.25, 9.0], rtol=4 * math.sqrt(2) / 200)
    # E[z^2] = mean^2 + var: its slopes are 2 mean and, for log_var, var.
    slopes = jax.grad(lambda m, v: (reparameterise(KEY, m, v) ** 2).mean(axis=0).sum(), (0, 1))(mean, log_var)
    np.testing.assert_allclose(slopes[0].sum(axis=0), 6, rtol=0.05)
    np.testing.assert_allclose(slopes[1].sum(axis=0), [0.25, 9.0], rtol=0.1)


def test_samples_agree_with_the_density():
    model = some_vae(features=3, seed=4)
    x = model.sample(KEY, 40_000)
    assert x.dtype == jnp.float32
    counted = np.bincount(np.asarray(x @ jnp.array([4.0, 2.0, 1.0])).astype(int), minlength=8) / 40_000
    p = np.exp(exact_log_prob(model, all_pictures(3)))
    assert (np.abs(counted - p) < 4.5 * np.sqrt(p * (1 - p) / 40_000) + 1e-5).all()


def test_active_units():
    mean = np.random.default_rng(0).normal(size=(5000, 3)) * [1.0, 0.05, 0.3] + [0.0, 5.0, 0.0]
    assert active_units(mean).tolist() == [True, False, True]
    assert active_units(mean, 0.2).tolist() == [True, False, False]


def test_training_raises_the_bound():
    model = VAE(6, 2, [16], rngs=nnx.Rngs(0))
    x = jnp.repeat(jnp.array([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]), 50, axis=0)  # one bit in six pixels
    fit(
        model, lambda model, x, key: -model.elbo(key, x).mean(), x, key=KEY, steps=600, batch_size=50,
        optimizer=optax.adam(1e-2), progress=False,
    )  # fmt: skip
    bound = many(model, x, 10).mean()
    # Independent pixels cost six bits; no code is shorter than the one bit that is in them.
    assert -3 * math.log(2) < bound < -math.log(2)


def test_the_page_trains_on_a_reader_s_mnist_and_keeps_nothing_of_a_faulty_one(tmp_path, capsys):
    cells = {cell.id: cell.source for cell in tools.read(tools.FOLDER / "06_variational_autoencoders.ipynb").cells}
    names = {"ADAM": optax.adam(1e-2), "key": KEY}
    tools.run_cell(cells["setup"], names)
    file = tmp_path / "own.csv"

    def told(lines):
        file.write_text("\n".join(lines))
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            tools.run_cell(cells["mnist-code"].replace("= None", f"= {str(file)!r}", 1), names)
        return capsys.readouterr().out

    two_pictures = np.random.default_rng(0).integers(0, 256, (2, 784))
    lines = [f"{k % 2}," + ",".join(map(str, two_pictures[k % 2])) for k in range(60)]
    assert "the label in line 3" in told([*lines[:2], "1" + lines[2], *lines[3:]])
    assert "pixel 784 in line 60" in told([*lines[:-1], lines[-1] + "0000"])
    assert not {"large", "big"} & set(names)
    # Two pictures, known from training: a bit a picture would do, where a coin a pixel costs 784.
    assert 0 < float(told(lines).split()[-1]) < 0.05


def test_encoder_and_decoder_mirror_each_other():
    model = VAE(7, 3, [16, 4], rngs=nnx.Rngs(0))
    widths = [leaf.shape for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)) if leaf.ndim == 2]
    assert sorted(widths) == sorted([(7, 16), (16, 4), (4, 6), (3, 4), (4, 16), (16, 7)])
    assert [part.shape for part in model.encode(jnp.zeros((2, 7)))] == [(2, 3), (2, 3)]
    assert model.decode(jnp.zeros((2, 3))).shape == (2, 7)


SMALL = VAE(4, 2, [3], rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: VAE(0, 2, [3], rngs=nnx.Rngs(0)), "features to be a whole number above zero"),
        (lambda: VAE(4, 2.5, [3], rngs=nnx.Rngs(0)), "latent to be a whole number above zero"),
        (lambda: VAE(4, 2, [3, -1], rngs=nnx.Rngs(0)), "hidden to be a whole number above zero"),
        (lambda: VAE(4, 2, [], rngs=nnx.Rngs(0)), "hidden to be one or more widths"),
        (lambda: SMALL.encode(jnp.zeros((3, 5))), r"x of shape \(batch, 4\)"),
        (lambda: SMALL.decode(jnp.zeros(2)), r"z of shape \(batch, 2\)"),
        (lambda: SMALL.elbo(KEY, jnp.full((3, 4), 0.4)), "x to be zeros and ones"),
        (lambda: SMALL.elbo(KEY, jnp.full((3, 4), jnp.nan)), "x to be zeros and ones"),
        (lambda: SMALL.log_prob(KEY, jnp.full((3, 4), 16), 5), "x to be zeros and ones"),
        (lambda: SMALL.log_prob(KEY, jnp.zeros((3, 3)), 5), r"x of shape \(batch, 4\)"),
        (lambda: SMALL.log_prob(KEY, jnp.zeros((3, 4)), 0), "samples to be a whole number above zero"),
        (lambda: SMALL.sample(KEY, -1), "n to be a whole number above zero"),
        (lambda: active_units(jnp.zeros(3)), r"mean of shape \(batch, latent\)"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=f"expected {words}.*, got"):
        call()
