"""Train a model in one compiled loop: ``fit``, and ``fit_many`` for several models side by side.

The rows of every minibatch are drawn first. A compiled ``while_loop`` then takes many steps per call, a *chunk* of
about a third of a second, so that a run can be stopped, watched and interrupted between two chunks. The loop is
compiled once for a model's structure, a loss function and an optax object: reuse these objects, and a second run
starts at once, whatever its number of steps.
"""

import inspect
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from gm_utils.validation import finite, positive_int, refuse

CHUNK_SECONDS = 0.3
BAR_AFTER_SECONDS = 2.0


class Diverged(RuntimeError):
    """Training met a loss or a gradient that it refuses; the model keeps its last good state.

    Attributes:
        step: the step refused, counted from 0 (``steps`` itself when only the very last update was bad). Of several
            members, the earliest.
        loss: the last good loss before that step, in the loss's own unit; NaN if there was none.
        losses: after ``fit`` the good losses, (step,); after ``fit_many`` (models, steps), NaN from a member's
            refused step on.
        members: after ``fit_many`` the refused step of each diverged member, ``{member: step}``; empty after ``fit``.
    """

    def __init__(self, message: str, *, step: int, loss: float, losses: jax.Array, members: dict[int, int]):
        super().__init__(message)
        self.step, self.loss, self.losses, self.members = step, loss, losses, members


def fit(
    model: nnx.Module,
    loss: Callable[..., jax.Array],
    data: Any,
    *,
    key: jax.Array,
    steps: int,
    batch_size: int,
    optimizer: optax.GradientTransformation | nnx.Optimizer,
    divergence_limit: float = 1e6,
    progress: bool = True,
) -> jax.Array:
    """Minimise a loss over minibatches; the model is updated in place.

    Each epoch runs through a fresh permutation of the rows, without replacement; rows that fill no whole batch are
    left out of that epoch. Rows and loss key of a step depend on ``key`` and on the step's number only
    (see ``minibatch``), so two runs with one ``nnx.Optimizer`` and one key equal a single long run.

    A state of the model is kept only after its *own* loss and gradient were found finite, and its loss within
    ``divergence_limit * (1 + |first loss|)`` of zero; the state after the last update is tested on one more
    minibatch, which is not reported. So every state that a run leaves behind has passed, after an interrupt as well.

    Data placed on a ``jax.sharding.Mesh`` is trained on data-parallel: the model is copied to every device and each
    computes its share of the batch's rows.

    Args:
        model: any ``nnx.Module`` with parameters. Other variables (masks, random streams, running means) are carried
            along. Initialisers and activations that it stores should be module-level objects: a closure made anew
            makes a new structure, which compiles again.
        loss: ``loss(model, batch)`` or ``loss(model, batch, key)`` -> scalar; parameters with a default are left
            alone. The key is a new one at each step.
        data: an array (rows, ...), or a pytree of arrays with equally many rows; a batch has the same form, with
            ``batch_size`` rows.
        key: one key of ``jax.random.key``.
        steps: number of updates.
        batch_size: rows of a minibatch.
        optimizer: an optax transformation, started afresh, or an ``nnx.Optimizer`` of this model, which continues.
        divergence_limit: see above; ``float("inf")`` leaves only the test for NaN and infinity.
        progress: in a notebook, show a bar while a run takes over two seconds. At the end the cell's output is
            cleared, with whatever was printed before: switch it off in a cell that prints first.

    Returns:
        The losses, (steps,), float32: entry t was computed on batch t before update t.

    Raises:
        ValueError: for bad input; for data that is empty, ragged, NaN or infinite; a batch larger than the data, or
            not divisible over the mesh; a model without parameters; a loss of a wrong signature or not scalar.
        Diverged: when a step is refused by the rule above.
    """
    with jax.numpy_dtype_promotion("standard"):  # optax mixes Python and array types
        if not isinstance(model, nnx.Module):
            raise refuse("model", "to be an nnx.Module", type(model).__name__)
        continues = isinstance(optimizer, nnx.Optimizer)
        state_of_optimizer = optimizer if continues else _fresh(model, optimizer)
        job = _prepare(loss, data, key, steps, batch_size, divergence_limit, with_setting=False)
        graphdef, state = nnx.split((model, state_of_optimizer))
        _refuse_without_parameters(nnx.state(model, state_of_optimizer.wrt))
        first = int(state_of_optimizer.step[...]) if continues else 0
        start = _Run(state, state, jnp.int32(0), jnp.int32(0))
        runner = _Runner(job, graphdef, start, first=first, members=None, settings=None)
        try:
            losses, refused = runner.run(progress)
        finally:
            nnx.update((model, state_of_optimizer), runner.now.good)
    if refused:
        step, reason = refused[0]
        last = float(losses[step - 1]) if step else float("nan")
        raise Diverged(
            f"training diverged at step {step}: {reason}; the last good loss was {last:.6g}, "
            "and the model keeps its last good state",
            step=step, loss=last, losses=jnp.asarray(losses[:step]), members={},
        )  # fmt: skip
    return jnp.asarray(losses)


def fit_many(
    models: Sequence[nnx.Module],
    loss: Callable[..., jax.Array],
    data: Any,
    *,
    key: jax.Array,
    steps: int,
    batch_size: int,
    optimizer: optax.GradientTransformation,
    settings: Any = None,
    divergence_limit: float = 1e6,
    progress: bool = True,
) -> jax.Array:
    """Train several models of one structure together, in one vectorised run under one compilation.

    All members see the same minibatches and the same loss keys: those that ``fit`` with this key would give. The
    comparison is therefore paired, and each member learns what it would learn alone. A member that diverges stops at
    its last good state while the others go on; the exception comes at the end, with every model updated.

    Args:
        models: different objects of equal structure and shapes; their parameters may differ.
        loss: as for ``fit``. With ``settings``, it takes its member's setting as one more, last argument:
            ``loss(model, batch, setting)`` or ``loss(model, batch, key, setting)``.
        data: as for ``fit``.
        key: as for ``fit``.
        steps: as for ``fit``.
        batch_size: as for ``fit``.
        optimizer: an optax transformation; each member starts it afresh.
        settings: an array or a pytree of arrays with a leading axis of one entry a model, such as a weight or a rate.
        divergence_limit: as for ``fit``, with each member's own first loss.
        progress: as for ``fit``.

    Returns:
        The losses, (models, steps), float32.

    Raises:
        ValueError: as ``fit``; also for models that differ in structure or shapes, and for settings of another length.
        Diverged: after the run, if any member was stopped; ``.members`` names them.
    """
    with jax.numpy_dtype_promotion("standard"):
        if not models or not all(isinstance(model, nnx.Module) for model in models):
            raise refuse("models", "to be a list of nnx modules", repr([type(model).__name__ for model in models]))
        if len({id(model) for model in models}) < len(models):
            raise refuse("models", "to be different objects", "one of them twice")
        pairs = [(model, _fresh(model, optimizer)) for model in models]
        settings = jax.tree.map(jnp.asarray, settings)
        for leaf in jax.tree.leaves(settings):
            if leaf.shape[:1] != (len(models),):
                raise refuse("settings", f"to have a leading axis of {len(models)}, one entry a model", leaf.shape)
        job = _prepare(loss, data, key, steps, batch_size, divergence_limit, with_setting=settings is not None)
        graphdef, states = _same_structure(pairs)
        _refuse_without_parameters(nnx.state(models[0], nnx.Param))
        state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        start = _Run(state, state, jnp.int32(0), jnp.zeros(len(models), jnp.int32))
        runner = _Runner(job, graphdef, start, first=0, members=len(models), settings=settings)
        try:
            losses, refused = runner.run(progress)
        finally:
            for member, pair in enumerate(pairs):
                nnx.update(pair, jax.tree.map(lambda leaf, member=member: leaf[member], runner.now.good))
    if refused:
        first_out = min(refused, key=lambda member: refused[member][0])
        step = refused[first_out][0]
        told = "; ".join(f"member {member} at step {at}: {reason}" for member, (at, reason) in refused.items())
        raise Diverged(
            f"{len(refused)} of {len(models)} members diverged ({told}); each model keeps its last good state",
            step=step, loss=float(losses[first_out, step - 1]) if step else float("nan"),
            losses=jnp.asarray(losses), members={member: at for member, (at, _) in refused.items()},
        )  # fmt: skip
    return jnp.asarray(losses)


def minibatch(key: jax.Array, step: int, *, rows: int, batch_size: int) -> tuple[np.ndarray, jax.Array]:
    """Return what ``fit`` uses at a step: the rows drawn, (batch_size,), and the key of the loss.

    A loop written by hand that calls this trains on the same minibatches as ``fit`` with the same key.
    """
    return _rows_of_steps(key, step, 1, rows, batch_size)[0], jax.random.fold_in(key, step)


def _rows_of_steps(key: jax.Array, first: int, count: int, rows: int, batch_size: int) -> np.ndarray:
    """Draw the rows of ``count`` steps, (count, batch_size).

    NumPy permutes, seeded by the key and the epoch: sorting inside the compiled loop would cost a fifth of a run.
    """
    seed = np.asarray(jax.random.key_data(key)).tolist()
    per_epoch = rows // batch_size
    drawn = np.empty((count, batch_size), np.int32)
    step, last = first, first + count
    while step < last:
        epoch, begin = divmod(step, per_epoch)
        take = min(per_epoch - begin, last - step)
        order = np.random.default_rng([*seed, epoch]).permutation(rows)
        chosen = order[begin * batch_size : (begin + take) * batch_size]
        drawn[step - first : step - first + take] = chosen.reshape(take, batch_size)
        step += take
    return drawn


class _Run(NamedTuple):
    """What the loop carries; with members, every leaf but ``step`` has a leading axis of them."""

    good: Any  # the newest state whose loss and gradient have passed
    current: Any  # the state one update further, not yet tested
    step: jax.Array
    accepted: jax.Array  # states that have passed; a member is alive while this equals ``step``


class _Job(NamedTuple):
    loss: Callable[..., jax.Array]
    takes_key: bool
    data: Any
    rows: int
    sharding: NamedSharding | None  # of the batch's rows, when the data lies on a mesh
    key: jax.Array
    steps: int
    batch_size: int
    limit: float


@partial(jax.jit, static_argnames=("graphdef", "loss", "takes_key", "members", "sharding"))
def _chunk(
    run: _Run, data: Any, rows: jax.Array, key: jax.Array, first: jax.Array, count: jax.Array, bound: jax.Array,
    settings: Any, *, graphdef: Any, loss: Callable, takes_key: bool, members: int | None,
    sharding: NamedSharding | None,
) -> tuple[_Run, jax.Array]:  # fmt: skip
    """Take up to ``count`` steps; return the run and its losses, (capacity,) or (capacity, members)."""
    start = run.step

    def attempt(good: Any, current: Any, alive: jax.Array, bound: jax.Array, setting: Any, batch: Any, key: Any) -> Any:
        # Merged models write into the state they were merged from: give them a copy, and keep this one.
        model, optimizer = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf, current))
        extras = (key,) * takes_key + (() if settings is None else (setting,))

        def objective(model: nnx.Module) -> jax.Array:
            value = loss(model, batch, *extras)
            if getattr(value, "shape", None) != ():
                raise refuse("loss", "to return a scalar", getattr(value, "shape", type(value).__name__))
            return value

        value, gradient = nnx.value_and_grad(objective, argnums=nnx.DiffState(0, optimizer.wrt))(model)
        passed = alive & jnp.isfinite(value) & (jnp.abs(value) <= bound)
        for leaf in jax.tree.leaves(gradient):
            passed &= jnp.isfinite(leaf).all()
        optimizer.update(model, gradient)
        good = jax.tree.map(partial(jnp.where, passed), current, good)
        return good, nnx.state((model, optimizer)), passed, value.astype(jnp.float32)

    if members is not None:
        attempt = jax.vmap(attempt, in_axes=(0, 0, 0, 0, 0, None, None))

    def more(carry: tuple[_Run, jax.Array]) -> jax.Array:
        run, _ = carry
        return (run.step < start + count) & (run.accepted == run.step).any()

    def body(carry: tuple[_Run, jax.Array]) -> tuple[_Run, jax.Array]:
        run, losses = carry
        batch = jax.tree.map(lambda leaf: leaf.at[rows[run.step - start]].get(mode="promise_in_bounds"), data)
        step_key = jax.random.fold_in(key, first + run.step)
        if sharding is not None:
            batch = jax.lax.with_sharding_constraint(batch, sharding)
        good, current, passed, value = attempt(
            run.good, run.current, run.accepted == run.step, bound, settings, batch, step_key
        )
        losses = losses.at[run.step - start].set(value)
        return _Run(good, current, run.step + 1, run.accepted + passed), losses

    losses = jnp.zeros((len(rows),) if members is None else (len(rows), members), jnp.float32)
    return jax.lax.while_loop(more, body, (run, losses))


class _Runner:
    """Calls the chunk until the run is over; ``now`` is the run as far as it came, at any moment."""

    def __init__(self, job: _Job, graphdef: Any, start: _Run, *, first: int, members: int | None, settings: Any):
        self.job, self.first, self.settings = job, first, settings
        self.fixed = {
            "graphdef": graphdef, "loss": job.loss, "takes_key": job.takes_key, "members": members,
            "sharding": job.sharding,
        }  # fmt: skip
        # A weakly typed or plain Python leaf would change its type in the loop, and compile it twice.
        self.now = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype=jnp.result_type(leaf)), start)
        if job.sharding is not None:
            self.now = jax.device_put(self.now, NamedSharding(job.sharding.mesh, PartitionSpec()))  # a copy each

    def run(self, progress: bool) -> tuple[np.ndarray, dict[int, tuple[int, str]]]:
        """Return the good losses, (steps,) or (members, steps), else NaN; and who was stopped, when and why."""
        job = self.job
        capacity = max(64, min(4096, 2**20 // job.batch_size))  # of the rows drawn: at most some megabytes
        total = job.steps + 1  # the last evaluation only tests the last update
        bound = jnp.full(self.now.accepted.shape, jnp.inf, jnp.float32)
        pieces: list[np.ndarray] = []
        bar = _Bar(job.steps) if progress else None
        done, length = 0, 1  # one step first: it compiles, and its loss sets the limit
        try:
            while done < total and (np.asarray(self.now.accepted) == done).any():
                began = time.perf_counter()
                count = min(length, total - done)
                rows = np.zeros((capacity, job.batch_size), np.int32)
                rows[:count] = _rows_of_steps(job.key, self.first + done, count, job.rows, job.batch_size)
                self.now, losses = _chunk(
                    self.now, job.data, rows, job.key, np.uint32(self.first), np.int32(count), bound, self.settings,
                    **self.fixed,
                )  # fmt: skip
                reached = int(self.now.step)
                pieces.append(np.asarray(losses)[: reached - done])
                if not done:
                    bound = job.limit * (1.0 + jnp.abs(losses[0]))
                else:
                    pace = CHUNK_SECONDS / (time.perf_counter() - began)
                    length = max(1, min(4 * length, round(pace * count), capacity))
                done = reached
                if bar is not None:
                    bar.show(min(done, job.steps), float(np.mean(pieces[-1][-1])))
        finally:
            if bar is not None:
                bar.clear()
        return self._result(np.concatenate(pieces), np.asarray(bound))

    def _result(self, values: np.ndarray, bound: np.ndarray) -> tuple[np.ndarray, dict[int, tuple[int, str]]]:
        accepted, steps = np.asarray(self.now.accepted), self.job.steps
        losses = np.full((*accepted.shape, steps), np.nan, np.float32)
        losses[..., : len(values)] = values[:steps].T
        losses[np.arange(steps) >= accepted[..., None]] = np.nan
        refused = {}
        for member, step in enumerate(np.atleast_1d(accepted).tolist()):
            if step <= steps:
                value = np.atleast_2d(values.T)[member, step]
                limit = np.atleast_1d(bound)[member]
                if not np.isfinite(value):
                    reason = f"its loss is {value}"
                elif abs(value) > limit:
                    reason = f"its loss {value:.6g} is beyond the limit of {limit:.6g} in size"
                else:
                    reason = f"its loss is {value:.6g} but its gradient is not finite"
                refused[member] = step, reason
        return losses, refused


class _Bar:
    """A line of text in a notebook cell, shown once a run is slow and cleared when it ends."""

    def __init__(self, steps: int):
        self.steps, self.began, self.shown = steps, time.perf_counter(), False
        # A kernel has loaded IPython already; nobody else needs it loaded.
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        self.active = hasattr(shell, "kernel")

    def show(self, step: int, loss: float) -> None:
        spent = time.perf_counter() - self.began
        if not self.active or spent < BAR_AFTER_SECONDS or step == self.steps:
            return
        from IPython.display import clear_output

        filled = 30 * step // self.steps
        left = spent * (self.steps - step) / max(step, 1)
        clear_output(wait=True)
        print(f"|{'█' * filled}{' ' * (30 - filled)}| step {step} of {self.steps}, loss {loss:.4g}, {left:.0f} s left")
        self.shown = True

    def clear(self) -> None:
        if self.shown:
            from IPython.display import clear_output

            clear_output()


def _fresh(model: nnx.Module, optimizer: Any) -> nnx.Optimizer:
    if not isinstance(optimizer, optax.GradientTransformation):
        raise refuse("optimizer", "to be an optax transformation (or, in fit, an nnx.Optimizer)", repr(optimizer))
    return nnx.Optimizer(model, optimizer, wrt=nnx.Param)


def _refuse_without_parameters(parameters: Any) -> None:
    if not jax.tree.leaves(parameters):
        raise refuse("model", "to have parameters (nnx.Param)", "none")


def _same_structure(pairs: Sequence[tuple[nnx.Module, nnx.Optimizer]]) -> tuple[Any, list[Any]]:
    """Split every pair; refuse members that cannot be stacked."""
    graphdefs, states = zip(*map(nnx.split, pairs), strict=True)
    shapes = [[leaf.shape for leaf in jax.tree.leaves(nnx.state(model))] for model, _ in pairs]
    for member in range(1, len(pairs)):
        if shapes[member] != shapes[0]:
            raise refuse("models", f"to share the shapes {shapes[0]} of the first", f"{shapes[member]} in {member}")
        if graphdefs[member] != graphdefs[0]:
            raise refuse(
                "models", "to share the first one's structure, with the same objects as attributes",
                f"another structure in {member}",
            )  # fmt: skip
    return graphdefs[0], list(states)


def _prepare(
    loss: Callable[..., jax.Array], data: Any, key: Any, steps: Any, batch_size: Any, limit: float, *,
    with_setting: bool,
) -> _Job:  # fmt: skip
    """Refuse bad input before anything is traced."""
    typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
    if not typed and not (getattr(key, "dtype", None) == jnp.uint32 and key.ndim == 1):
        raise refuse("key", "to be one key, as jax.random.key makes it", getattr(key, "shape", repr(key)))
    steps, batch_size = positive_int("steps", steps), positive_int("batch_size", batch_size)
    if not limit > 0:
        raise refuse("divergence_limit", "to be above zero", repr(limit))
    data = jax.tree.map(jnp.asarray, data)
    leaves = jax.tree.leaves(data)
    if not leaves or not all(leaf.ndim for leaf in leaves):
        raise refuse("data", "to be an array, or a pytree of arrays, with rows", [leaf.shape for leaf in leaves])
    rows = len(leaves[0])
    if any(len(leaf) != rows for leaf in leaves):
        raise refuse("data", "to be arrays of equal length", f"lengths {[len(leaf) for leaf in leaves]}")
    if rows == 0:
        raise refuse("data", "to have at least one row", leaves[0].shape)
    if batch_size > rows:
        raise refuse("batch_size", f"to be at most the {rows} rows of the data", batch_size)
    for leaf in leaves:
        finite("data", leaf)
    sharding = _sharding_of_rows(leaves, batch_size)
    return _Job(loss, _takes_key(loss, with_setting), data, rows, sharding, key, steps, batch_size, float(limit))


def _takes_key(loss: Callable[..., jax.Array], with_setting: bool) -> bool:
    forms = ["(model, batch, setting)", "(model, batch, key, setting)"] if with_setting else [
        "(model, batch)", "(model, batch, key)"]  # fmt: skip
    expected = f"to be a hashable function of {forms[0]} or {forms[1]}"
    try:
        hash(loss)
        parameters = inspect.signature(loss).parameters.values()
    except (TypeError, ValueError):
        raise refuse("loss", expected, repr(loss)) from None
    # A key with a default would silently never be passed.
    needed = [p for p in parameters if p.default is p.empty or p.name == "key"]
    count = len(needed) - with_setting
    plain = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in needed)
    if count not in (2, 3) or not plain:
        raise refuse("loss", expected, f"({', '.join(map(str, parameters))})")
    return count == 3


def _sharding_of_rows(leaves: Sequence[jax.Array], batch_size: int) -> NamedSharding | None:
    """Spread a batch's rows as the data's rows are, or over the whole mesh if every device holds all of them."""
    for leaf in leaves:
        if isinstance(leaf.sharding, NamedSharding):
            mesh, spec = leaf.sharding.mesh, leaf.sharding.spec
            axes = spec[0] if spec and spec[0] is not None else mesh.axis_names
            sharding = NamedSharding(mesh, PartitionSpec(axes))
            devices = int(np.prod([mesh.shape[axis] for axis in ([axes] if isinstance(axes, str) else axes)]))
            if batch_size % devices:
                raise refuse("batch_size", f"to divide over the {devices} devices of the data's mesh", batch_size)
            return sharding
    return None
