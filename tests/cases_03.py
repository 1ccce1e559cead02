"""What is particular to notebook 03: wrong answers to its exercises, broken code, and other worlds for its claims."""

import jax

from gm_utils import tape

# For every exercise: answers that are wrong in a way that people are wrong.
MISTAKES = {
    "cross_entropy_backward": [
        "def cross_entropy_backward(Z, one_hot):\n    return jax.nn.softmax(Z) - one_hot",
        "def cross_entropy_backward(Z, one_hot):\n    return (one_hot - jax.nn.softmax(Z)) / len(Z)",
        "def cross_entropy_backward(Z, one_hot):\n    return (jax.nn.softmax(Z, axis=0) - one_hot) / len(Z)",
        "def cross_entropy_backward(Z, one_hot):\n    E = jnp.exp(Z)\n"
        "    return (E / E.sum(axis=1, keepdims=True) - one_hot) / len(Z)",
        "def cross_entropy_backward(Z, one_hot):\n    return (one_hot * (jax.nn.softmax(Z) - 1)) / len(Z)",
    ],
    "divide": [
        "def divide(a, b, g):\n    return a / b, g / b, g * a / b**2",
        "def divide(a, b, g):\n    return a / b, 1 / b, -a / b**2",
        "def divide(a, b, g):\n    return a / b, g / b, -g / b**2",
        "def divide(a, b, g):\n    return a / b, -g * a / b**2, g / b",
    ],
    "mended": [
        "mended = suspect",
        "def mended(X, W1, W2):\n    H = np.tanh(X @ W1)\n    dY = X + H @ W2\n"
        "    dA = (dY @ W2.T) * (1 - H**2)\n    return dY + dA @ W1.T, X.T @ dA, H.T @ dY",
        "def mended(X, W1, W2):\n    H = np.tanh(X @ W1)\n    dY = 2 * (X + H @ W2)\n"
        "    dA = (dY @ W2.T) * (1 - H)\n    return dY + dA @ W1.T, X.T @ dA, H.T @ dY",
        "def mended(X, W1, W2):\n    H = np.tanh(X @ W1)\n    dY = 2 * (X + H @ W2)\n"
        "    dA = (dY @ W2.T) * (1 - H**2)\n    return X + dA @ W1.T, X.T @ dA, H.T @ dY",
    ],
}


def uphill(monkeypatch):
    right = jax.grad
    monkeypatch.setattr(
        jax, "grad", lambda *how: lambda *at: jax.tree.map(lambda slope: -slope, right(*how)(*at))
    )


def averaged_copies(monkeypatch):
    right = tape._sum_to
    monkeypatch.setattr(tape, "_sum_to", lambda adjoint, shape: right(adjoint, shape) / max(1, len(adjoint.shape)))


def straight_tanh(monkeypatch):
    monkeypatch.setattr(tape.Var, "tanh", lambda var: tape.Var(tape.np.tanh(var.value), (var, lambda g: g)))


def eight_moves(monkeypatch):
    """Replace the gradient by moving the weights eight times: dearer than any backward pass."""

    def value_and_slopes(f):
        return lambda weights, x: [f(jax.tree.map(lambda W, k=k: W * (1 + k / 8), weights), x) for k in range(8)]

    monkeypatch.setattr(jax, "value_and_grad", value_and_slopes)


# (what is broken, the claims that must turn from what they are to "wrong")
BROKEN = [
    (uphill, ["claim_3a", "claim_3c"]),
    (averaged_copies, ["claim_3a"]),
    (straight_tanh, ["claim_3a"]),
    (eight_moves, ["claim_3b"]),
]

# (code on the page, the same with a mistake, the claims that must turn to "wrong")
BROKEN_PAGES = [
    ("+ b.value, (a, lambda g: g), (b, lambda g: g)", "+ b.value, (a, lambda g: g), (b, lambda g: -g)", ["claim_3a"]),
    ("(b, lambda g: a.value.T @ g)", "(b, lambda g: 2 * a.value.T @ g)", ["claim_3a"]),
    ("parent.grad + pullback(node.grad).reshape", "pullback(node.grad).reshape", ["claim_3a"]),
    (".reshape(-1, *parent.value.shape).sum(axis=0)", ".reshape(-1, *parent.value.shape)[-1]", ["claim_3a"]),
    ("dA = dH * (1 - H**2)", "dA = dH * (1 - H)", ["claim_3a"]),
    ("counting.operations(f, weights, x)", "counting.operations(f, weights, x) ** 2", ["claim_3b"]),
    ("/ cost(w, sized_loss) for", "/ cost(w, sized_loss, 256) for", ["claim_3b"]),
    ("(state[0] + move, memory), state[0]", "(state[0] - move, memory), state[0]", ["claim_3c"]),
    ("optimiser.update(jax.grad(misfit)", "optimiser.update(jax.jacrev(lambda theta: -misfit(theta))", ["claim_3c"]),
]

EXACT = dict.fromkeys(["tape", "package", "jax.grad", "differences"], 0.0)

# (claim, names with other values, the verdict then); the cell runs from the claim's own assignment on
OTHER_WORLDS = [
    ("claim_3a", {"worst": EXACT | {"tape": 1e-9}}, "wrong"),
    ("claim_3a", {"worst": EXACT | {"differences": 1e-5}}, "wrong"),
    ("claim_3b", {"ratio": {22: 2.5, 223: 6.0, 707: 2.5}}, "wrong"),
    ("claim_3b", {"ratio": {22: 2.5, 707: 3.5}}, "wrong"),
    ("claim_3c", {"apart": [0.0, 0.0, 0.0]}, "stands"),
    ("claim_3a", {"worst": EXACT | {"tape": float("nan")}}, "wrong"),
    ("claim_3a", {"worst": EXACT | {"differences": float("nan")}}, "wrong"),
    ("claim_3c", {"left": [0.1, 0.1, 0.9]}, "wrong"),
]
