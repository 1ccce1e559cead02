"""Cases of notebook 05: wrong answers to its exercises, broken code, and other worlds for its claims."""

import jax.numpy as jnp

from gm_utils import autoregressive

DEEP = """
def deep_masks(order, first, second):
    place = {place}
    return {masks}
"""

AR2 = """
def ar2_log_prob(x, phi_1, phi_2, s):
    g0 = (1 - phi_2) * s**2 / ((1 + phi_2) * ((1 - phi_2) ** 2 - phi_1**2))
    g1 = phi_1 * g0 / (1 - phi_2)
    first = {first}
    return first + {rest}.sum()
"""
FIRST = "stats.norm.logpdf(x[0], 0, jnp.sqrt(g0)) + stats.norm.logpdf(x[1], g1 / g0 * x[0], jnp.sqrt(g0 - g1**2 / g0))"
REST = "stats.norm.logpdf(x[2:], phi_1 * x[1:-1] + phi_2 * x[:-2], s)"

# For every exercise: answers that are wrong in a way that people are wrong.
MISTAKES = {
    "deep_masks": [
        DEEP.format(place=place, masks=masks)
        for place, masks in [
            ("np.argsort(order) + 1", "place[:, None] < first, first[:, None] <= second, second[:, None] < place"),
            ("np.argsort(order) + 1", "place[:, None] <= first, first[:, None] < second, second[:, None] < place"),
            ("np.argsort(order) + 1", "place[:, None] <= first, first[:, None] <= second, second[:, None] <= place"),
            ("order + 1", "place[:, None] <= first, first[:, None] <= second, second[:, None] < place"),
            ("np.argsort(order)", "place[:, None] <= first, first[:, None] <= second, second[:, None] < place"),
            ("np.argsort(order) + 1", "place <= first[:, None], first <= second[:, None], second < place[:, None]"),
        ]
    ],
    "ar2_log_prob": [
        AR2.format(first="0.0", rest=REST),
        AR2.format(first=FIRST, rest=REST.replace(", s)", ", s**2)")),
        AR2.format(first=FIRST.replace("jnp.sqrt(g0)", "g0"), rest=REST),
        AR2.format(first=FIRST.replace("g1 / g0 * x[0]", "phi_1 * x[0]"), rest=REST),
        AR2.format(first=FIRST.replace("g0 - g1**2 / g0", "g0"), rest=REST),
        AR2.format(first=FIRST, rest=REST.replace("x[1:-1]", "x[:-2]").replace("phi_2 * x[:-2]", "phi_2 * x[1:-1]")),
    ],
    "next_index": [
        "def next_index(logits, tau, u):\n    sums = jnp.cumsum(jax.nn.softmax(logits * tau, axis=1), axis=1)\n"
        "    return (sums <= u[:, None]).sum(axis=1)",
        "def next_index(logits, tau, u):\n    sums = jnp.cumsum(jax.nn.softmax(logits, axis=1) / tau, axis=1)\n"
        "    return (sums <= u[:, None]).sum(axis=1)",
        "def next_index(logits, tau, u):\n    return jnp.argmax(logits / tau, axis=1)",
        "def next_index(logits, tau, u):\n    sums = jnp.cumsum(jax.nn.softmax(logits / tau, axis=1), axis=1)\n"
        "    return (sums > u[:, None]).sum(axis=1)",
        "def next_index(logits, tau, u):\n    sums = jnp.cumsum(jax.nn.softmax(logits / tau, axis=0), axis=1)\n"
        "    return (sums <= u[:, None]).sum(axis=1)",
    ],
}


def without_the_first_terms(monkeypatch):
    right = autoregressive.ar_log_prob
    monkeypatch.setattr(autoregressive, "ar_log_prob", lambda x, a, s: right(x, a, s, conditional=True))


def no_noise_left(monkeypatch):
    right = autoregressive.ar_log_prob
    monkeypatch.setattr(autoregressive, "ar_log_prob", lambda x, a, s: right(x, a, s**2))


def not_a_number(monkeypatch):
    monkeypatch.setattr(autoregressive, "ar_log_prob", lambda x, a, s: jnp.full(len(x), jnp.nan))


# (what is broken, the claims that must turn from what they are to "wrong")
BROKEN = [(fault, ["claim_5d"]) for fault in (without_the_first_terms, no_noise_left, not_a_number)]

# (code on the page, the same with a mistake, the claims that must turn to "wrong")
BROKEN_PAGES = [
    ("0.9 * x + e))", "-0.9 * x + e))", ["claim_5a"]),
    ("past = order[max(0, k - memory) : k]", "past = order[:k]", ["claim_5b"]),
    ("past = order[max(0, k - memory) : k]", "past = order[max(0, k - memory - 1) : k]", ["claim_5b"]),
    ("(*past, i)) / marginal(p, past)", "(*past, i))", ["claim_5b"]),
    ("unit[:, None] < place", "unit[:, None] <= place", ["claim_5d"]),
    ("np.argsort(order) + 1, 1 + np.arange", "order + 1, 1 + np.arange", ["claim_5d"]),
    ("(2 * x - 1) * logits", "(1 - 2 * x) * logits", ["claim_5d"]),
    ("jax.random.fold_in(key, k), jax", "key, jax", ["claim_5d"]),
    ("enumerate(order):\n        x = x.at", "enumerate(order[::-1]):\n        x = x.at", ["claim_5d"]),
    ("theta * s**2 / v * (value - m)", "theta * (value - m)", ["claim_5d"]),
    ("0.0, s**2 * (1 + 2 * phi * theta", "0.0, s**2 * (1 + phi * theta", ["claim_5d"]),
    ("(phi * gamma + theta * s**2)", "(phi * gamma + theta)", ["claim_5d"]),
]

# (claim, names with other values, the verdict then); the cell runs from the claim's own assignment on
OTHER_WORLDS = [
    ("claim_5a", {"left_over": 1.0}, "wrong"),
    ("claim_5a", {"left_over": float("nan")}, "wrong"),
    ("claim_5a", {"lost": lambda p, memory: [0.2] * 6}, "stands"),
    ("claim_5b", {"lost": lambda p, memory: [0.0] * 6}, "wrong"),
    ("claim_5b", {"lost": lambda p, memory: [0.6931472] * 6}, "stands"),
    ("claim_5d", {"chi": 900.0}, "wrong"),
    ("claim_5d", {"chi": 2.0}, "wrong"),
    ("claim_5d", {"upper": 0.1}, "wrong"),
    ("claim_5d", {"upper": float("nan")}, "wrong"),
    ("claim_5d", {"gaps": {"AR(1)": 1.0, "MA(1)": 0.0}}, "wrong"),
    ("claim_5d", {"gaps": {"AR(1)": 0.0, "MA(1)": float("nan")}}, "wrong"),
]
