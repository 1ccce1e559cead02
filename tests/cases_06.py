"""Cases of notebook 06: wrong answers to its exercises, broken code, and other worlds for its claims."""

import numpy as np

from gm_utils import divergences, scoring

_NEGATIVE = """def negative_elbo(x, logits, mean, log_var):
    likelihood = (x * logits - jax.nn.softplus(logits)){pixels}
    kl = 0.5 * (mean**2 + jnp.exp(log_var) - 1 - log_var).sum(axis=1)
    return ({signs}){batch}
"""

# For every exercise: answers that are wrong in a way that people are wrong.
MISTAKES = {
    "draw": [
        "def draw(e, mean, log_var):\n    return mean + jnp.exp(log_var) * e",
        "def draw(e, mean, log_var):\n    return mean + log_var * e",
        "def draw(e, mean, log_var):\n    return (mean + e) * jnp.exp(log_var / 2)",
        "def draw(e, mean, log_var):\n    return jnp.exp(log_var / 2) * e",
    ],
    "kl_wide": [
        "def kl_wide(mean, log_var, s):\n    return 0.5 * (mean**2 + jnp.exp(log_var) - 1 - log_var).sum(axis=1)",
        "def kl_wide(mean, log_var, s):\n"
        "    return 0.5 * ((mean**2 + jnp.exp(log_var)) / s - 1 - log_var + jnp.log(s)).sum(axis=1)",
        "def kl_wide(mean, log_var, s):\n"
        "    return 0.5 * ((mean**2 + jnp.exp(log_var)) / s**2 - 1 - log_var + 2 * jnp.log(s)).mean(axis=1)",
        "def kl_wide(mean, log_var, s):\n"
        "    return -0.5 * ((mean**2 + jnp.exp(log_var)) / s**2 - 1 - log_var + 2 * jnp.log(s)).sum(axis=1)",
        "def kl_wide(mean, log_var, s):\n"
        "    return 0.5 * ((mean**2 + jnp.exp(log_var)) / s**2 - 1 - log_var).sum(axis=1) + jnp.log(s)",
    ],
    "negative_elbo": [
        _NEGATIVE.format(pixels=".sum(axis=1)", signs="likelihood - kl", batch=".mean()"),
        _NEGATIVE.format(pixels=".mean(axis=1)", signs="kl - likelihood", batch=".mean()"),
        _NEGATIVE.format(pixels=".sum(axis=1)", signs="-likelihood - kl", batch=".mean()"),
        _NEGATIVE.format(pixels=".sum(axis=1)", signs="kl - likelihood", batch=".sum()"),
        _NEGATIVE.format(pixels=".sum(axis=1)", signs="-likelihood", batch=".mean()"),
    ],
    "iw_bound": [
        "def iw_bound(log_w):\n    return log_w.mean(axis=0)",
        "def iw_bound(log_w):\n    return jnp.log(jnp.exp(log_w).mean(axis=0))",
        "def iw_bound(log_w):\n    return jax.nn.logsumexp(log_w, axis=0)",
        "def iw_bound(log_w):\n    return jax.nn.logsumexp(log_w, axis=1) - jnp.log(log_w.shape[1])",
        "def iw_bound(log_w):\n    return jax.nn.logsumexp(log_w - jnp.log(len(log_w)))",
    ],
}


def blind_judge(monkeypatch):
    monkeypatch.setattr(scoring, "frechet_distance", lambda a, b: 1.0)


def swapped_divergences(monkeypatch):
    right_normal, right_categorical = divergences.kl_normal, divergences.kl_categorical
    monkeypatch.setattr(divergences, "kl_normal", lambda m, s, M=0.0, S=1.0: right_normal(M, S, m, s))
    monkeypatch.setattr(divergences, "kl_categorical", lambda p, q: right_categorical(q, p))


def pupils_that_learn_nothing(monkeypatch):
    right = scoring.fit_classifiers
    monkeypatch.setattr(scoring, "fit_classifiers", lambda key, sets: right(key, sets, steps=1))


# (what is broken, the claims that must turn from what they are to "wrong")
BROKEN = [
    (blind_judge, ["claim_6b"]),
    (swapped_divergences, ["claim_6f", "claim_6g"]),
    (pupils_that_learn_nothing, ["claim_6h"]),
]

# (code on the page, the same with a mistake, the claims that must turn to "wrong")
BROKEN_PAGES = [
    ("- beta * kl_term(mean, log_var)).mean()", "- 0 * kl_term(mean, log_var)).mean()", ["claim_6b"]),
    ("< ink(model, z)", "< 1 - ink(model, z)", ["claim_6b", "claim_6h"]),
    ("jnp.exp(log_var / 2) * jax.random", "jnp.exp(log_var) * jax.random", ["claim_6d"]),
    ("stop(path(q, key) - baseline)", "-stop(path(q, key) - baseline)", ["claim_6d"]),
    ("- np.log(s) - 0.5 *", "+ np.log(s) - 0.5 *", ["claim_6d", "claim_6f", "claim_6g"]),
    ("jnp.exp(log_var) - 1 - log_var)", "jnp.exp(log_var / 2) - 1 - log_var)", ["claim_6f"]),
    ("jnp.exp(log_var) - 1 - log_var)", "jnp.exp(log_var) - log_var)", ["claim_6f"]),
    ("np.log(q_dice / p_dice)", "np.log(p_dice / q_dice)", ["claim_6f"]),
    ("(x * logits - jax.nn.softplus(logits))", "(x * logits - jax.nn.relu(logits))", ["claim_6h"]),
    ("/ (64 * np.log(2))", "/ 64", ["claim_6h"]),
    ("[labels_half == k]", "[labels_half == (k + 1) % 10]", ["claim_6h"]),
]

NAN = float("nan")

# (claim, names with other values, the verdict then); the cell runs from the claim's own assignment on
OTHER_WORLDS = [
    ("claim_6b", {"at_fit": np.full((10, 3), 30.0)}, "stands"),
    ("claim_6b", {"at_vae": np.full((10, 3), NAN)}, "wrong"),
    ("claim_6b", {"at_ae": np.full((10, 3), 30.0), "at_vae": np.full((10, 3), 14.0)}, "wrong"),
    ("claim_6b", {"at_ae": np.full((10, 3), 20.0), "at_vae": np.where(np.arange(30) == 0, 11.0, 4.0).reshape(10, 3)},
     "wrong"),
    ("claim_6d", {"blocked": np.ones((4000, 8)), "plain_2": 2.0}, "stands"),
    ("claim_6d", {"blocked": np.ones((4000, 8)), "base_8": 1.0}, "stands"),
    ("claim_6d", {"off": [np.array([1.0, 1.0]), np.array([NAN, 1.0])]}, "wrong"),
    ("claim_6e", {"script_stopped": 0, "wrong": np.arange(30), "term_2": np.arange(30)}, "stands"),
    ("claim_6e", {"negative_stopped": 10, "wrong": np.arange(30), "term_2": np.arange(30)}, "stands"),
    ("claim_6f", {"by_moments": 1.367}, "stands"),
    ("claim_6f", {"near": np.zeros(9)}, "wrong"),
    ("claim_6f", {"closed": NAN}, "wrong"),
    ("claim_6g", {"wide": NAN}, "wrong"),
    ("claim_6h", {"synthetic": [0.6]}, "wrong"),
    ("claim_6h", {"vae_bits": np.full(10, 0.6)}, "wrong"),
    ("claim_6h", {"vae_bits": np.full(10, NAN)}, "wrong"),
    ("claim_6a", {"returned": np.ones((297, 64)), "at_vae": np.full((10, 3), 99.0), "used": 64.0}, "stands"),
    ("claim_6c", {"conv_bits": 0.7}, "wrong"),
    ("claim_6c", {"vae_bits": np.full(10, 0.6)}, "stands"),
]  # fmt: skip
