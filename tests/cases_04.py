"""Cases of notebook 04: wrong answers to its exercises, broken code, and other worlds for its claims."""

import numpy as np

from gm_utils import variational

# For every exercise: answers that are wrong in a way that people are wrong.
MISTAKES = {
    "my_elbo": [
        "def my_elbo(z, m, s):\n    return log_joint(z).mean()",
        "def my_elbo(z, m, s):\n    return (norm.logpdf(z, m, s).sum(axis=1) - log_joint(z)).mean()",
        "def my_elbo(z, m, s):\n    return (log_joint(z) - norm.logpdf(z, m, s**2).sum(axis=1)).mean()",
        "def my_elbo(z, m, s):\n    return (log_joint(z) - norm.logpdf(z, m, s).sum(axis=1)).sum()",
        "def my_elbo(z, m, s):\n    return (log_joint(z) - norm.logpdf(z, m, s).mean(axis=1)).mean()",
    ],
    "update": [
        "def update(x, tau):\n    return x.mean(), 1 / (len(x) * tau)",
        "def update(x, tau):\n    return x.sum() / (len(x) + 1), (len(x) + 1) * tau",
        "def update(x, tau):\n    return x.sum() / (len(x) + 1), 1 / (len(x) + 1)",
        "def update(x, tau):\n    return x.sum() * tau / (len(x) * tau + 1), 1 / (len(x) * tau + 1)",
    ],
    "kl_diagonal": [
        "def kl_diagonal(m, s, M, S):\n    return (jnp.log(s / S) + (S**2 + (m - M) ** 2) / (2 * s**2) - 0.5).sum()",
        "def kl_diagonal(m, s, M, S):\n    return (jnp.log(S / s) + (s + (m - M) ** 2) / (2 * S) - 0.5).sum()",
        "def kl_diagonal(m, s, M, S):\n    return (jnp.log(S / s) + (s**2 + (m - M) ** 2) / (2 * S**2)).sum() - 0.5",
        "def kl_diagonal(m, s, M, S):\n    return (jnp.log(S / s) + (s**2 + (m - M) ** 2) / (2 * S**2) - 0.5).mean()",
    ],
}


def swapped_directions(monkeypatch):
    right = variational.mean_field_gaussian
    other = {"reverse": "forward", "forward": "reverse"}

    def wrong(mean, covariance, direction="reverse"):
        return right(mean, covariance, other[direction])

    monkeypatch.setattr(variational, "mean_field_gaussian", wrong)


# (what is broken, the claims that must turn from what they are to "wrong")
BROKEN = [(swapped_directions, ["claim_4c"])]

# (code on the page, the same with a mistake, the claims that must turn to "wrong")
BROKEN_PAGES = [
    ("< log_joint(new) - log_joint(z)", "< jnp.inf", ["claim_4a"]),
    ("< log_joint(new) - log_joint(z)", "< log_joint(z) - log_joint(new)", ["claim_4a"]),
    ("jnp.log(jax.random.uniform(keeping, (32,)))", "jax.random.uniform(keeping, (32,))", ["claim_4a"]),
    ("s = np.zeros(2), 1 / np.sqrt(np.diag(precision))", "s = np.zeros(2), np.sqrt(np.diag(covariance))", ["claim_4b"]),
    ("return m @ J @ m / 2 + m @ b -", "return m @ J @ m + m @ b -", ["claim_4c"]),
    ("((z @ J) * z).sum(axis=1) / 2 + z @ b)", "((z @ J) * z).sum(axis=1) + z @ b)", ["claim_4c"]),
]

# (claim, names with other values, the verdict then); the cell runs from the claim's own assignment on
OTHER_WORLDS = [
    ("claim_4a", {"error_curve": 1.0}, "stands"),
    ("claim_4a", {"off": 9.0}, "wrong"),
    ("claim_4a", {"off": float("nan")}, "wrong"),
    ("claim_4a", {"by_chains": 0.5}, "wrong"),
    ("claim_4b", {"error_many": 0.3}, "stands"),
    ("claim_4b", {"field": 0.01}, "wrong"),
    ("claim_4c", {"large": np.array([65536.0, 65536.0, 1.6])}, "wrong"),
    ("claim_4c", {"large": np.array([65536.0, 570.0, 0.0])}, "wrong"),
    ("claim_4c", {"reverse": 1.0}, "wrong"),
    ("claim_4c", {"forward": float("nan")}, "wrong"),
    ("claim_4c", {"large": np.array([65536.0, 570.0, 5.3])}, "wrong"),
]
