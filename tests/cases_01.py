"""Cases of notebook 01: wrong answers to its exercises, broken code, and other worlds for its claims."""

import jax.numpy as jnp

from gm_utils import mixtures

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


def forgotten_determinant(monkeypatch):
    """Give every point the log density that it would have, were the first component's covariance of determinant 1."""
    right = mixtures.Mixture.log_prob

    def wrong(mixture, x):
        return right(mixture, x) + 0.5 * jnp.linalg.slogdet(mixture.covariances[0])[1]

    monkeypatch.setattr(mixtures.Mixture, "log_prob", wrong)


def means_astray(monkeypatch):
    """Return a fitted mixture whose components all stand far from the data."""
    right = mixtures.fit_mixture

    def wrong(x, weights, means, covariances, **options):
        fitted, scores = right(x, weights, means, covariances, **options)
        return fitted._replace(means=0 * fitted.means + 9.0), scores

    monkeypatch.setattr(mixtures, "fit_mixture", wrong)


# (what is broken, the claims that must turn from what they are to "wrong")
BROKEN = [(forgotten_determinant, ["claim_1b", "claim_1c"]), (means_astray, ["claim_1a", "claim_1b"])]

# (claim, names with other values, the verdict then); the cell runs from the claim's own assignment on
OTHER_WORLDS = [
    ("claim_1a", {"right_class": 0.4, "right_draw": 0.4}, "stands"),
    ("claim_1a", {"spread": 0.001}, "stands"),
    ("claim_1b", {"eight": [0.1, 0.02, -0.013]}, "wrong"),
    ("claim_1a", {"gain": -0.1}, "wrong"),
    ("claim_1b", {"single": [1.4, 1.4, 0.9]}, "wrong"),
    ("claim_1c", {"energy_total": 1.0}, "stands"),
    ("claim_1c", {"short": -0.33}, "stands"),
    ("claim_1c", {"doubling": {"mixture": 1.0, "curve": 1.0}}, "wrong"),
]
