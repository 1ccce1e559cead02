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
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from gm_utils.validation import finite, positive_int, refuse

CHUNK_SECONDS = 0.3
BAR_AFTER_SECONDS = 2.0


def minibatch(key: jax.Array, step: int, *, rows: int, batch_size: int) -> tuple[np.ndarray, jax.Array]:
    """Return what ``fit`` uses at a step: the rows drawn, (batch_size,), and the key of the loss.

    A loop written by hand that calls this trains on the same minibatches as ``fit`` with the same key. With
    ``fit_adversarial`` the steps to count are single updates: of the discriminator, then of the generator.
    """
    return rows_of_steps(key, step, 1, rows, batch_size)[0], jax.random.fold_in(key, step)


def rows_of_steps(key: jax.Array, first: int, count: int, rows: int, batch_size: int) -> np.ndarray:
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


class Rules(NamedTuple):
    """What a run does, and what it is compiled for."""

    losses: tuple[Callable[..., jax.Array], ...]  # one for each player
    takes_key: tuple[bool, ...]
    turns: tuple[int, ...]  # the player of each update, over and over
    project: Callable[..., None] | None  # of the first player in turns, after each of its updates
    names: tuple[str, ...]  # of the players, for messages


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
    """What the loop carries; with members, every leaf but ``step`` has a leading axis of them."""

    good: Any  # the newest state that the update after it found finite
    current: Any  # the state one update further, not yet tested
    step: jax.Array  # updates tried
    accepted: jax.Array  # states that have passed; a member is alive while this equals ``step``


@partial(jax.jit, static_argnames=("graphdef", "rules", "members", "sharding"))
def chunk(
    run: Run, data: Any, rows: jax.Array, key: jax.Array, first: jax.Array, count: jax.Array, bound: jax.Array,
    settings: Any, *, graphdef: Any, rules: Rules, members: int | None, sharding: NamedSharding | None,
) -> tuple[Run, jax.Array]:  # fmt: skip
    """Make up to ``count`` updates; return the run and its losses, (capacity,) or (capacity, members)."""
    start, players = run.step, len(rules.losses)

    def move(player: int, current: Any, bound: jax.Array, setting: Any, batch: Any, key: jax.Array) -> Any:
        """Update one player; return the new state, whether the old one passed, and the loss."""
        # Merged models write into the state they were merged from: give them a copy, and keep this one.
        everything = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf, current))
        models, optimizer = everything[:players], everything[players + player]
        extras = (key,) * rules.takes_key[player] + (() if settings is None else (setting,))

        def objective(*models: nnx.Module) -> jax.Array:
            value = rules.losses[player](*models, batch, *extras)
            if getattr(value, "shape", None) != ():
                raise refuse("loss", "to return a scalar", getattr(value, "shape", type(value).__name__))
            return value

        value, gradient = nnx.value_and_grad(objective, argnums=nnx.DiffState(player, optimizer.wrt))(*models)
        passed = jnp.isfinite(value) & (jnp.abs(value) <= bound[player])
        for leaf in jax.tree.leaves(gradient):
            passed &= jnp.isfinite(leaf).all()
        optimizer.update(models[player], gradient)
        if rules.project is not None and player == rules.turns[0]:
            rules.project(models[player], *(() if settings is None else (setting,)))
        return nnx.state(everything), passed, value.astype(jnp.float32)

    def attempt(turn: Any, good: Any, current: Any, alive: jax.Array, *given: Any) -> Any:
        moves = [partial(move, player) for player in range(players)]
        after, passed, value = jax.lax.switch(turn, moves, current, *given)
        passed &= alive
        return jax.tree.map(partial(jnp.where, passed), current, good), after, passed, value

    if members is not None:
        attempt = jax.vmap(attempt, in_axes=(None, 0, 0, 0, 0, 0, None, None))

    def more(carry: tuple[Run, jax.Array]) -> jax.Array:
        run, _ = carry
        return (run.step < start + count) & (run.accepted == run.step).any()

    def body(carry: tuple[Run, jax.Array]) -> tuple[Run, jax.Array]:
        run, losses = carry
        batch = jax.tree.map(lambda leaf: leaf.at[rows[run.step - start]].get(mode="promise_in_bounds"), data)
        step_key = jax.random.fold_in(key, first + run.step)
        if sharding is not None:
            batch = jax.lax.with_sharding_constraint(batch, sharding)
        turn = jnp.asarray(rules.turns)[run.step % len(rules.turns)]
        good, current, passed, value = attempt(
            turn, run.good, run.current, run.accepted == run.step, bound, settings, batch, step_key
        )
        losses = losses.at[run.step - start].set(value)
        return Run(good, current, run.step + 1, run.accepted + passed), losses

    losses = jnp.zeros((len(rows),) if members is None else (len(rows), members), jnp.float32)
    return jax.lax.while_loop(more, body, (run, losses))


class Runner:
    """Calls the chunk until the run is over; ``now`` is the run as far as it came, at any moment."""

    def __init__(
        self, job: Job, graphdef: Any, state: Any, *, first: int = 0, members: int | None = None, settings: Any = None
    ):
        self.job, self.first, self.settings = job, first, settings
        self.fixed = {"graphdef": graphdef, "rules": job.rules, "members": members, "sharding": job.sharding}
        start = Run(state, state, jnp.int32(0), jnp.zeros(() if members is None else (members,), jnp.int32))
        # A weakly typed or plain Python leaf would change its type in the loop, and compile it twice.
        self.now = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype=jnp.result_type(leaf)), start)
        if job.sharding is not None:
            self.now = jax.device_put(self.now, NamedSharding(job.sharding.mesh, PartitionSpec()))  # a copy each

    def run(
        self, progress: bool, *, watch: Callable[[int], None] | None = None, every: int = 1
    ) -> tuple[np.ndarray, dict[int, tuple[int, str]]]:
        """Return the good losses of all updates, (updates,) or (members, updates), else NaN; and who was stopped.

        The second value names for each member refused the update and the reason. ``watch`` is called with the number
        of rounds done, after none and after each ``every`` of them; ``now.good`` is then the state at that moment.
        """
        job = self.job
        capacity = max(64, min(4096, 2**20 // job.batch_size))  # of the rows drawn: at most some megabytes
        turns = job.rules.turns
        total = len(turns) * job.steps + 1  # the last evaluation only tests the last update
        players = range(len(job.rules.losses))
        bound = jnp.full((*self.now.accepted.shape, len(players)), jnp.inf, jnp.float32)
        pieces: list[np.ndarray] = []
        bar = Bar(job.steps) if progress else None
        done, length = 0, len(turns)  # one round first: it compiles, and its losses set the limits
        _give_back_memory()
        try:
            if watch is not None:
                watch(0)
            while done < total and (np.asarray(self.now.accepted) == done).any():
                began = time.perf_counter()
                count = min(length, total - done)
                if watch is not None:
                    rhythm = every * len(turns)
                    # A state counts once the update after it has tested it: stop one update past each mark.
                    count = min(count, (max(done - 1, 0) // rhythm + 1) * rhythm + 1 - done)
                rows = np.zeros((capacity, job.batch_size), np.int32)
                rows[:count] = rows_of_steps(job.key, self.first + done, count, job.rows, job.batch_size)
                self.now, losses = chunk(
                    self.now, job.data, rows, job.key, np.uint32(self.first), np.int32(count), bound, self.settings,
                    **self.fixed,
                )  # fmt: skip
                reached = int(self.now.step)
                pieces.append(np.asarray(losses)[: reached - done])
                if not done:
                    firsts = np.stack([np.asarray(losses[turns.index(player)]) for player in players], axis=-1)
                    bound = jnp.asarray(job.limit * (1.0 + np.abs(firsts)), jnp.float32)
                else:
                    pace = CHUNK_SECONDS / (time.perf_counter() - began)
                    length = max(1, min(4 * length, round(pace * count), capacity))
                done = reached
                if watch is not None and done > 1 and (done - 1) % rhythm == 0:
                    watch((done - 1) // len(turns))
                if bar is not None:
                    bar.show(min(done // len(turns), job.steps), float(np.mean(pieces[-1][-1])))
        finally:
            if bar is not None:
                bar.clear()
            _give_back_memory()
        return self._result(np.concatenate(pieces), np.asarray(bound))

    def _result(self, values: np.ndarray, bound: np.ndarray) -> tuple[np.ndarray, dict[int, tuple[int, str]]]:
        rules = self.job.rules
        accepted, updates = np.asarray(self.now.accepted), self.job.steps * len(rules.turns)
        losses = np.full((*accepted.shape, updates), np.nan, np.float32)
        losses[..., : len(values)] = values[:updates].T
        losses[np.arange(updates) >= accepted[..., None]] = np.nan
        refused = {}
        for member, update in enumerate(np.atleast_1d(accepted).tolist()):
            if update <= updates:
                player = rules.turns[update % len(rules.turns)]
                whose = rules.names[player]
                value = np.atleast_2d(values.T)[member, update]
                limit = np.atleast_2d(bound)[member, player]
                if not np.isfinite(value):
                    reason = f"{whose} loss is {value}"
                elif abs(value) > limit:
                    reason = f"{whose} loss {value:.6g} is beyond the limit of {limit:.6g} in size"
                else:
                    reason = f"{whose} loss is {value:.6g} but its gradient is not finite"
                refused[member] = update, reason
        return losses, refused


def _give_back_memory() -> None:
    """Return freed pages to the system: compiling a loop leaves a hundred megabytes that glibc would keep."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return


class Bar:
    """A line of text in a notebook cell, shown once a run is slow and cleared when it ends."""

    def __init__(self, steps: int):
        self.steps, self.began, self.shown = steps, time.perf_counter(), False
        # A kernel has loaded IPython already; nobody else needs it loaded.
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        self.active = hasattr(shell, "kernel")

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


def split_members(groups: Sequence[Sequence[Any]]) -> tuple[Any, Any]:
    """Split each member's models and optimizers, and stack the states; refuse members that differ."""
    graphdefs, states = zip(*map(nnx.split, map(tuple, groups)), strict=True)
    models = [tuple(one for one in group if not isinstance(one, nnx.Optimizer)) for group in groups]
    shapes = [[leaf.shape for leaf in jax.tree.leaves(nnx.state(group))] for group in models]
    for member in range(1, len(groups)):
        if shapes[member] != shapes[0]:
            raise refuse("models", f"to share the shapes {shapes[0]} of the first", f"{shapes[member]} in {member}")
        if graphdefs[member] != graphdefs[0]:
            raise refuse(
                "models", "to share the first one's structure, with the same objects as attributes",
                f"another structure in {member}",
            )  # fmt: skip
    return graphdefs[0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def put_back(groups: Sequence[Sequence[Any]], state: Any) -> None:
    """Write a stacked state back into the members that it came from."""
    for member, group in enumerate(groups):
        nnx.update(tuple(group), jax.tree.map(lambda leaf, member=member: leaf[member], state))


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
