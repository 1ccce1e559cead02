"""The compiled loop behind ``training``: one or more players take turns, each descending a loss of its own.

A model that trains alone is the case of one player. The rows of every minibatch are drawn first. A compiled
``while_loop`` then makes many updates per call, a *chunk* of about a third of a second, so that a run can be stopped,
watched and interrupted between two chunks. Nothing here is public but what ``training`` passes on.
"""

import ctypes
import inspect
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from gm_utils.validation import finite, positive_int, refuse

CHUNK_SECONDS = 0.3
BAR_AFTER_SECONDS = 2.0
NEVER = np.int32(np.iinfo(np.int32).max)


def minibatch(key: jax.Array, step: int, *, rows: int, batch_size: int) -> tuple[np.ndarray, jax.Array]:
    """Return what ``fit`` uses at a step: the rows drawn, (batch_size,), and the key of the loss.

    A loop written by hand that calls this trains on the same minibatches as ``fit`` with the same key. With
    ``fit_adversarial`` the steps to count are single updates: of the discriminator, then of the generator.

    Raises:
        ValueError: for a batch size that is no whole number from 1 to ``rows``.
    """
    if positive_int("batch_size", batch_size) > rows:
        raise refuse("batch_size", f"to be at most the {rows} rows of the data", batch_size)
    return rows_of_steps(key, step, 1, rows, batch_size)[0], jax.random.fold_in(key, step)


def rows_of_steps(key: jax.Array, first: int, count: int, rows: int, batch_size: int) -> np.ndarray:
    """Draw the rows of ``count`` steps, (count, batch_size).

    NumPy permutes, seeded by the key and the epoch: sorting inside the compiled loop would cost a fifth of a run.
    """
    seed = np.asarray(jax.random.key_data(key)).tolist()
    per_epoch = rows // batch_size
    epoch, begin = divmod(first, per_epoch)
    epochs = range(epoch, (first + count - 1) // per_epoch + 1)
    orders = [np.random.default_rng([*seed, one]).permutation(rows)[: per_epoch * batch_size] for one in epochs]
    return np.concatenate(orders, dtype=np.int32).reshape(-1, batch_size)[begin : begin + count]


class Rules(NamedTuple):
    """What a run does, and what it is compiled for."""

    losses: tuple[Callable[..., jax.Array], ...]  # one for each player
    takes_key: tuple[bool, ...]
    turns: tuple[int, ...]  # the player of each update, over and over
    project: Callable[..., None] | None  # of the first player in turns, after each of its updates
    names: tuple[str, ...]  # of the players


class Job(NamedTuple):
    """A run's checked input; ``steps`` counts rounds of all turns."""

    rules: Rules
    data: Any
    rows: int
    sharding: NamedSharding | None  # of the batch's rows, when the data lies on a mesh
    key: jax.Array
    steps: int
    batch_size: int
    limit: float


class Run(NamedTuple):
    """How far a run has come; with members, every leaf has a leading axis of them.

    The loop keeps no second state to go back to, which would cost a third of a step. Where a loss is refused, the
    ``Runner`` goes back to an older state and repeats the updates since, up to the one before.
    """

    state: Any  # of all models and optimizers
    firsts: jax.Array  # (players,): the first loss of each, NaN before
    refused: jax.Array  # the update whose loss or gradient was refused; NEVER while there is none


@partial(jax.jit, static_argnames=("graphdef", "rules", "members", "sharding"))
def chunk(
    run: Run, limits: jax.Array, data: Any, rows: jax.Array, key: jax.Array, first: jax.Array, start: jax.Array,
    stop: jax.Array, limit: jax.Array, settings: Any, *, graphdef: Any, rules: Rules, members: int | None,
    sharding: NamedSharding | None,
) -> tuple[Run, jax.Array]:  # fmt: skip
    """Evaluate the updates ``start`` to ``stop - 1``, make those below ``limits``, and note the first refused.

    Returns:
        The run and the losses, (capacity,) or (capacity, members), of which the first ``stop - start`` may be filled.
    """
    players = len(rules.losses)

    def move(player: int, now: Run, update: jax.Array, last: Any, setting: Any, batch: Any, key: Any) -> Any:
        """Test a state by one player's loss and gradient, and go on to the next. Return the loss too."""
        # Merged models write into the state they were merged from: give them a copy, and keep this one.
        everything = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf, now.state))
        models, optimizer = everything[:players], everything[players + player]
        extras = (key,) * rules.takes_key[player] + (() if settings is None else (setting,))

        def objective(*models: nnx.Module) -> jax.Array:
            value = rules.losses[player](*models, batch, *extras)
            if getattr(value, "shape", None) != ():
                raise refuse("loss", "to return a scalar", getattr(value, "shape", type(value).__name__))
            return value

        value, gradient = nnx.value_and_grad(objective, argnums=nnx.DiffState(player, optimizer.wrt))(*models)
        value = value.astype(jnp.float32)
        own = now.firsts[player]
        bound = jnp.where(jnp.isnan(own), jnp.inf, limit * (1.0 + jnp.abs(own)))
        passed = jnp.isfinite(value) & (jnp.abs(value) <= bound)
        # No sum with a NaN or an infinity in it is finite; the barrier keeps it from being taken layer by layer.
        for leaf in jax.lax.optimization_barrier(jax.tree.leaves(gradient)):
            passed &= jnp.isfinite(leaf.sum())
        optimizer.update(models[player], gradient)
        if rules.project is not None and player == rules.turns[0]:
            rules.project(models[player], *(() if settings is None else (setting,)))
        active = (now.refused == NEVER) & (update <= last)
        # What follows a refused update does not matter: the chunk is made again, up to the update before.
        state = jax.tree.map(partial(jnp.where, update < last), nnx.state(everything), now.state)
        firsts = now.firsts.at[player].set(jnp.where(jnp.isnan(own), value, own))
        return Run(state, firsts, jnp.where(active & ~passed, update, now.refused)), value

    def attempt(turn: Any, *given: Any) -> Any:
        return jax.lax.switch(turn, [partial(move, player) for player in range(players)], *given)

    if members is not None:
        attempt = jax.vmap(attempt, in_axes=(None, 0, None, 0, 0, None, None))

    def more(carry: tuple[Run, jax.Array, jax.Array]) -> jax.Array:
        run, update, _ = carry
        return (update < stop) & ((run.refused == NEVER) & (update <= limits)).any()

    def body(carry: tuple[Run, jax.Array, jax.Array]) -> tuple[Run, jax.Array, jax.Array]:
        run, update, losses = carry
        batch = jax.tree.map(lambda leaf: leaf.at[rows[update - start]].get(mode="promise_in_bounds"), data)
        step_key = jax.random.fold_in(key, first + update.astype(jnp.uint32))
        if sharding is not None:
            batch = jax.lax.with_sharding_constraint(batch, sharding)
        turn = jnp.asarray(rules.turns)[update % len(rules.turns)]
        run, value = attempt(turn, run, update, limits, settings, batch, step_key)
        return run, update + 1, losses.at[update - start].set(value)

    losses = jnp.zeros((len(rows),) if members is None else (len(rows), members), jnp.float32)
    run, _, losses = jax.lax.while_loop(more, body, (run, start, losses))
    return run, losses


class Runner:
    """Calls the chunk until the run is over; ``good`` is a state that has passed its test, at any moment.

    Each of ``groups`` holds a member's models, then their optimizers. Of ``many`` members, equal in structure, all run
    side by side, and start afresh; a single one goes on with the minibatches where its first optimizer stands.
    """

    def __init__(self, job: Job, groups: Sequence[tuple[Any, ...]], *, many: bool, settings: Any) -> None:
        self.job, self.groups, self.many, self.settings = job, groups, many, settings
        steps_before = 0 if many else int(groups[0][len(job.rules.losses)].step[...])
        self.first = steps_before * len(job.rules.turns)
        graphdef, state = _split_members(groups) if many else nnx.split(groups[0])
        members = len(groups) if many else None
        self.fixed = {"graphdef": graphdef, "rules": job.rules, "members": members, "sharding": job.sharding}
        shape = () if members is None else (members,)
        firsts = np.full((*shape, len(job.rules.losses)), np.nan, np.float32)
        start = Run(state, jnp.asarray(firsts), jnp.full(shape, NEVER))
        # A weakly typed or plain Python leaf would change its type in the loop, and compile it twice.
        self.good = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype=jnp.result_type(leaf)), start)
        if job.sharding is not None:
            self.good = jax.device_put(self.good, NamedSharding(job.sharding.mesh, PartitionSpec()))  # a copy each

    def run(
        self, progress: bool, *, watch: Callable[[int], None] | None = None, every: int = 1
    ) -> tuple[np.ndarray, dict[int, tuple[int, str]]]:
        """Return the good losses of all updates, (updates,) or (members, updates), else NaN; and who was stopped.

        The second value names for each member refused the update and the reason. ``watch`` is called with the number
        of rounds done, after none and after each ``every`` of them; the models then hold their state of that moment.
        When the run ends, in whatever way, they hold their last good state.
        """
        job, turns = self.job, self.job.rules.turns
        capacity = max(64, min(4096, 2**20 // job.batch_size))  # of the rows drawn: at most some megabytes
        total = len(turns) * job.steps
        rhythm = total if watch is None else every * len(turns)  # the updates from one call of watch to the next
        losses = np.full((total, *self.good.refused.shape), np.nan, np.float32)
        limits = np.full(self.good.refused.shape, total, np.int32)  # members make no update from this number on
        refused: dict[int, tuple[int, str]] = {}
        now, good_at, done = self.good, 0, 0  # done: the updates that now has behind it
        length = min(len(turns), capacity - 1)  # of the next chunk; one round first: it compiles
        bar = Bar(job.steps, progress)
        _give_back_memory()
        try:
            if watch is not None:
                watch(0)  # the models still hold the state that they came with
            while good_at < (goal := int(limits.max())):
                began = time.perf_counter()
                end = min(done + length, goal, (done // rhythm + 1) * rhythm)
                # The next chunk tests the state that this one leaves, unless nobody waits for that.
                tested = end == goal or end % rhythm == 0
                rows = np.zeros((capacity, job.batch_size), np.int32)
                count = end - done + tested
                rows[:count] = rows_of_steps(job.key, self.first + done, count, job.rows, job.batch_size)
                after, values = chunk(
                    now, np.minimum(limits, end), job.data, rows, job.key, np.uint32(self.first), np.int32(done),
                    np.int32(done + count), np.float32(job.limit), self.settings, **self.fixed,
                )  # fmt: skip
                offenders = self._refused(after, np.asarray(values), done)
                if offenders:
                    refused |= offenders
                    for member, (update, _) in offenders.items():
                        limits[member if limits.ndim else ()] = update - 1  # the state before the one that failed
                    now, done = self.good, good_at
                    continue
                filled = losses[done : done + count]  # without the test of the run's last state
                filled[:] = np.asarray(values)[: len(filled)]
                pace = CHUNK_SECONDS / (time.perf_counter() - began)
                length = max(1, min(4 * length, round(pace * count) if done else length, capacity - 1))
                self.good, good_at = (after, end) if tested else (now, done)
                now, done = after, end
                if watch is not None and done % rhythm == 0:
                    self._put_back()
                    watch(done // len(turns))
                bar.show(min(done // len(turns), job.steps), float(np.mean(losses[done - 1])))
        finally:
            self._put_back()
            bar.clear()
            _give_back_memory()
        for member, (update, _) in refused.items():
            losses.reshape(total, -1)[update:, member] = np.nan
        return losses.T, dict(sorted(refused.items()))

    def _refused(self, after: Run, values: np.ndarray, start: int) -> dict[int, tuple[int, str]]:
        """Return the update and the reason for each member that was refused."""
        rules, refused = self.job.rules, {}
        firsts, values = np.atleast_2d(after.firsts), values.reshape(len(values), -1)
        for member, update in enumerate(np.atleast_1d(after.refused).tolist()):
            if update != NEVER:
                player = rules.turns[update % len(rules.turns)]
                whose = f"the {rules.names[player]}'s" if len(rules.names) > 1 else "its"
                value = values[update - start, member]
                limit = self.job.limit * (1.0 + abs(float(firsts[member, player])))
                if not np.isfinite(value):
                    reason = f"{whose} loss is {value}"
                elif abs(value) > limit:
                    reason = f"{whose} loss {value:.6g} is beyond the limit of {limit:.6g} in size"
                else:
                    reason = f"{whose} loss is {value:.6g} but its gradient is not finite"
                refused[member] = update, reason
        return refused

    def _put_back(self) -> None:
        """Write the good state back into the models; the optimizers of ``many`` members end with the run."""
        state = self.good.state
        if not self.many:
            nnx.update(self.groups[0], state)
            return
        players = len(self.job.rules.losses)
        # Of plain dicts: flax 0.11 cannot read a State that holds States.
        leaves, structure = jax.tree.flatten(nnx.State({k: state.raw_mapping[k] for k in range(players)}))
        for group, values in zip(self.groups, zip(*map(_unstack, leaves), strict=True), strict=True):
            nnx.update(group[:players], jax.tree.unflatten(structure, values))


def _give_back_memory() -> None:
    """Return freed pages to the system: compiling a loop leaves a hundred megabytes that glibc would keep."""
    with suppress(AttributeError, OSError, TypeError):  # another C library, or Windows
        ctypes.CDLL(None).malloc_trim(0)


class Bar:
    """A line of text in a notebook cell, shown once a run is slow and cleared when it ends."""

    def __init__(self, steps: int, wanted: bool):
        self.steps, self.began, self.shown = steps, time.perf_counter(), False
        # A kernel has loaded IPython already; nobody else needs it loaded.
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        self.active = wanted and hasattr(shell, "kernel")

    def show(self, step: int, loss: float) -> None:
        """Draw the bar anew, unless the run is still young or over."""
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
        """Leave nothing behind."""
        if self.shown:
            from IPython.display import clear_output

            clear_output()


def prepare(rules: Rules, data: Any, key: Any, steps: Any, batch_size: Any, limit: float) -> Job:
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
    return Job(rules, data, rows, sharding, key, steps, batch_size, float(limit))


def takes_key(loss: Callable[..., jax.Array], models: str, *, with_setting: bool) -> bool:
    """Return whether a loss of the models, named in ``models``, and of a batch wants a key; refuse other forms."""
    tail = ", setting)" if with_setting else ")"
    expected = f"to be a hashable function of ({models}, batch{tail} or ({models}, batch, key{tail}"
    try:
        hash(loss)
        parameters = inspect.signature(loss).parameters.values()
    except (TypeError, ValueError):
        raise refuse("loss", expected, repr(loss)) from None
    # A key with a default would silently never be passed.
    needed = [p for p in parameters if p.default is p.empty or p.name == "key"]
    count = len(needed) - with_setting - models.count(",")
    plain = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in needed)
    if count not in (2, 3) or not plain:
        raise refuse("loss", expected, f"({', '.join(map(str, parameters))})")
    return count == 3


def _split_members(groups: Sequence[tuple[Any, ...]]) -> tuple[Any, Any]:
    """Split each member's models and optimizers, and stack the states; refuse members that differ."""
    graphdefs, states = zip(*map(nnx.split, groups), strict=True)
    shapes = [[leaf.shape for leaf in jax.tree.leaves(nnx.state(group[: len(group) // 2]))] for group in groups]
    for member in range(1, len(groups)):
        if shapes[member] != shapes[0]:
            raise refuse("models", f"to share the shapes {shapes[0]} of the first", f"{shapes[member]} in {member}")
        if graphdefs[member] != graphdefs[0]:
            expected = "to share the first one's structure, with the same objects as attributes"
            raise refuse("models", expected, f"another structure in {member}")
    return graphdefs[0], jax.tree.map(lambda *leaves: _stack(leaves), *states)


def _stack(leaves: Sequence[jax.Array]) -> jax.Array:
    """Stack on the host where that is possible: eagerly, JAX would compile a program for each number and shape."""
    return jnp.asarray(np.stack(leaves)) if all(map(_plain, leaves)) else jnp.stack(leaves)


def _unstack(leaf: jax.Array) -> list[jax.Array]:
    return jax.device_put(list(np.asarray(leaf)), leaf.sharding) if _plain(leaf) else list(leaf)


def _plain(leaf: jax.Array) -> bool:
    """Tell whether ``leaf`` is numbers on one device: no keys, nothing that is spread over a mesh."""
    return isinstance(leaf.sharding, SingleDeviceSharding) and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)


def settings_of(settings: Any, members: int) -> Any:
    """Return the settings as arrays, after checking that each has one entry a member."""
    settings = jax.tree.map(jnp.asarray, settings)
    for leaf in jax.tree.leaves(settings):
        if leaf.shape[:1] != (members,):
            raise refuse("settings", f"to have a leading axis of {members}, one entry a model", leaf.shape)
    return settings


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
