"""Cases of notebook 01: wrong answers to its exercises, broken code, and other worlds for its claims."""

import jax.numpy as jnp

from gm_utils import data, mixtures

# For every exercise: answers that are wrong in a way that people are wrong.
_LIKELIHOOD = """def log_likelihood(x, mean, covariance):
    gap = x - mean
    square = (gap * jnp.linalg.solve(covariance, gap.T).T).sum(axis=1)
    return {}
"""
_STEP = """def em_step(x, weights, means, variances):
    r = {r}
    size = r.sum(axis=0)
    new_means = (r * x[:, None]).sum(axis=0) / {over}
    return size / len(x), new_means, (r * (x[:, None] - {centre}) ** 2).sum(axis=0) / {over}
"""
_BELLS = "norm.logpdf(x[:, None], means, {})"
_RIGHT_R = "jax.nn.softmax(jnp.log(weights) + " + _BELLS.format("jnp.sqrt(variances)") + ", axis=1)"

MISTAKES = {
    "log_likelihood": [
        _LIKELIHOOD.format("(-square / 2 - jnp.linalg.slogdet(2 * jnp.pi * covariance)[1] / 2).mean()"),
        _LIKELIHOOD.format("(-square / 2 - jnp.linalg.slogdet(2 * jnp.pi * covariance)[1]).sum()"),
        _LIKELIHOOD.format("(-square / 2).sum() - jnp.linalg.slogdet(2 * jnp.pi * covariance)[1] / 2"),
        _LIKELIHOOD.format("(square / 2 + jnp.linalg.slogdet(2 * jnp.pi * covariance)[1] / 2).sum()"),
        _LIKELIHOOD.format("(-square / 2 - (jnp.linalg.slogdet(covariance)[1] + jnp.log(2 * jnp.pi)) / 2).sum()"),
        _LIKELIHOOD.format("(-square / 2 - jnp.linalg.slogdet(covariance)[1] / 2 - jnp.log(2 * jnp.pi)).sum()"),
        "def log_likelihood(x, mean, covariance):\n"
        "    return norm.logpdf(x, mean, jnp.sqrt(jnp.diagonal(covariance))).sum()",
    ],
    "em_step": [
        _STEP.format(r=_RIGHT_R.replace("jnp.log(weights) + ", ""), over="size", centre="new_means"),
        _STEP.format(r=_RIGHT_R, over="size", centre="means"),
        _STEP.format(r=_RIGHT_R, over="len(x)", centre="new_means"),
        _STEP.format(r=_RIGHT_R.replace("axis=1", "axis=0"), over="size", centre="new_means"),
        _STEP.format(r=_RIGHT_R.replace("jnp.sqrt(variances)", "variances"), over="size", centre="new_means"),
    ],
    "family": [
        "def family(letter):\n    return 'exact'",
        'def family(letter):\n    return dict(A="exact", B="none", C="exact", D="constant", E="exact")[letter]',
        'def family(letter):\n    return dict(A="none", B="none", C="bound", D="constant", E="exact")[letter]',
        'def family(letter):\n    return dict(A="exact", B="bound", C="bound", D="constant", E="exact")[letter]',
    ],
}


def draws_without_noise(monkeypatch):
    """Draw the components' means and nothing around them."""
    right = mixtures.Mixture.sample
    monkeypatch.setattr(
        mixtures.Mixture,
        "sample",
        lambda mixture, key, n: right(mixture._replace(covariances=1e-9 * mixture.covariances), key, n),
    )


def source_without_normaliser(monkeypatch):
    """Give every point of the source log 2 too much."""
    right = data.EightGaussians.log_prob
    monkeypatch.setattr(data.EightGaussians, "log_prob", lambda source, x: right(source, x) + jnp.log(2.0))


# (what is broken, the claims that must turn from what they are to "wrong")
BROKEN = [(draws_without_noise, ["claim_1c"]), (source_without_normaliser, ["claim_1b"])]

# (code on the page, the same with a mistake, the claims that must turn to "wrong")
BROKEN_PAGES = [
    ("jnp.log(weights) - (square", "-(square", ["claim_1a", "claim_1b", "claim_1c"]),
    ("(square + jnp", "(square - jnp", ["claim_1a", "claim_1b", "claim_1c"]),
    ("slogdet(2 * jnp.pi * covariances)", "slogdet(covariances)", ["claim_1a", "claim_1b", "claim_1c"]),
    ("means = r.T @ x / size[:, None]", "means = r.T @ x / len(x)", ["claim_1a", "claim_1b"]),
    ("gap, gap) / size[:, None, None]", "gap, gap) / len(x)", ["claim_1a", "claim_1b"]),
    ("return jnp.exp(joint - log_p[:, None]), log_p", "return jnp.exp(joint), log_p", ["claim_1b"]),
    ("used * e_step(x, *theta)[0]", "e_step(x, *theta)[0]", ["claim_1b"]),
    ("(source.log_prob(fresh) - e_step(fresh,", "(source.log_prob(x) - e_step(x,", ["claim_1b"]),
    ("(2 + 0.25**2)", "(4 + 0.25**2)", ["claim_1b"]),
    ("fori_loop(0, 30,", "fori_loop(0, 1,", ["claim_1b"]),
    ("PushForward(1)", "PushForward(2)", ["claim_1c"]),
    ("(4 * pairs", "(2 * pairs", ["claim_1c"]),
    ("float) / h)", "float) * h)", ["claim_1c"]),
    ("+ log_n(1, z, 0.5)", "- log_n(1, z, 0.5)", ["claim_1c"]),
]

# (claim, names with other values, the verdict then); the cell runs from the claim's own assignment on
OTHER_WORLDS = [
    ("claim_1a", {"right_class": 0.4, "right_draw": 0.4}, "stands"),
    ("claim_1a", {"spread": 0.001}, "stands"),
    ("claim_1a", {"score": -4.0}, "wrong"),
    ("claim_1a", {"score": -1.0}, "wrong"),
    ("claim_1a", {"score": float("nan")}, "wrong"),
    ("claim_1b", {"eight": [0.1, 0.02, -0.013]}, "wrong"),
    ("claim_1b", {"eight": [0.013, 0.013, 0.013]}, "wrong"),
    ("claim_1b", {"eight": [0.1626, 0.5, 0.0136]}, "wrong"),
    ("claim_1b", {"single": [1.4, 1.4, 0.9]}, "wrong"),
    ("claim_1c", {"energy_total": 1.0}, "stands"),
    ("claim_1c", {"short": 0.0}, "stands"),
    ("claim_1c", {"short": -0.33}, "wrong"),
    ("claim_1c", {"on_curve": 1.0}, "wrong"),
]
