"""Autoregressive models: p(x) as a product of conditionals, one feature given those before it in an order.

A masked network computes all D conditionals in one pass, and so the density. A sample needs D steps, each of which
computes only the hidden units that the newest feature completes: ``MaskedNetwork.in_order``, which the flows share.
``ar_log_prob`` is the time series, where the conditionals are linear and the same at every time.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gm_utils.validation import array_of_shape, binary, finite, positive, positive_int, refuse, traced

EXAMPLES_AT_A_TIME = 500  # in ``in_order``: the hidden units of so many examples stay in a core's cache
STEPS_AT_A_TIME = 16  # in ``in_order``, at least: they share the products with what came before
UNITS_AT_A_TIME = 64  # in a hidden layer: so many units skip the inputs that their masks cut off


class Fixed(nnx.Variable):
    """Numbers that belong to a model and are not trained, such as the degrees that an order gives to the features."""


def made_masks(degrees_in: Any, hidden_degrees: Sequence[Any], degrees_out: Any) -> list[jax.Array]:
    """Return the masks of MADE, one (fan_in, fan_out) array of booleans a layer, True where a weight stays.

    A hidden unit of degree m sees units of degree m or less; an output of degree d sees units of a degree below d.
    So output d depends on no input but those of degrees 1 to d - 1. Source: Germain, Gregor, Murray and Larochelle
    (2015, arXiv:1502.03509), equations 13 and 14.

    >>> into_hidden, out_of_hidden = made_masks([1, 2], [[1, 1, 1]], [1, 2])
    >>> out_of_hidden.astype(int).tolist()
    [[0, 1], [0, 1], [0, 1]]

    Args:
        degrees_in: (inputs,) whole numbers, each input's place in the order, from 1.
        hidden_degrees: one (units,) array a hidden layer, of whole numbers; none for a network without hidden units.
        degrees_out: (outputs,) whole numbers, the degree of the feature that an output is about.

    Raises:
        ValueError: for degrees that are not (units,) arrays of whole numbers.
    """
    names = ["degrees_in", *(f"hidden_degrees[{k}]" for k in range(len(hidden_degrees))), "degrees_out"]
    given = [degrees_in, *hidden_degrees, degrees_out]
    degrees = [array_of_shape(what, value, ("units",)) for what, value in zip(names, given, strict=True)]
    for what, value in zip(names, degrees, strict=True):
        if not jnp.issubdtype(value.dtype, jnp.integer):
            raise refuse(what, "to be whole numbers", value.dtype)
    # Compared the other way round and transposed: ``MaskedNetwork`` transposes them back, and the compiler copies none.
    masks = [(high[:, None] >= low[None, :]).T for low, high in itertools.pairwise(degrees[:-1])]
    return [*masks, (degrees[-1][:, None] > degrees[-2][None, :]).T]


def degrees_of(order: Any, features: int) -> np.ndarray:
    """Return each feature's place in an order, counted from 1, (features,): ``degrees[order[k]] == k + 1``.

    Args:
        order: (features,), ``order[k]`` is the feature generated k-th, from 0; None for 0, 1, 2, ...
        features: how many there are.

    Raises:
        ValueError: for an order in which a feature is missing or stands twice.
    """
    order = np.arange(features) if order is None else np.asarray(order)
    if order.shape != (features,) or sorted(order.tolist()) != list(range(features)):
        raise refuse("order", f"to have each of 0 to {features - 1} once", order.tolist())
    return np.argsort(order).astype(np.int32) + 1


class MaskedNetwork(nnx.Module):
    """A dense network whose outputs about a feature depend only on the features of lower degree.

    Hidden units are sorted by degree and spread evenly over the degrees 1 to ``highest``. Degrees are a ``Fixed``
    variable: networks of different orders share one structure, and train together in ``training.fit_many``.
    Weights and biases start uniform on +-1 / sqrt(inputs that the mask leaves).

    Args:
        degrees: (features,) whole numbers from 1; features of equal degree do not see each other.
        hidden: the widths of the hidden layers.
        outputs: how many outputs there are for each feature.
        rngs: the stream ``params`` is used.
        activation: of the hidden units, a module-level function.
        last_scale: a factor on the last layer's initial weights and biases.

    Attributes:
        degrees: (features,) int32.
        weights0, biases0, weights1, ...: (fan_out, fan_in) and (fan_out,), before the mask. The last layer's rows are
            grouped by output, with the features in their own numbering inside a group.

    Raises:
        ValueError: if a width is not a whole number above zero.
    """

    def __init__(
        self, degrees: Any, hidden: Sequence[int], outputs: int, *, rngs: nnx.Rngs,
        activation: Callable[[jax.Array], jax.Array] = jax.nn.relu, last_scale: float = 1.0,
    ):  # fmt: skip
        degrees = np.asarray(degrees, np.int32)
        self.features, self.outputs, self.activation = len(degrees), positive_int("outputs", outputs), activation
        self.hidden = tuple(positive_int("each width of hidden", width) for width in hidden)
        self.highest = max(1, int(degrees.max()) - 1)
        self.degrees = Fixed(jnp.asarray(degrees))
        # NumPy draws: JAX would compile a random function for each shape, which takes longer than the first training.
        numpy_rng = np.random.default_rng(np.asarray(jax.random.key_data(rngs.params())).tolist())
        below = np.sort(degrees)
        for k, above in enumerate([*self.hidden_degrees(), np.tile(degrees, outputs)]):
            last = k == len(self.hidden)
            seen = np.searchsorted(below, above, side="left" if last else "right")  # inputs that the mask leaves
            limit = (last_scale if last else 1.0) / np.sqrt(np.maximum(seen, 1))
            weights = numpy_rng.uniform(-1, 1, (len(below), len(above)))
            biases = numpy_rng.uniform(-1, 1, above.shape)
            setattr(self, f"weights{k}", nnx.Param(jnp.asarray((limit * weights).T, jnp.float32)))
            setattr(self, f"biases{k}", nnx.Param(jnp.asarray(limit * biases, jnp.float32)))
            below = above

    def hidden_degrees(self) -> list[np.ndarray]:
        """Return the degrees of the hidden units, ascending, one (width,) array a layer."""
        return [-(-(np.arange(width, dtype=np.int32) + 1) * self.highest // width) for width in self.hidden]

    def masks(self) -> list[jax.Array]:
        """Return one (fan_in, fan_out) mask a layer; see ``made_masks``."""
        degrees = self.degrees[...]
        return made_masks(degrees, self.hidden_degrees(), jnp.tile(degrees, self.outputs))

    def masked_layers(self) -> list[tuple[jax.Array, jax.Array]]:
        """Return (weights, biases) of each layer, (fan_in, fan_out) and (fan_out,), the masked weights set to zero."""
        return [(rows.T, biases) for rows, biases in self._masked()]

    def _masked(self) -> list[tuple[jax.Array, jax.Array]]:
        """Return the same with weights of shape (fan_out, fan_in), which makes the fastest products."""
        return [
            (jnp.where(mask.T, getattr(self, f"weights{k}")[...], 0.0), getattr(self, f"biases{k}")[...])
            for k, mask in enumerate(self.masks())
        ]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return all outputs in one pass, (batch, outputs, features), at ``x`` of shape (batch, features)."""
        return self.columns(x.T).transpose(2, 0, 1)

    def columns(self, x: jax.Array) -> jax.Array:
        """Return all outputs in one pass, (outputs, features, batch), at ``x`` of shape (features, batch).

        With the batch along the last axis a gradient's matrix products run half as fast again on a processor.
        """
        *inner, (weights, biases) = self._masked()
        below = None
        for (inner_weights, inner_biases), degrees in zip(inner, self.hidden_degrees(), strict=True):
            x = self.activation(_product(inner_weights, x, below, degrees) + inner_biases[:, None])
            below = degrees
        return (weights @ x + biases[:, None]).reshape(self.outputs, self.features, -1)

    def in_order(self, choose: Callable[[jax.Array, Any], tuple[jax.Array, Any]], given: Any) -> tuple[jax.Array, Any]:
        """Set the features one after the other, each by a rule that sees the network's outputs about it.

        The result is what D full passes give, with one feature set after each, for the work of about one pass: a
        hidden unit is computed once the features that it sees are known. Units of a degree lie side by side, so a
        step computes one block of every layer. The features go in segments; what a segment gets from before it is one
        large product a layer. All blocks of a segment have the size of the largest; where that reaches into the next
        degree's units, these are computed too early, seen by nobody, and computed again in their own step.

        Args:
            choose: called as ``choose(outputs, given)`` with the outputs about a feature, (outputs, batch), and what
                is given about it, (batch,) arrays; returns the feature's value, (batch,), and a record, any pytree of
                (batch,) arrays, or None.
            given: a pytree of (features, batch) arrays.

        Returns:
            The values and the records, (features, batch) each.
        """
        batch = jax.tree.leaves(given)[0].shape[1]
        pieces = -(-batch // EXAMPLES_AT_A_TIME)
        size = -(-batch // pieces)

        def cut(leaf: jax.Array) -> jax.Array:
            padded = jnp.pad(leaf, ((0, 0), (0, pieces * size - batch)))
            return padded.reshape(self.features, pieces, size).swapaxes(0, 1)

        chosen = jax.lax.map(functools.partial(self._in_order, choose), jax.tree.map(cut, given))
        return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1).reshape(self.features, -1)[:, :batch], chosen)

    def _in_order(self, choose: Callable[[jax.Array, Any], tuple[jax.Array, Any]], given: Any) -> tuple[jax.Array, Any]:
        order = jnp.argsort(self.degrees[...])
        layers = [(weights, biases[:, None]) for weights, biases in self._masked()]
        layers[0] = (layers[0][0][:, order], layers[0][1])
        *inner, (last, last_biases) = layers
        last = last.reshape(self.outputs, self.features, -1)[:, order].swapaxes(0, 1)
        last_biases = last_biases.reshape(self.outputs, self.features, 1)[:, order].swapaxes(0, 1)
        facts = jax.tree.map(lambda leaf: leaf[order], given)
        degrees = self.hidden_degrees()
        batch = jax.tree.leaves(given)[0].shape[1]
        known = [jnp.zeros((0, batch), jnp.float32) for _ in layers]  # features, then each layer's units: all final
        parts, begin = [], 0
        segments = min(4, -(-self.features // STEPS_AT_A_TIME))  # more would compile for longer than they save
        for end in np.linspace(0, self.features, segments + 1).astype(int)[1:].tolist():
            ends = [np.searchsorted(layer, [begin, end], side="right").tolist() for layer in degrees]
            spans = [slice(*pair) for pair in [(begin, end), *ends]]
            # What the segment's units and outputs get from before it: one product each. The steps add the rest.
            started = [
                (weights[own, : below.start] @ units + biases[own], weights[own, below])
                for (weights, biases), units, below, own in zip(inner, known[:-1], spans[:-1], spans[1:], strict=True)
            ]
            outputs = last[begin:end, :, : spans[-1].start] @ known[-1] + last_biases[begin:end]
            degrees_here = [layer[span] for layer, span in zip(degrees, spans[1:], strict=True)]
            sizes = [int(np.bincount(layer, minlength=1).max()) for layer in degrees_here]
            steps = np.arange(end - begin, dtype=np.int32)
            starts = [np.searchsorted(layer, begin + steps + 1).astype(np.int32) for layer in degrees_here]
            step = functools.partial(self._step, choose, started, sizes)
            own_facts = jax.tree.map(lambda leaf: leaf[begin:end], facts)  # noqa: B023
            own_units = [jnp.zeros((span.stop - span.start, batch), jnp.float32) for span in spans]
            given_here = (steps, starts, last[begin:end, :, spans[-1]], outputs, own_facts)
            own_units, chosen = jax.lax.scan(step, own_units, given_here)
            known = [jnp.concatenate(pair) for pair in zip(known, own_units, strict=True)]
            parts.append(chosen)
            begin = end
        places = self.degrees[...] - 1
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[places], *parts)

    def _step(self, choose: Any, started: Any, sizes: Sequence[int], units: list[jax.Array], now: Any) -> Any:
        k, starts, weights, outputs, facts = now
        value, record = choose(weights @ units[-1] + outputs, facts)
        units[0] = jax.lax.dynamic_update_index_in_dim(units[0], value, k, axis=0)
        for below, (layer, size) in enumerate(zip(started, sizes, strict=True)):
            sums, weights = (jax.lax.dynamic_slice_in_dim(part, starts[below], size) for part in layer)
            block = self.activation(weights @ units[below] + sums)
            units[below + 1] = jax.lax.dynamic_update_slice_in_dim(units[below + 1], block, starts[below], axis=0)
        return units, (value, record)


def _product(weights: jax.Array, units: jax.Array, below: np.ndarray | None, above: np.ndarray) -> jax.Array:
    """Return ``weights @ units`` for masked weights, leaving out most of the zeros between two hidden layers.

    Args:
        weights: (fan_out, fan_in), after the mask.
        units: (fan_in, batch).
        below: the degrees of ``units``, ascending; None for features, whose order is known at run time only.
        above: the degrees of the products, ascending.
    """
    if below is None:
        return weights @ units
    pieces: list[tuple[int, int]] = []  # (units above up to here, units below that they see)
    for stop in (*range(UNITS_AT_A_TIME, len(above), UNITS_AT_A_TIME), len(above)):
        seen = int(np.searchsorted(below, above[stop - 1], side="right"))
        pieces = [piece for piece in pieces if piece[1] < seen] + [(stop, seen)]
    sizes = np.diff([0, *(stop for stop, _ in pieces)]).tolist()
    # Split, not sliced: the gradients of the parts are then put side by side, in place of added up.
    parts = jax.lax.split(weights, sizes)
    return jnp.concatenate([part[:, :seen] @ units[:seen] for part, (_, seen) in zip(parts, pieces, strict=True)])


def compiled(model: nnx.Module, method: str, *arrays: Any, **settings: Any) -> Any:
    """Call a method of a model under ``jax.jit``, compiled once for a structure, shapes and settings.

    Args:
        model: it is only read.
        method: its name.
        arrays: traced arguments.
        settings: static keyword arguments.
    """
    graphdef, state = nnx.split(model)
    return _call(state, arrays, graphdef=graphdef, method=method, settings=tuple(settings.items()))


@functools.partial(jax.jit, static_argnames=("graphdef", "method", "settings"))
def _call(state: Any, arrays: Any, *, graphdef: Any, method: str, settings: Any) -> Any:
    return getattr(nnx.merge(graphdef, state), method)(*arrays, **dict(settings))


class MADE(nnx.Module):
    """A masked autoencoder for binary features: P(x) = prod_k P(x_k | features before x_k in the order).

    Source: Germain, Gregor, Murray and Larochelle (2015, arXiv:1502.03509).

    >>> model = MADE(3, [8], rngs=nnx.Rngs(0))
    >>> states = [[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    >>> round(float(jnp.exp(model.log_prob(states)).sum()), 5)
    1.0

    Args:
        features: how many.
        hidden: the widths of the hidden layers; none for logistic regression on the features before.
        order: (features,), ``order[k]`` is the feature generated k-th; None for 0, 1, 2, ...
        rngs: the stream ``params`` is used.
        activation: of the hidden units, a module-level function.

    Attributes:
        network: the ``MaskedNetwork``, one logit for each feature.

    Raises:
        ValueError: if ``features`` or a width is not a whole number above zero, or ``order`` no permutation.
    """

    def __init__(
        self, features: int, hidden: Sequence[int], *, order: Any = None, rngs: nnx.Rngs,
        activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
    ):  # fmt: skip
        self.features = positive_int("features", features)
        self.network = MaskedNetwork(degrees_of(order, features), hidden, 1, rngs=rngs, activation=activation)

    def logits(self, x: Any) -> jax.Array:
        """Return log P(x_k = 1 | before) - log P(x_k = 0 | before), (batch, features), at ``x`` (batch, features).

        Raises:
            ValueError: for an ``x`` of another shape.
        """
        return compiled(self, "_logits", array_of_shape("x", x, ("batch", self.features)).astype(jnp.float32))

    def log_prob(self, x: Any) -> jax.Array:
        """Return log P(x) in nats, (batch,), at binary ``x`` of shape (batch, features).

        Raises:
            ValueError: for an ``x`` of another shape, or with values other than 0 and 1.
        """
        x = array_of_shape("x", x, ("batch", self.features)).astype(jnp.float32)
        binary("x", x, "to hold 0 and 1")
        return compiled(self, "_log_prob", x)

    def sample(self, key: jax.Array, n: int, *, temperature: Any = 1.0, known: Any = None) -> jax.Array:
        """Draw ``n`` independent vectors of zeros and ones, (n, features) float32.

        Args:
            key: of ``jax.random``.
            n: how many.
            temperature: each step's logit is divided by it. That is not the joint at this temperature.
            known: (features,), or (n, features) with a row for each draw: 0 or 1 where a feature is known beforehand,
                NaN where it is to be drawn. The draws follow the conditional distribution if the known features come
                first in the order. A feature drawn *before* a known one is drawn without regard to it.

        Raises:
            ValueError: for another ``n``, a temperature that is not above zero, or ``known`` of another shape or with
                other values.
        """
        n = positive_int("n", n)
        temperature = jnp.asarray(positive("temperature", temperature), jnp.float32)
        known = jnp.asarray(np.full(self.features, np.nan) if known is None else known)
        known = array_of_shape("known", known, (self.features,) if known.ndim == 1 else (n, self.features))
        known = jnp.broadcast_to(known.astype(jnp.float32), (n, self.features))
        binary("known", known, "to hold 0, 1 and NaN", missing=True)
        return compiled(self, "_sample", key, temperature, known)

    def _logits(self, x: jax.Array) -> jax.Array:
        return self.network(x)[:, 0]

    def _log_prob(self, x: jax.Array) -> jax.Array:
        return jax.nn.log_sigmoid((2 * x - 1) * self._logits(x)).sum(axis=1)

    def _sample(self, key: jax.Array, temperature: jax.Array, known: jax.Array) -> jax.Array:
        def choose(logits: jax.Array, given: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            uniform, fact = given
            drawn = (uniform < jax.nn.sigmoid(logits[0] / temperature)).astype(jnp.float32)
            return jnp.where(jnp.isnan(fact), drawn, fact), None

        uniform = jax.random.uniform(key, known.shape, jnp.float32)
        return self.network.in_order(choose, (uniform.T, known.T))[0].T


def ar_log_prob(x: Any, coefficients: Any, scale: Any, *, conditional: bool = False) -> jax.Array:
    r"""Return the exact log density in nats, (batch,), of stationary Gaussian autoregressive series.

    With p coefficients a, x_t = sum_j a_j x_{t-j} + scale e_t, e_t independent standard normal, and x_1 from the
    stationary law. Value t > p is N(sum_j a_j x_{t-j}, scale^2) given those before it. An earlier one is predicted
    from the t - 1 values that there are: the Levinson-Durbin recursion, run backwards, gives the best predictor of
    m - 1 values, and its variance, from that of m values,

        a'_j = (a_j + a_m a_{m-j}) / (1 - a_m^2),   v' = v / (1 - a_m^2).

    The a_m met on the way are the partial autocorrelations; the process is stationary if and only if all lie within
    (-1, 1). Source: Brockwell and Davis (1991), sections 5.2 and 8.7; Barndorff-Nielsen and Schou (1973).

    >>> (log_p,) = ar_log_prob([[0.0, 0.0]], [0.6], 0.8)  # x_1 ~ N(0, 0.8^2 / (1 - 0.6^2)), of variance 1
    >>> print(f"{log_p:.4f} nats")
    -1.6147 nats

    Args:
        x: (batch, times).
        coefficients: (p,), a_1 first; (0,) for white noise.
        scale: the standard deviation of the noise, above zero.
        conditional: leave out the first p values, as conditions; the largest value over the coefficients is then at
            least squares, and coefficients need not be stationary.

    Raises:
        ValueError: for another shape, an ``x`` that is not finite, a scale not above zero, coefficients that are not
            stationary (unless ``conditional``), or too few times for ``conditional``. Values are not looked at where
            JAX traces the call: coefficients that are not stationary then give NaN.
    """
    x = array_of_shape("x", x, ("batch", "times")).astype(jnp.float32)
    coefficients = jnp.asarray(coefficients)
    if coefficients.ndim != 1:
        raise refuse("coefficients", "of shape (p,)", coefficients.shape)
    for what, value in (("x", x), ("coefficients", coefficients)):
        finite(what, value)
    scale = jnp.asarray(positive("scale", scale), jnp.float32)
    p, times = len(coefficients), x.shape[1]
    if conditional and times <= p:
        raise refuse("x", f"to have more than {p} times", times)
    if not conditional and not traced(coefficients):
        with np.errstate(all="ignore"):  # of partial autocorrelations of size 1 come infinity and NaN, refused below
            largest = max((abs(a[-1]) for a in _predictors(np.asarray(coefficients, np.float64))[1:]), default=0.0)
        if not largest < 1:
            expected = "of a stationary process, partial autocorrelations within (-1, 1)"
            raise refuse("coefficients", expected, f"one of size {largest:.6g}")
    return _ar_log_prob(x, coefficients.astype(jnp.float32), scale, conditional=conditional)


def _predictors(coefficients: Any) -> list[Any]:
    """Return the coefficients of the best predictors of 0, 1, ..., p values, by the recursion above."""
    predictors = [coefficients]
    while len(predictors[0]):
        a, k = predictors[0][:-1], predictors[0][-1]
        predictors.insert(0, (a + k * a[::-1]) / (1 - k**2))
    return predictors


@functools.partial(jax.jit, static_argnames="conditional")
def _ar_log_prob(x: jax.Array, coefficients: jax.Array, scale: jax.Array, *, conditional: bool) -> jax.Array:
    predictors = _predictors(coefficients)
    p, times = len(coefficients), x.shape[1]
    log_stds = [jnp.log(scale)]  # of the predictor of p values, p - 1, ..., 0
    for a in predictors[:0:-1]:
        log_stds.append(log_stds[-1] - 0.5 * jnp.log1p(-(a[-1] ** 2)))
    first = range(0 if conditional else min(p, times))
    columns = [_log_normal(x[:, t] - x[:, :t][:, ::-1] @ predictors[t], log_stds[p - t]) for t in first]
    if times > p:
        past = sum((a * x[:, p - 1 - j : times - 1 - j] for j, a in enumerate(coefficients)), jnp.zeros_like(x[:, p:]))
        columns.append(_log_normal(x[:, p:] - past, log_stds[0]).sum(axis=1))
    return sum(columns[1:], columns[0])


def _log_normal(error: jax.Array, log_std: jax.Array) -> jax.Array:
    return -0.5 * (error * jnp.exp(-log_std)) ** 2 - log_std - float(0.5 * np.log(2 * np.pi))
