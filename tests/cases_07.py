"""Cases of notebook 07: wrong answers to its exercises, broken code, and other worlds for its claims."""

import numpy as np

from gm_utils import counting, data

DENSITY = """
def log_p_of(x, a, b):
    u = {u}
    return {total}
"""
NORMAL = "-(u**2) / 2 - jnp.log(2 * jnp.pi) / 2"

BACK = """
def back_to_data(network, order, u):
    x = {start}
    for i in {order}:
        mu, alpha = network(x)
        x = x.at[:, i].set({value})
    return x
"""
VALUE = "u[:, i] * jnp.exp(alpha[:, i]) + mu[:, i]"

ORDERS = """
def orders_and_places(order, K):
    orders = np.stack([{one} for k in range(K)])
    return orders, {places}
"""
REVERSED = "order[::-1] if k % 2 else order"

# For every exercise: answers that are wrong in a way that people are wrong.
MISTAKES = {
    "log_p_of": [
        DENSITY.format(u="(jnp.log(x) - a) / b", total=total)
        for total in (
            NORMAL,
            f"{NORMAL} - jnp.log(x)",
            f"{NORMAL} - jnp.log(b)",
            f"{NORMAL} + jnp.log(b) + jnp.log(x)",
        )
    ]
    + [DENSITY.format(u="(x - a) / b", total=f"{NORMAL} - jnp.log(b) - jnp.log(x)")],
    "stack_log_det": [
        f"def stack_log_det(alphas, s):\n    return {total}"
        for total in (
            "alphas.sum(axis=(0, 2)) - jnp.log(s).sum()",
            "-alphas.sum(axis=(0, 2)) + jnp.log(s).sum()",
            "-alphas.sum(axis=(0, 2))",
            "-alphas[-1].sum(axis=1) - jnp.log(s).sum()",
            "-alphas.sum() - jnp.log(s).sum()",
            "-alphas.sum(axis=(0, 2)) - jnp.log(s.sum())",
        )
    ],
    "back_to_data": [
        BACK.format(start="jnp.zeros_like(u)", order="reversed(order)", value=VALUE),
        BACK.format(start="jnp.zeros_like(u)", order="range(len(order))", value=VALUE),
        BACK.format(start="jnp.zeros_like(u)", order="order[1:]", value=VALUE),
        BACK.format(start="jnp.zeros_like(u)", order="order", value=VALUE.replace("exp(alpha", "exp(-alpha")),
        BACK.format(start="jnp.zeros_like(u)", order="order", value="(u[:, i] + mu[:, i]) * jnp.exp(alpha[:, i])"),
        "def back_to_data(network, order, u):\n    mu, alpha = network(u)\n    return u * jnp.exp(alpha) + mu",
    ],
    "orders_and_places": [
        ORDERS.format(one="order", places="np.argsort(orders, axis=1) + 1"),
        ORDERS.format(one="order[::-1]", places="np.argsort(orders, axis=1) + 1"),
        ORDERS.format(one=REVERSED, places="orders + 1"),
        ORDERS.format(one=REVERSED, places="np.argsort(orders, axis=1)"),
        ORDERS.format(one=REVERSED, places="np.argsort(orders, axis=0) + 1"),
    ],
}

def right_counts_lost(monkeypatch):
    monkeypatch.setattr(counting, "operations", lambda f, *args, compiled=True: 100.0)


def density_of_another_band(monkeypatch):
    right = data.banana.log_prob
    monkeypatch.setattr(data.banana, "log_prob", lambda x: right(np.float32([1, 0.5]) * x))


# (what is broken, the claims and what they must turn to)
BROKEN = [
    (right_counts_lost, {"claim_7i": "stands"}),
    (density_of_another_band, {"claim_7b": "stands", "claim_7e": "wrong", "claim_7a": "wrong", "claim_7k": "wrong"}),
]

# (code on the page, the same with a mistake, the claims and what they must turn to: evidence that fails no longer
# refutes the claims that are wrong)
BROKEN_PAGES = [
    (
        "jnp.exp(-part * alpha), -part * alpha.sum(axis=1)",
        "jnp.exp(-part * alpha), -part * alpha.mean(axis=1)",
        {"claim_7b": "stands", "claim_7f": "stands", "claim_7g": "incomplete", "claim_7a": "wrong"},
    ),
    (
        "unit[:, None] < np.tile(place, 2)",
        "unit[:, None] <= np.tile(place, 2)",
        {"claim_7b": "stands", "claim_7f": "stands", "claim_7g": "incomplete"},
    ),
    (
        "D + 1 - place if reverse and k % 2 else place",
        "place",
        {"claim_7b": "stands", "claim_7a": "wrong", "claim_7c": "wrong"},
    ),
    (
        "    for _ in range(passes or u.shape[1]):",
        "    for _ in range(1):",
        {"claim_7g": "incomplete", "claim_7i": "stands", "claim_7d": "wrong"},
    ),
    (
        "/ (2 * variance) - np.log(2 * np.pi * 2 * np.sqrt(variance))",
        "/ variance - np.log(2 * np.pi * 2 * np.sqrt(variance))",
        {"claim_7e": "wrong"},
    ),
    ("np.greater.outer(anomalies, normals)", "np.less.outer(anomalies, normals)", {"claim_7j": "wrong"}),
]

# (claim, names with other values, the verdict then); the cell runs from the claim's own assignment on.
# For the claims that are wrong: without the evidence that refutes them they would stand.
OTHER_WORLDS = [
    ("claim_7b", {"gaps": {"1 layer, (x2, x1)": np.array([0.3]), "2 layers, reversed": np.array([0.3])}}, "stands"),
    ("claim_7b", {"one_layer": 3.6}, "stands"),
    ("claim_7b", {"one_layer": float("nan")}, "stands"),
    ("claim_7e", {"cross_entropy": lambda variance: 3.5310242}, "stands"),
    ("claim_7e", {"cross_entropy": lambda variance: float("nan")}, "wrong"),
    ("claim_7f", {"c_miss": 1.0}, "stands"),
    ("claim_7f", {"miss": float("nan")}, "stands"),
    ("claim_7f", {"first": 0.5}, "stands"),
    ("claim_7f", {"counts": [5, 5, 10, 10]}, "stands"),
    ("claim_7g", {"log_det": np.full(20, np.nan)}, "incomplete"),
    ("claim_7g", {"miss": float("nan")}, "incomplete"),
    ("claim_7g", {"slip_miss": 0.0, "log_det": np.full(20, 9.0)}, "stands"),
    ("claim_7i", {"off": [0.0, 0.9]}, "stands"),
    ("claim_7i", {"off": [float("nan")]}, "stands"),
    ("claim_7i", {"early": 1e-6}, "stands"),
    ("claim_7a", {"gain": -1.0}, "wrong"),
    ("claim_7j", {"gain": 3.0}, "wrong"),
    ("claim_7j", {"gain": float("nan")}, "wrong"),
    ("claim_7j", {"areas": np.array([0.5, 0.99])}, "wrong"),
    ("claim_7c", {"log_p_5": np.zeros(9), "log_p_1": np.zeros(9)}, "wrong"),
    ("claim_7c", {"gaps": {"5 layers, reversed": np.array([0.0, float("nan")])}}, "wrong"),
    ("claim_7d", {"double": [(0.1, 1.0, np.zeros(20))]}, "wrong"),
    ("claim_7h", {"constants": np.full((3, 2), 0.2)}, "wrong"),
    ("claim_7k", {"few": {"100 points": 0.1, "1000 points": 0.0}, "impossible": 0.0, "dense_miss": 1.0}, "stands"),
    ("claim_7k", {"few": {"100 points": 0.1, "1000 points": 0.0}, "impossible": 0.0}, "incomplete"),
    ("claim_7k", {"above": {2: 0.5, 30: -1.0, 63: 100.0}}, "wrong"),
    ("claim_7k", {"above": {2: 0.5, 30: float("nan"), 63: 100.0}}, "wrong"),
    ("claim_7j", {"area_flat": 0.9, "bits": {3: (1.0, 0.9), 8: (1.0, 0.9)}}, "stands"),
]
