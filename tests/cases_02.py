"""Cases of notebook 02: wrong answers to its exercises, broken code, and other worlds for its claims."""

import jax.numpy as jnp

from gm_utils import sampling

# For every exercise: answers that are wrong in a way that people are wrong.
MISTAKES = {
    "self_normalised": [
        "def self_normalised(values, log_weights):\n    w = jnp.exp(log_weights)\n"
        "    return (w * values).sum() / w.sum()",
        "def self_normalised(values, log_weights):\n    w = jnp.exp(log_weights - log_weights.max())\n"
        "    return (w * values).mean()",
        "def self_normalised(values, log_weights):\n    return (log_weights * values).sum() / log_weights.sum()",
        "def self_normalised(values, log_weights):\n    w = jnp.exp(log_weights.max() - log_weights)\n"
        "    return (w * values).sum() / w.sum()",
    ],
    "log_mean_weight": [
        "def log_mean_weight(log_weights):\n    return jnp.log(jnp.exp(log_weights).mean())",
        "def log_mean_weight(log_weights):\n    m = log_weights.max()\n"
        "    return m + jnp.log(jnp.exp(log_weights - m).sum())",
        "def log_mean_weight(log_weights):\n    m = log_weights.max()\n"
        "    return jnp.log(jnp.exp(log_weights - m).mean())",
        "def log_mean_weight(log_weights):\n    return log_weights.mean()",
    ],
    "variances": [
        "def variances(s):\n    a = 1 - 1 / (2 * s**2)\n    return 3 * s / (4 * jnp.sqrt(2)) * a**-2.5",
        "def variances(s):\n    a = 1 - 1 / (2 * s**2)\n"
        "    return 3 * s / (4 * jnp.sqrt(2)) * jnp.maximum(a, 0) ** -2.5",
        "def variances(s):\n    return 2 * jnp.ones_like(s)",
    ],
}


def flipped_weights(monkeypatch):
    right = sampling.importance_estimate
    monkeypatch.setattr(
        sampling, "importance_estimate", lambda values, log_w, **options: right(values, -log_w, **options)
    )


def biased_coins(monkeypatch):
    right = sampling.BayesNet.forward_sample

    def wrong(net, key, n):
        return {node: jnp.where(jnp.arange(n) % 20 == 0, 1, draws) for node, draws in right(net, key, n).items()}

    monkeypatch.setattr(sampling.BayesNet, "forward_sample", wrong)


# (what is broken, the claims that must turn from what they are to "wrong")
BROKEN = [(flipped_weights, ["claim_2c", "claim_2d"]), (biased_coins, ["claim_2a", "claim_2b"])]

# (claim, names with other values, the verdict then); the cell runs from the claim's own assignment on
OTHER_WORLDS = [
    ("claim_2b", {"rich_error": 9.0, "share": 0.5}, "stands"),
    ("claim_2d", {"shares": {20: 0.8}, "narrow": {100: 0.5, 100_000: 0.5}}, "stands"),
    ("claim_2a", {"chi_square": 1e4}, "wrong"),
]
