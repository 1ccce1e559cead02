"""Cases of notebook 08: wrong answers to its exercises, broken code, and other worlds for its claims."""

import numpy as np

from gm_utils import divergences

THREE = "def three_losses(real, fake):\n    sp = jax.nn.softplus\n    return ({}, {}, {})"
PENALTY = "def my_penalty(u, real, fake):\n    y = {}\n    slopes = jax.vmap(jax.grad(wavy))(y)\n    return {}"
BETWEEN, LENGTH = "u[:, None] * real + (1 - u[:, None]) * fake", "jnp.linalg.norm(slopes, axis=1)"
D_LOSS, G_LOSS = "sp(-real).mean() + sp(fake).mean()", "sp(-fake).mean()"

# For every exercise: answers that are wrong in a way that people are wrong.
MISTAKES = {
    "three_losses": [
        THREE.format(D_LOSS, G_LOSS, "real.mean() - fake.mean()"),
        THREE.format(D_LOSS, "-sp(fake).mean()", "fake.mean() - real.mean()"),
        THREE.format("sp(real).mean() + sp(-fake).mean()", G_LOSS, "fake.mean() - real.mean()"),
        THREE.format("sp(-real).sum() + sp(fake).sum()", G_LOSS, "fake.mean() - real.mean()"),
        THREE.format("-jnp.log(jax.nn.sigmoid(real)).mean() - jnp.log(1 - jax.nn.sigmoid(fake)).mean()", G_LOSS,
                     "fake.mean() - real.mean()"),
    ],
    "best_D": [
        "def best_D(p, q, pi):\n    return p / (p + q)",
        "def best_D(p, q, pi):\n    return pi * q / (pi * q + (1 - pi) * p)",
        "def best_D(p, q, pi):\n    return (1 - pi) * p / ((1 - pi) * p + pi * q)",
        "def best_D(p, q, pi):\n    return pi * p",
    ],
    "my_penalty": [
        PENALTY.format("real", f"(({LENGTH} - 1) ** 2).mean()"),
        PENALTY.format("(real + fake) / 2", f"(({LENGTH} - 1) ** 2).mean()"),
        PENALTY.format(BETWEEN, "((slopes - 1) ** 2).mean()"),
        PENALTY.format(BETWEEN, f"({LENGTH}.mean() - 1) ** 2"),
        PENALTY.format(BETWEEN, f"({LENGTH} ** 2 - 1).mean()"),
        PENALTY.format(BETWEEN, f"(jnp.maximum({LENGTH} - 1, 0) ** 2).mean()"),
    ],
    "spot": [
        "def spot():\n    return 'right', 'right', 'wrong', 'right'",
        "def spot():\n    return 'wrong', 'wrong', 'wrong', 'wrong'",
        "def spot():\n    return 'wrong', 'right', 'right', 'right'",
    ],
}  # fmt: skip


def in_bits(monkeypatch):
    right = divergences.js_categorical
    monkeypatch.setattr(divergences, "js_categorical", lambda p, q: right(p, q) / np.log(2))


def places_half_as_far(monkeypatch):
    right = divergences.wasserstein_histogram
    monkeypatch.setattr(divergences, "wasserstein_histogram", lambda p, q, *spacing: right(p, q, *spacing) / 2)


# (what is broken, the claims that must turn to "wrong")
BROKEN = [(in_bits, ["claim_8a"]), (places_half_as_far, ["claim_8a", "claim_8f"])]

# (code on the page, the same with a mistake, the claims that must turn to "wrong")
BROKEN_PAGES = [
    ("return p / (p + q)", "return q / (p + q)", ["claim_8a"]),
    ("return -(real.mean() - fake.mean())", "return real.mean() - fake.mean()", ["claim_8a"]),
    ("return softplus(-real).mean() + softplus(fake).mean()", "return softplus(real).mean() + softplus(-fake).mean()",
     ["claim_8b", "claim_8c", "claim_8g"]),
    ("return G(jax.random.normal(key, (n, 2)))", "return jax.lax.stop_gradient(G(jax.random.normal(key, (n, 2))))",
     ["claim_8b", "claim_8d"]),
    ("return -softplus(fake).mean()", "return softplus(fake).mean()", ["claim_8c", "claim_8d"]),
    ("return softplus(-fake).mean()", "return -softplus(fake).mean()", ["claim_8d"]),
    ("return -softplus(-D(real)).mean(), ", "return softplus(D(make(G, key, 9))).mean(), ", ["claim_8b", "claim_8c"]),
    ("- 1) ** 2).mean()", "- 2) ** 2).mean()", ["claim_8a"]),
    ("jnp.sqrt((slopes**2).sum(axis=1) + 1e-12) - 1", "(slopes**2).sum(axis=1) - 1", ["claim_8a"]),
    ("optimizer.update(G, ", "D.layers[-1].bias[...] += 1.0\n    optimizer.update(G, ", ["claim_8h"]),
]  # fmt: skip

# Gaps of critics, (rules, seeds), that keep to a law of 1 for bells, and below W1 = 2 when clipped.
BY_THE_LAW = np.repeat([1, 1, 1, 2.2, 4, 22, *[1] * 10], 3).reshape(16, 3)

# (claim, names with other values, the verdict then); the cell runs from the claim's own assignment on
OTHER_WORLDS = [
    ("claim_8a", {"exact_error": float("nan")}, "wrong"),
    ("claim_8a", {"gap5": 4.4}, "wrong"),
    ("claim_8a", {"gaps": np.ones((16, 3))}, "wrong"),
    ("claim_8a", {"on_seen": np.full(6, 0.337), "on_fresh": np.full(6, 0.337), "gaps": BY_THE_LAW, "law": np.ones(3),
                  "K": np.ones((16, 3))}, "stands"),
    ("claim_8b", {"of_real": np.array([1e-6])}, "wrong"),
    ("claim_8b", {"by_D": np.array([1.0])}, "wrong"),
    ("claim_8c", {"cosines": [-1.0, -1.0]}, "wrong"),
    ("claim_8d", {"walked": np.full((2, 2, 3), 0.9)}, "wrong"),
    ("claim_8d", {"walked": np.array([[[0.1] * 3, [0.9] * 3], [[0.0] * 3, [0.9] * 3]])}, "stands"),
    ("claim_8e", {"common_gap": 2.0, "moved_common": 1.5, "stopped": {}}, "stands"),
    ("claim_8e", {"common_gap": 2.0, "moved_common": 1.5}, "incomplete"),
    ("claim_8g", {"accuracy": 0.5}, "wrong"),
    ("claim_8g", {"lifted": 7.0}, "stands"),
    ("claim_8f", {"held": 2.2}, "wrong"),
    ("claim_8h", {"against": 0.3}, "stands"),
]
