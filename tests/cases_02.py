"""Cases of notebook 02: wrong answers to its exercises, broken code, and other worlds for its claims."""

from gm_utils import sampling

CHOOSE = """
def choose(s):
    a = {a}
    second = 3 * s / (4 * jnp.sqrt(2)) * jnp.maximum(a, 0) ** -2.5
    variances = {variances}
    return variances, jnp.argmin(variances)
"""

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
        "def log_mean_weight(log_weights):\n    m = log_weights.max()\n"
        "    return m + jnp.log(jnp.exp(log_weights - m).sum() / 50)",
    ],
    "choose": [
        CHOOSE.format(a="1 - 1 / (2 * s**2)", variances="second - 1").replace("jnp.maximum(a, 0)", "a"),
        CHOOSE.format(a="1 - 1 / (2 * s**2)", variances="second"),
        CHOOSE.format(a="1 - 1 / (2 * s**2)", variances="jnp.where(s > 0.8, second - 1, jnp.inf)"),
        CHOOSE.format(a="1 - 1 / (2 * s**2)", variances="second - 1").replace("jnp.maximum(a, 0)", "jnp.abs(a)"),
        CHOOSE.format(a="1 - 1 / (2 * s**2)", variances="second - 1").replace("argmin", "argmax"),
        CHOOSE.format(a="1 - 1 / s**2", variances="second - 1"),
        "def choose(s):\n    return 2 * jnp.ones_like(s), 0",
    ],
}


def flipped_weights(monkeypatch):
    right = sampling.importance_estimate
    monkeypatch.setattr(
        sampling, "importance_estimate", lambda values, log_w, **options: right(values, -log_w, **options)
    )


# (what is broken, the claims that must turn from what they are to "wrong")
BROKEN = [(flipped_weights, ["claim_2c", "claim_2d"])]

# (code on the page, the same with a mistake, the claims that must turn to "wrong")
BROKEN_PAGES = [
    ("tuple(x[parent] for parent in parents)", "tuple(x[parent] for parent in parents[::-1])", ["claim_2a"]),
    ("jax.random.fold_in(key, len(x))", "key", ["claim_2a", "claim_2b"]),
    ("coin = jax.random.bernoulli(", "coin = ~jax.random.bernoulli(", ["claim_2a", "claim_2b"]),
    ("scale=s)).sum(axis=2)", "scale=s)).mean(axis=2)", ["claim_2d"]),
    ("(norm.logpdf(x) - norm.logpdf(x, scale=s))", "(norm.logpdf(x, scale=s) - norm.logpdf(x))", ["claim_2d"]),
]

# (claim, names with other values, the verdict then); the cell runs from the claim's own assignment on
OTHER_WORLDS = [
    ("claim_2b", {"rich_error": 9.0, "share": 0.5, "p_e": 0.5}, "stands"),
    ("claim_2d", {"shares": {5: 0.397, 20: 0.8}, "narrow": {100: 0.5, 100_000: 0.5}}, "stands"),
    ("claim_2d", {"hard": sampling.ImportanceEstimate(0.9, 0.003, 3e4, 0.0)}, "wrong"),
    ("claim_2d", {"hard": sampling.ImportanceEstimate(0.673, 0.02, 900.0, 0.0)}, "wrong"),
    ("claim_2d", {"hard": sampling.ImportanceEstimate(float("nan"), 0.003, 3e4, 0.0)}, "wrong"),
    ("claim_2a", {"chi_square": 1e4}, "wrong"),
]
