import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_utils.precision import float64
from gm_utils.tape import Var, finite_difference

# What a function of two arrays is in both worlds: `m` brings tanh, relu, ... for Vars or for JAX.
OPERATIONS = {
    "add": lambda a, b, m: a + b,
    "subtract": lambda a, b, m: a - b,
    "multiply": lambda a, b, m: a * b,
    "divide": lambda a, b, m: a / b,
    "power": lambda a, b, m: a**b,
    "negative": lambda a, b, m: -a * b,
    "constants on the right": lambda a, b, m: (a + 2) * 3 - b / 4 - 1.5,
    "constants on the left": lambda a, b, m: 2 + 3 * a - (1.5 - b) + 4 / a + 2**b,
    "whole powers": lambda a, b, m: a**3 + b**2 + a**-1 + b**1 + a**0,
    "tanh": lambda a, b, m: m.tanh(a * b),
    "relu": lambda a, b, m: m.relu(a - b),
    "exp": lambda a, b, m: m.exp(a - b),
    "log": lambda a, b, m: m.log(a + b),
    "one value used four times": lambda a, b, m: (lambda h: h * h + h / (1 + h))(m.tanh(a * b)),
}


class Tape:
    tanh, relu, exp, log = Var.tanh, Var.relu, Var.exp, Var.log


class Jax:
    tanh, relu, exp, log = jnp.tanh, jax.nn.relu, jnp.exp, jnp.log


SHAPES = [((), ()), ((3,), (3,)), ((2, 3), (3,)), ((2, 3), (2, 1)), ((1, 3), (2, 1)), ((), (2, 3)), ((4, 1, 3), (2, 1))]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_equal_those_of_jax(name, shapes):
    f = OPERATIONS[name]
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(0.5, 2.0, shape) for shape in shapes)
    weights = rng.normal(size=np.broadcast_shapes(*shapes))
    x, y = Var(a), Var(b)
    result = f(x, y, Tape)
    (result * weights).sum().backward()
    with float64(), jax.numpy_rank_promotion("allow"):

        def loss(a, b):
            return (f(a, b, Jax) * weights).sum()

        value, wanted = f(jnp.asarray(a), jnp.asarray(b), Jax), jax.grad(loss, (0, 1))(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(result.value, value, rtol=1e-13)
    for var, gradient in zip((x, y), wanted, strict=True):
        assert var.grad.shape == var.value.shape
        np.testing.assert_allclose(var.grad, gradient, rtol=1e-12, atol=1e-13)


PRODUCTS = [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4))]
PRODUCTS += [((5, 2, 3), (5, 3, 4)), ((3,), (5, 3, 4)), ((5, 2, 3), (3,)), ((1, 2, 3), (5, 3, 4))]


@pytest.mark.parametrize("shapes", PRODUCTS, ids=str)
def test_products_of_matrices_and_vectors(shapes):
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=shape) for shape in shapes)
    weights = rng.normal(size=(a @ b).shape)
    x, y = Var(a), Var(b)
    ((x @ y) * weights).sum().backward()
    with float64():
        wanted = jax.grad(lambda a, b: (jnp.matmul(a, b) * weights).sum(), (0, 1))(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(x.grad, wanted[0], rtol=1e-12)
    np.testing.assert_allclose(y.grad, wanted[1], rtol=1e-12)
    left, right = Var(a), Var(b)
    ((left @ b) * weights).sum().backward()
    ((a @ right) * weights).sum().backward()
    np.testing.assert_array_equal(left.grad, x.grad)
    np.testing.assert_array_equal(right.grad, y.grad)


@pytest.mark.parametrize(("axis", "keepdims"), [(None, False), (None, True), (0, False), (1, True), (-1, False)])
def test_sums(axis, keepdims):
    x = np.random.default_rng(2).normal(size=(3, 4))
    var = Var(x)
    total = var.sum(axis, keepdims=keepdims)
    np.testing.assert_array_equal(total.value, x.sum(axis=axis, keepdims=keepdims))
    (total * total).sum().backward()
    np.testing.assert_allclose(var.grad, np.broadcast_to(2 * x.sum(axis=axis, keepdims=True), x.shape))
    both = Var(x)
    both.sum((0, 1)).backward()
    np.testing.assert_array_equal(both.grad, np.ones((3, 4)))


def hand(X, T, W1, b1, W2, b2):
    """Backward pass of mean_i |tanh(X W1 + b1) W2 + b2 - T|^2 / 2, written down from paper."""
    H = np.tanh(X @ W1 + b1)
    Y = H @ W2 + b2
    dY = (Y - T) / len(X)
    dA = (dY @ W2.T) * (1 - H**2)
    return X.T @ dA, dA.sum(axis=0), H.T @ dY, dY.sum(axis=0)


def network_loss(tanh, X, T, W1, b1, W2, b2):
    return ((tanh(X @ W1 + b1) @ W2 + b2 - T) ** 2).sum() / (2 * len(X))


def random_network(seed, dtype):
    rng = np.random.default_rng(seed)
    n, inputs, hidden, outputs = rng.integers(1, 7, 4)
    shapes = [(n, inputs), (n, outputs), (inputs, hidden), (hidden,), (hidden, outputs), (outputs,)]
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 2e-5), (np.float64, 1e-13)])
@pytest.mark.parametrize("seed", range(20))
def test_four_gradients_of_a_two_layer_network(seed, dtype, rtol):
    X, T, *parameters = random_network(seed, dtype)
    by_hand = hand(X, T, *parameters)
    taped = [Var(parameter) for parameter in parameters]
    network_loss(Var.tanh, X, T, *taped).backward()
    with float64(), jax.numpy_rank_promotion("allow"):
        arrays = [jnp.asarray(array) for array in (X, T, *parameters)]
        by_jax = jax.jit(jax.grad(network_loss, (3, 4, 5, 6)), static_argnums=0)(jnp.tanh, *arrays)
    for k, (mine, var, theirs) in enumerate(zip(by_hand, taped, by_jax, strict=True)):
        assert mine.dtype == var.grad.dtype == theirs.dtype == dtype
        scale = np.abs(mine).max()
        np.testing.assert_allclose(var.grad, mine, rtol=rtol, atol=rtol * scale)
        np.testing.assert_allclose(theirs, mine, rtol=rtol, atol=rtol * scale)
        if dtype == np.float64:

            def of_one(value, k=k):
                return network_loss(np.tanh, X, T, *parameters[:k], value, *parameters[k + 1 :])

            np.testing.assert_allclose(finite_difference(of_one, parameters[k]), mine, atol=1e-9 * max(scale, 1))


def test_float32_stays_float32_and_float64_stays():
    for dtype in (np.float32, np.float64):
        x = Var(np.ones((2, 3), dtype))
        y = (((2.0 * x + 1) ** 2 / 3 - 1).exp().log().tanh().relu() @ np.ones((3, 2), dtype)).sum()
        y.backward()
        assert y.value.dtype == x.grad.dtype == dtype
    assert Var(jnp.ones(2)).value.dtype == np.float32
    assert Var([1, 2]).value.dtype == Var(True).value.dtype == np.float64
    narrow, wide = Var(np.float32(2)), Var(np.float64(3))
    (narrow * wide).backward()
    assert (narrow.grad.dtype, wide.grad.dtype) == (np.float32, np.float64)


def test_arrays_on_the_left_and_from_jax():
    x = Var(np.array([1.0, 2.0]))
    (np.array([3.0, 4.0]) * x + jnp.array([1.0, 1.0]) * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [4.0, 5.0])


def test_a_second_backward_does_not_add_to_the_first():
    x = Var(3.0)
    y = x * x
    for _ in range(2):
        y.backward()
        assert x.grad == 6.0
    (x + 1).backward()
    assert x.grad == 1.0


def test_what_the_loss_does_not_use_has_gradient_zero():
    x, unused = Var([1.0, 2.0]), Var([1.0, 2.0])
    x.sum().backward()
    np.testing.assert_array_equal(unused.grad, [0.0, 0.0])
    np.testing.assert_array_equal((x * 0).grad, [0.0, 0.0])


def test_a_graph_deeper_than_the_recursion_limit():
    x = Var(1.0)
    y = x
    for _ in range(5000):
        y = y * 1.0001
    y.backward()
    np.testing.assert_allclose(x.grad, 1.0001**5000, rtol=1e-9)


def test_a_diamond_is_walked_once_a_node():
    calls = []
    x = Var(1.0)
    y = x
    for _ in range(40):  # 2^40 paths, 81 nodes
        doubled = y + y
        y = Var(doubled.value, (doubled, lambda g: calls.append(1) or g))
    y.backward()
    assert (x.grad, len(calls)) == (2.0**40, 40)


def test_corners_of_powers():
    x = Var([0.0, 2.0])
    (x**0 + x**1 + x**2).sum().backward()
    np.testing.assert_array_equal(x.grad, [1.0, 5.0])
    zero, exponent = Var(0.0), Var(2.0)
    (zero**exponent).backward()
    assert (zero.grad, exponent.grad) == (0.0, 0.0)
    negative = Var(-2.0)
    (negative**3).backward()
    assert negative.grad == 12.0


@pytest.mark.parametrize("seed", range(20))
def test_the_tape_against_central_differences(seed):
    def f(z):
        z = z if isinstance(z, Var) else Var(z)
        x, y = z @ np.array([1.0, 0.0]), z @ np.array([0.0, 1.0])
        return (x * y).tanh() + (x - y).exp() * x + (x * x + 1).log() / (2 + y.tanh())

    z = Var(np.random.default_rng(seed).uniform(-3, 3, 2))
    f(z).backward()
    np.testing.assert_allclose(finite_difference(f, z.value), z.grad, atol=1e-6)


def test_differences_have_the_error_that_taylor_says():
    # (sinh h / h - 1) e^x is the whole error of the formula for exp; rounding adds less than 2^-52 e^x / h
    for x in (0.0, 1.0):
        for h in (0.5, 0.1, 0.01):
            slope = finite_difference(np.exp, np.float64(x), step=h)
            np.testing.assert_allclose(slope / np.exp(x) - 1, np.sinh(h) / h - 1, atol=4 * 2.0**-52 / h)


def test_differences_keep_the_dtype_and_the_shape():
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(finite_difference(lambda x: (x**2).sum(), x), 2 * x, atol=1e-9)
    seen = []
    slope = finite_difference(lambda x: seen.append(x.dtype) or (x**2).sum(), x.astype(np.float32))
    assert {*seen, slope.dtype} == {np.dtype(np.float32)}
    np.testing.assert_allclose(slope, 2 * x, atol=2e-2)
    assert len(seen) == 2 * 6
    assert finite_difference(lambda x: x**2, 3).dtype == np.float64
    np.testing.assert_array_equal(x, np.arange(6.0).reshape(2, 3))  # the reader's array is left as it was


REFUSALS = [
    (lambda: Var("three"), "expected value to be real numbers, got dtype <U5"),
    (lambda: Var(1j), "expected value to be real numbers, got dtype complex128"),
    (lambda: Var(1.0) + np.array([1j]), "expected an operand to be real numbers, got dtype complex128"),
    (lambda: Var([1.0, 2.0]).backward(), r"expected backward to start at a scalar, got shape \(2,\)"),
    (lambda: finite_difference(lambda x: x, np.ones(2)), r"expected f\(x\) to be a scalar, got shape \(2,\)"),
    (lambda: finite_difference(np.sum, np.array([1.0, np.nan])), "expected x to be finite, got 1 of 2"),
    (lambda: finite_difference(np.sum, np.ones(2), step=0.0), "expected step to be a finite number above zero, got 0"),
    (lambda: finite_difference(np.sum, np.ones(2), step=np.nan), "expected step to be a finite number above zero"),
    (lambda: finite_difference(np.sum, np.ones(2), step=1e-17), "expected step to be large enough to change x = 1"),
]


@pytest.mark.parametrize(("call", "words"), REFUSALS, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_float64_holds_inside_the_block_only():
    assert jnp.asarray(1.0).dtype == jnp.float32
    with float64():
        assert jnp.asarray(1.0).dtype == jnp.float64
        assert jax.grad(jnp.tanh)(1.0).dtype == jnp.float64
        np.testing.assert_allclose(jnp.exp(jnp.asarray(1.0)), np.e, rtol=1e-15)
    assert jnp.asarray(1.0).dtype == jnp.float32
    with pytest.raises(ZeroDivisionError), float64():
        raise ZeroDivisionError
    assert jnp.asarray(1.0).dtype == jnp.float32
