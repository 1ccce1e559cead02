"""Forward sampling of a binary Bayesian network, conditioning it by sampling, and importance sampling.

>>> net = BayesNet({"rain": ((), 0.2), "wet": (("rain",), [0.1, 0.9])})
>>> round(net.probability({"rain": 1}, {"wet": 1}), 4)
0.6923
>>> draws, log_weights = net.likelihood_weighting(jax.random.key(0), 10_000, evidence={"wet": 1})
>>> bool(abs(importance_estimate(draws["rain"], log_weights).value - 0.6923) < 0.02)
True
"""

import functools
import graphlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gm_utils.validation import array_of_shape, positive_int, refuse, traced

_FREE = -1  # stands for "not observed" in a vector of evidence
_LARGEST_LOG = 80.0  # exp(80) = 5.5e34 and exp(-80) = 1.8e-35 both leave room in float32
_LARGEST_SUM = 52  # np.einsum has this many names for axes
_SMALLEST_BATCH = 1024


class BayesNet:
    """A directed graphical model of binary variables, P(x) = prod_i P(x_i | parents of i).

    ``.order`` lists the nodes in a topological order: every parent stands before its children. The samplers follow it.
    Networks of one graph share their compiled code: new tables, evidence or keys compile nothing, and a new ``n`` only
    where it passes a power of two. All but ``rejection_sample``, whose result has a length decided by chance, and
    ``probability``, which is no JAX code, can run under ``jax.vmap`` and ``jax.jit``.

    Args:
        nodes: ``{node: (parents, table)}``, in any order. ``parents`` is a sequence of nodes, and
            ``table[values of the parents]`` = P(node = 1 | those values), of shape ``(2,) * len(parents)``: a number
            for a node without parents. Names may be anything that can be a dictionary key.

    Raises:
        ValueError: for no nodes, an entry that is no pair, a parent that is unknown or named twice, a table of another
            shape or with entries outside [0, 1], or a cycle, which the message spells out.
    """

    order: tuple[Any, ...]

    def __init__(self, nodes: Mapping[Any, tuple[Sequence[Any], Any]]) -> None:
        if not isinstance(nodes, Mapping) or not nodes:
            raise refuse("nodes", "as a dictionary {node: (parents, table)} with at least one node", repr(nodes))
        self._parents: dict[Any, tuple[Any, ...]] = {}
        self._tables: dict[Any, np.ndarray] = {}
        for node, entry in nodes.items():
            self._parents[node], self._tables[node] = _checked_entry(node, entry, nodes)
        try:
            self.order = tuple(graphlib.TopologicalSorter(self._parents).static_order())
        except graphlib.CycleError as error:
            raise refuse("a graph", "without cycles", "the cycle " + " -> ".join(map(repr, error.args[1]))) from None

        place = {node: index for index, node in enumerate(self.order)}
        self._graph = tuple(tuple(place[parent] for parent in self._parents[node]) for node in self.order)
        flat = np.concatenate([self._tables[node].ravel() for node in self.order])
        self._thresholds = np.round(flat * 2.0**31).astype(np.uint32)
        with np.errstate(divide="ignore"):
            # The logs are taken in float64: in float32, 1 - p is zero for p above 1 - 3e-8.
            self._log_tables = np.stack([np.log1p(-flat), np.log(flat)], axis=-1).astype(np.float32)

    def forward_sample(self, key: jax.Array, n: int) -> dict[Any, jax.Array]:
        """Draw ``n`` joint samples, each node given its parents' draws, in topological order; ``n`` is above zero.

        Ancestral sampling, called logic sampling by Henrion (1988, "Propagating uncertainty in Bayesian networks by
        probabilistic logic sampling"). Probabilities are resolved to 2**-31; zero and one are exact.

        Returns:
            ``{node: (n,) int32 array of 0 and 1}``, the nodes in topological order.
        """
        return self.likelihood_weighting(key, n, evidence={})[0]

    def rejection_sample(self, key: jax.Array, n: int, *, evidence: Mapping[Any, int]) -> dict[Any, jax.Array]:
        """Draw ``n`` joint samples and keep those that agree with the evidence: exact draws from P(. | evidence).

        The share that is kept is P(evidence) on average, so rare evidence leaves few draws, or none (Henrion 1988).

        Args:
            key: a JAX random key.
            n: the number of proposals, not of draws kept.
            evidence: ``{node: 0 or 1}``.

        Returns:
            ``{node: (accepted,) int32 array}``, with ``0 <= accepted <= n``.

        Raises:
            ValueError: for an unknown node, a value other than 0 and 1, or an ``n`` that is no whole number above zero.
        """
        observed = self._checked("evidence", evidence)
        # Selected in NumPy: in JAX every new number of accepted draws would compile anew.
        draws = {node: np.asarray(column) for node, column in self.forward_sample(key, n).items()}
        accepted = np.ones(n, dtype=bool)
        for node, value in observed.items():
            accepted &= draws[node] == value
        return {node: jax.device_put(column[accepted]) for node, column in draws.items()}

    def likelihood_weighting(
        self, key: jax.Array, n: int, *, evidence: Mapping[Any, int]
    ) -> tuple[dict[Any, jax.Array], jax.Array]:
        """Set the observed nodes, draw the others forward, and weight each draw by the likelihood of the evidence.

        The weight is the product over the observed nodes of P(value | the draw's parents); its mean is an unbiased
        estimate of P(evidence). Evidence on roots alone gives equal weights. Sources: Fung & Chang 1990, "Weighing and
        integrating evidence for stochastic simulation in Bayesian networks"; Shachter & Peot 1990, "Simulation
        approaches to general probabilistic inference on belief networks".

        Args:
            key: a JAX random key.
            n: the number of draws.
            evidence: ``{node: 0 or 1}``.

        Returns:
            ``{node: (n,) int32 array}``, the observed nodes at their values, and the ``(n,)`` log weights in nats, -inf
            where the draw excludes the evidence. ``importance_estimate`` takes them as they are.

        Raises:
            ValueError: for an unknown node, a value other than 0 and 1, or an ``n`` that is no whole number above zero.
        """
        n = positive_int("n", n)
        observed = self._checked("evidence", evidence)
        clamped = np.array([observed.get(node, _FREE) for node in self.order], dtype=np.int32)
        drawn = _draw(key, self._thresholds, self._log_tables, clamped, graph=self._graph, size=_batch(n))
        columns, log_weights = jax.tree.map(lambda array: _first(array, n), drawn)
        return dict(zip(self.order, columns, strict=True)), log_weights

    def log_prob(self, assignment: Mapping[Any, Any]) -> jax.Array:
        """Return the log-probability in nats of full assignments, the sum of every node's log-conditional.

        Args:
            assignment: ``{node: (n,) array of 0 and 1}`` for every node, as the samplers return it.

        Returns:
            An ``(n,)`` array; -inf for an assignment that cannot happen.

        Raises:
            ValueError: for a missing or unknown node, arrays of unequal length, or values other than 0 and 1 (this last
                check is left out where JAX traces the call).
        """
        if set(assignment) != set(self.order):
            raise refuse("assignment", f"of the nodes {list(self.order)}", list(assignment))
        shapes = {np.shape(column) for column in assignment.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise refuse("assignment", "of arrays of one shape (n,)", sorted(shapes))
        for node, column in assignment.items():
            if not traced(column) and not np.isin(np.asarray(column), (0, 1)).all():
                raise refuse(f"the values of {node!r}", "to be 0 or 1", np.unique(np.asarray(column)).tolist())
        ((n,),) = shapes
        size = _batch(n, *assignment.values())
        columns = tuple(_padded(assignment[node], np.int32, size, fill=0) for node in self.order)
        return _first(_log_joint(columns, self._log_tables, graph=self._graph), n)

    def probability(self, query: Mapping[Any, int], evidence: Mapping[Any, int] | None = None) -> float:
        """Return P(query | evidence), exact: the joint table summed in float64 over the nodes that are not named.

        Only the named nodes and their ancestors enter, for all others sum to one. The sums are taken as early as the
        factors allow, which keeps chains and trees cheap. A query that repeats a node of the evidence is certain of
        that node, or has probability zero where it contradicts it.

        Args:
            query: ``{node: 0 or 1}``, all of which must hold; empty, the probability is one.
            evidence: ``{node: 0 or 1}``, or None for none.

        Raises:
            ValueError: for an unknown node, a value other than 0 and 1, evidence of probability zero, or more than 52
                nodes to sum over.
        """
        wanted = self._checked("query", query)
        known = self._checked("evidence", {} if evidence is None else evidence)
        total = self._mass(known)
        if total == 0.0:
            raise refuse("evidence", "of probability above zero", f"{known}, which this network excludes")
        if any(known.get(node, value) != value for node, value in wanted.items()):
            return 0.0
        return self._mass({**known, **wanted}) / total

    def _mass(self, known: dict[Any, int]) -> float:
        """Sum the joint over everything but ``known``."""
        needed = set(known)
        for node in reversed(self.order):  # children before their parents
            if node in needed:
                needed.update(self._parents[node])
        relevant = [node for node in self.order if node in needed]  # a set's order may change from run to run
        axis = {node: index for index, node in enumerate(node for node in relevant if node not in known)}
        if len(axis) > _LARGEST_SUM:
            raise refuse("a sum", f"over at most {_LARGEST_SUM} nodes", len(axis))
        factors: list[Any] = [1.0, []]
        for node in relevant:
            family = (*self._parents[node], node)
            factor = np.stack([1.0 - self._tables[node], self._tables[node]], axis=-1)
            factors.append(factor[tuple(known.get(member, slice(None)) for member in family)])
            factors.append([axis[member] for member in family if member not in known])
        return float(np.einsum(*factors, [], optimize="greedy"))

    def _checked(self, what: str, values: Mapping[Any, int]) -> dict[Any, int]:
        """Refuse unknown nodes and values that are not 0 or 1."""
        if not isinstance(values, Mapping):
            raise refuse(what, "as a dictionary {node: 0 or 1}", repr(values))
        for node, value in values.items():
            if node not in self._parents:
                raise refuse(what, f"about the nodes {list(self.order)}", repr(node))
            if np.ndim(value) != 0 or value not in (0, 1):
                raise refuse(f"the {what} for {node!r}", "to be 0 or 1", repr(value))
        return {node: int(value) for node, value in values.items()}


def _checked_entry(node: Any, entry: Any, nodes: Mapping[Any, Any]) -> tuple[tuple[Any, ...], np.ndarray]:
    """Return one node's parents and its table in float64, or refuse them."""
    if not isinstance(entry, tuple | list) or len(entry) != 2:
        raise refuse(f"node {node!r}", "as a pair (parents, table)", repr(entry))
    parents, table = entry
    if not isinstance(parents, tuple | list):  # a string would pass for a sequence of letters
        raise refuse(f"the parents of {node!r}", "as a tuple or list of nodes", repr(parents))
    for parent in parents:
        if not isinstance(parent, Hashable) or parent not in nodes:
            raise refuse(f"the parents of {node!r}", f"among the nodes {list(nodes)}", repr(parent))
    if len(set(parents)) < len(parents):
        raise refuse(f"the parents of {node!r}", "to be distinct", list(parents))
    try:
        array = np.asarray(table, dtype=np.float64)
    except (TypeError, ValueError):
        raise refuse(f"the table of {node!r}", "as nested lists of numbers, all of one length", repr(table)) from None
    if array.shape != (2,) * len(parents):
        raise refuse(f"the table of {node!r}", f"of shape {(2,) * len(parents)}", array.shape)
    if not ((array >= 0.0) & (array <= 1.0)).all():
        raise refuse(f"the table of {node!r}", "of probabilities between 0 and 1", array.tolist())
    return tuple(parents), array


def _rows(graph: tuple[tuple[int, ...], ...], index: int, columns: Sequence[jax.Array]) -> Any:
    """Return the row of node ``index`` in the stacked tables, for each draw of its parents; a number for a root."""
    row: Any = 0
    for parent in graph[index]:
        row = 2 * row + columns[parent]
    return row + sum(2 ** len(parents) for parents in graph[:index])


@functools.partial(jax.jit, static_argnames=("graph", "size"))
def _draw(
    key: jax.Array,
    thresholds: jax.Array,
    log_tables: jax.Array,
    clamped: jax.Array,
    *,
    graph: tuple[tuple[int, ...], ...],
    size: int,
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """Draw all nodes in topological order; a clamped node takes its value and adds its log-probability to the weight.

    Coins are whole numbers below 2**31. A float32 uniform is a multiple of 2**-23: at P = 1e-6 it would be 7% off.
    """
    coins = jax.random.bits(key, (len(graph), size), jnp.uint32) >> 1
    columns: list[jax.Array] = []
    log_weights = jnp.zeros(size, jnp.float32)
    for index in range(len(graph)):
        row = _rows(graph, index, columns)
        observed = clamped[index] != _FREE
        value = jnp.where(observed, clamped[index], (coins[index] < thresholds[row]).astype(jnp.int32))
        log_weights += jnp.where(observed, log_tables[row, value], 0.0)
        columns.append(value)
    return tuple(columns), log_weights


@functools.partial(jax.jit, static_argnames=("graph",))
def _log_joint(
    columns: tuple[jax.Array, ...], log_tables: jax.Array, *, graph: tuple[tuple[int, ...], ...]
) -> jax.Array:
    """Add up every node's log-conditional, (n,)."""
    terms = [log_tables[_rows(graph, index, columns), column] for index, column in enumerate(columns)]
    return functools.reduce(jnp.add, terms)


class ImportanceEstimate(NamedTuple):
    """What ``importance_estimate`` returns: float32 arrays, ``(k,)`` or scalars for the first two, then scalars."""

    value: jax.Array
    std_error: jax.Array
    ess: jax.Array
    log_normaliser: jax.Array


def importance_estimate(values: Any, log_weights: Any, *, self_normalised: bool = True) -> ImportanceEstimate:
    r"""Estimate the target's mean of f from ``n`` draws x of a proposal q, with log weights log p(x) - log q(x).

    Self-normalised, with W_i = w_i / sum_j w_j (for a p known up to a factor; biased by O(1/n)):

        value = sum_i W_i f_i,   std_error = sqrt(sum_i W_i**2 (f_i - value)**2)

    where the error is the delta method's. Otherwise the unbiased one, which needs a p and a q that are normalised:

        value = mean(w f),   std_error = standard deviation of (w f), over sqrt(n)

    Both errors come from the draws: a region that no draw has reached is missing from the error too, and for weights of
    infinite variance the error says nothing. Source: Owen, "Monte Carlo theory, methods and examples", sections 9.1
    (unbiased) and 9.2 (self-normalised).

    Weights are handled relative to the largest. So they may spread over thousands of nats, and a constant added to all
    log weights moves ``log_normaliser`` by itself, multiplies the unbiased value and its error by its exponential, and
    leaves the rest as it was, as far as float32 holds the log weights: of -1e6 it keeps steps of 1/16 nat. An unbiased
    value may not fit in float32: largest log weights beyond +-80 are refused there. Where JAX traces the call, no value
    can be looked at: then a bad input shows as NaN, infinity or zero.

    Args:
        values: f at the draws, ``(n,)`` or ``(n, k)`` for k functions, with n of 2 or more. Draws of weight zero are
            left out, whatever their values: f need not exist outside of the target's support.
        log_weights: ``(n,)`` in nats; -inf is weight zero.
        self_normalised: which of the two estimators.

    Returns:
        ``.value`` and ``.std_error``, scalars or ``(k,)``; ``.ess``, see ``effective_sample_size``; ``.log_normaliser``
        = log(mean(w)) in nats, the log of the estimated normaliser of p (of P(evidence) in likelihood weighting).

    Raises:
        ValueError: for other shapes, fewer than two draws, NaN or +inf among the log weights, weights that are all
            zero, values that are not finite at a weight above zero, or an unbiased value out of float32's range.
    """
    n = _check_log_weights(log_weights)
    if n < 2:
        raise refuse("log_weights", "of two draws or more, for a standard error", n)
    shape = np.shape(values)
    if len(shape) not in (1, 2) or shape[0] != n:
        raise refuse("values", f"of shape ({n},) or ({n}, k), as there are {n} log_weights", shape)
    if not traced(values, log_weights):
        used = np.asarray(values)[np.asarray(log_weights) > -np.inf]
        if not np.isfinite(used).all():
            raise refuse("values", "to be finite wherever the weight is above zero", used[~np.isfinite(used)][0])
        peak = float(np.max(log_weights))
        if not self_normalised and abs(peak) > _LARGEST_LOG:
            expected = f"with a largest within +-{_LARGEST_LOG:g} nats for an unbiased estimate (float32)"
            raise refuse("log_weights", expected, f"{peak:g}; shift them, or use self_normalised=True")
    size = _batch(n, values, log_weights)
    padded = _padded(values, float, size, fill=0.0), _padded(log_weights, float, size, fill=-np.inf)
    return ImportanceEstimate(*_weigh(*padded, n, self_normalised=bool(self_normalised)))


def effective_sample_size(log_weights: Any) -> jax.Array:
    """Return (sum w)**2 / sum w**2, between 1 and n: how many equally weighted draws would be as good.

    It is n / (1 + cv**2), cv being the weights' coefficient of variation (Kong 1992, "A note on importance sampling
    using standardized weights"; Kong, Liu & Wong 1994). A small figure is bad news, a large one is no proof of quality:

    - it does not know the integrand, for which the same weights may be far better or far worse;
    - it does not know the weights' scale, and so not whether their mean is near the true normaliser;
    - it knows the drawn points alone: a mode that no draw has hit does not lower it, and where the weights' variance is
      infinite, so that ESS / n tends to zero, it may look fine for a long time.

    Args:
        log_weights: ``(n,)`` in nats, up to a constant; -inf is weight zero.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: for another shape, NaN or +inf, or weights that are all zero (where JAX traces the call: NaN).
    """
    size = _batch(_check_log_weights(log_weights), log_weights)
    return _ess(_padded(log_weights, float, size, fill=-np.inf))


def _batch(n: int, *arrays: Any) -> int:
    """Return the power of two to pad n draws to, so that a slider over n hardly ever compiles; n if JAX traces them."""
    return n if traced(*arrays) else max(_SMALLEST_BATCH, 2 ** (n - 1).bit_length())


def _padded(array: Any, dtype: Any, size: int, *, fill: float) -> Any:
    """Return ``array`` as ``dtype`` (``float``: JAX's float), padded to ``size`` along its first axis."""
    if traced(array):
        return array.astype(dtype)
    array = np.asarray(array)
    padded = np.full((size, *array.shape[1:]), fill, jax.dtypes.canonicalize_dtype(dtype))
    padded[: len(array)] = array
    return padded


def _first(array: jax.Array, n: int) -> jax.Array:
    """Return the first n entries; through NumPy, where no length needs compiling."""
    return array[:n] if traced(array) else jax.device_put(np.asarray(array)[:n])


def _check_log_weights(log_weights: Any) -> int:
    """Return the number of log weights, or refuse them."""
    n = array_of_shape("log_weights", log_weights, ("n",)).shape[0]
    if not traced(log_weights):
        concrete = np.asarray(log_weights)
        bad = int((np.isnan(concrete) | (concrete == np.inf)).sum())
        if bad:
            raise refuse("log_weights", "without NaN and +inf", f"{bad} of {n} values that are")
        if (concrete == -np.inf).all():
            raise refuse("log_weights", "with one above -inf or more", f"{n} draws, all of weight zero")
    return n


@jax.jit
def _ess(log_weights: jax.Array) -> jax.Array:
    relative = jnp.exp(log_weights - log_weights.max())
    return relative.sum() ** 2 / (relative**2).sum()


@functools.partial(jax.jit, static_argnames=("self_normalised",))
def _weigh(values: jax.Array, log_weights: jax.Array, n: jax.Array, *, self_normalised: bool) -> tuple[jax.Array, ...]:
    """Return value, std_error, ess and log_normaliser of the first n draws; the others are padding of weight zero."""
    drawn = jnp.arange(log_weights.shape[0], dtype=jnp.int32) < n
    n = n.astype(log_weights.dtype)
    peak = log_weights.max()
    relative = jnp.exp(log_weights - peak)
    over_draws = (slice(None), *(None,) * (values.ndim - 1))
    weights = relative[over_draws]
    values = jnp.where(log_weights[over_draws] > -jnp.inf, values, 0.0)
    if self_normalised:
        share = weights / relative.sum()
        value = (share * values).sum(0)
        std_error = jnp.sqrt((share**2 * (values - value[None]) ** 2).sum(0))
    else:
        mean = (weights * values).sum(0) / n
        variance = jnp.where(drawn[over_draws], (weights * values - mean[None]) ** 2, 0.0).sum(0) / (n - 1.0)
        value, std_error = jnp.exp(peak) * mean, jnp.exp(peak) * jnp.sqrt(variance / n)
    return value, std_error, _ess(log_weights), peak + jnp.log(relative.sum() / n)
