"""Train in one compiled loop: ``fit``, ``fit_adversarial`` for two models in turn, and ``_many`` of either at once.

All four share one loop (see ``loop``). It is compiled once for the models' structure, the losses and the optax
objects: reuse these objects, and a second run starts at once, whatever its number of steps.

>>> def loss(model, batch):
...     return ((model(batch) - 3 * batch) ** 2).mean()
>>> model, x = nnx.Linear(1, 1, rngs=nnx.Rngs(0)), jnp.linspace(-1, 1, 64)[:, None]
>>> losses = fit(model, loss, x, key=jax.random.key(0), steps=300, batch_size=16, optimizer=optax.adam(0.1))
>>> losses.shape, bool(losses[-1] < 1e-3 < losses[0])
((300,), True)
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from gm_utils.loop import Job, Rules, Runner, minibatch, prepare, settings_of, takes_key
from gm_utils.validation import positive_int, refuse

__all__ = ["Diverged", "fit", "fit_adversarial", "fit_adversarial_many", "fit_many", "minibatch"]

Loss: TypeAlias = Callable[..., jax.Array]
Optimizer: TypeAlias = optax.GradientTransformation | nnx.Optimizer
_ADVERSARIES = ("generator", "discriminator")


class Diverged(RuntimeError):
    """Training met a loss or a gradient that it refuses; the model keeps its last good state.

    Attributes:
        step: the step refused, counted from 0 (``steps`` itself when only the very last update was bad). Of several
            members, the earliest.
        loss: the last good loss before that step, in the loss's own unit; NaN if there was none. Of two adversaries,
            the loss of the one that was refused.
        losses: after ``fit`` the good losses, (step,); after ``fit_many`` (models, steps), NaN from a member's
            refused step on. After the adversarial runs the same with a leading axis of 2, as they return it.
        members: after ``fit_many`` and ``fit_adversarial_many`` the refused step of each diverged member,
            ``{member: step}``; empty after a single run.
    """

    def __init__(self, message: str, *, step: int, loss: float, losses: jax.Array, members: dict[int, int]):
        super().__init__(message)
        self.step, self.loss, self.losses, self.members = step, loss, losses, members


def fit(
    model: nnx.Module,
    loss: Loss,
    data: Any,
    *,
    key: jax.Array,
    steps: int,
    batch_size: int,
    optimizer: Optimizer,
    project: Callable[..., None] | None = None,
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
        project: ``project(model)``, called after each update, which changes the model in place; it may clip weights.
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
    _refuse_other_than_modules("model", [model])
    return _train(
        ("model",), [(model,)], (loss,), (optimizer,), (0,), data, key=key, steps=steps, batch_size=batch_size,
        project=project, divergence_limit=divergence_limit, progress=progress,
    )  # fmt: skip


def fit_many(
    models: Sequence[nnx.Module],
    loss: Loss,
    data: Any,
    *,
    key: jax.Array,
    steps: int,
    batch_size: int,
    optimizer: optax.GradientTransformation,
    settings: Any = None,
    project: Callable[..., None] | None = None,
    divergence_limit: float = 1e6,
    progress: bool = True,
) -> jax.Array:
    """Train several models of one structure together, in one vectorised run under one compilation.

    All members see the same minibatches and the same loss keys: those that ``fit`` with this key would give. The
    comparison is therefore paired, and each member learns what it would learn alone. A member that diverges stops at
    its last good state while the others go on; the exception comes at the end, with every model updated.

    Arguments are those of ``fit``, but for

    - ``models``: different objects of equal structure and shapes; their parameters may differ.
    - ``optimizer``: an optax transformation; each member starts it afresh.
    - ``settings``: an array or a pytree of arrays with a leading axis of one entry a model, such as a weight or a rate.
      Loss and ``project`` then take their member's setting as one more, last argument: ``loss(model, batch, setting)``
      or ``loss(model, batch, key, setting)``, ``project(model, setting)``.
    - ``divergence_limit``: holds with each member's own first loss.

    Returns:
        The losses, (models, steps), float32.

    Raises:
        ValueError: as ``fit``; also for models that differ in structure or shapes, and for settings of another length.
        Diverged: after the run, if any member was stopped; ``.members`` names them.
    """
    _refuse_other_than_modules("models", models)
    return _train(
        ("model",), [(model,) for model in models], (loss,), (optimizer,), (0,), data, many=True, key=key, steps=steps,
        batch_size=batch_size, settings=settings, project=project, divergence_limit=divergence_limit, progress=progress,
    )  # fmt: skip


def fit_adversarial(
    generator: nnx.Module,
    discriminator: nnx.Module,
    data: Any,
    *,
    losses: tuple[Loss, Loss],
    optimizers: tuple[Optimizer, Optimizer],
    key: jax.Array,
    steps: int,
    batch_size: int,
    discriminator_steps: int = 1,
    project: Callable[..., None] | None = None,
    watch: Callable[[int], None] | None = None,
    every: int = 1,
    divergence_limit: float = 1e6,
    progress: bool = True,
) -> jax.Array:
    """Train two models in turn, each on a loss of its own; both are updated in place.

    One step is a round: ``discriminator_steps`` updates of the discriminator, then one of the generator. An update
    changes the parameters of one of the two; the other is frozen. Goodfellow et al. (2014, arXiv:1406.2661),
    algorithm 1; Arjovsky, Chintala and Bottou (2017, arXiv:1701.07875), algorithm 1, with ``project`` to clip weights.

    Each update draws a minibatch and a key: update u of a run, counted over both models from 0, uses
    ``minibatch(key, u, ...)``. As in ``fit``, a state of the pair is kept only after the loss and gradient that the
    *next* update takes from it were found finite and within ``divergence_limit * (1 + |that model's first loss|)``.

    Arguments are those of ``fit``, but for

    - ``generator``, ``discriminator``: any ``nnx.Module`` with parameters; a critic just as well.
    - ``losses``: of the generator and of the discriminator, in this order, each
      ``loss(generator, discriminator, batch)`` or ``loss(generator, discriminator, batch, key)`` -> scalar, to be
      minimised. Draw the noise of the fakes from the key.
    - ``optimizers``: of the generator and of the discriminator. Where the generator's is an ``nnx.Optimizer`` with s
      steps behind it, minibatches go on from round s.
    - ``steps``: number of rounds, which is the number of the generator's updates.
    - ``discriminator_steps``: updates of the discriminator in a round.
    - ``project``: ``project(discriminator)``, called after each of its updates, which changes it in place.
    - ``watch``: called with the number of rounds done, before the first and after each ``every`` of them, while both
      models hold their state of that moment: the place to keep a snapshot.

    Returns:
        The losses, (2, steps), float32, generator first: ``g, d = fit_adversarial(...)``. That of the discriminator
        is the mean over its updates of the round; all were computed before the updates.

    Raises:
        ValueError: as ``fit``.
        Diverged: when an update is refused by the rule above; ``.step`` is its round.
    """
    _refuse_other_than_modules("generator and discriminator", [generator, discriminator])
    return _train(
        _ADVERSARIES, [(generator, discriminator)], _pair("losses", losses), _pair("optimizers", optimizers),
        _round(discriminator_steps), data, key=key, steps=steps, batch_size=batch_size, project=project, watch=watch,
        every=every, divergence_limit=divergence_limit, progress=progress,
    )  # fmt: skip


def fit_adversarial_many(
    generators: Sequence[nnx.Module],
    discriminators: Sequence[nnx.Module],
    data: Any,
    *,
    losses: tuple[Loss, Loss],
    optimizers: tuple[optax.GradientTransformation, optax.GradientTransformation],
    key: jax.Array,
    steps: int,
    batch_size: int,
    discriminator_steps: int = 1,
    settings: Any = None,
    project: Callable[..., None] | None = None,
    watch: Callable[[int], None] | None = None,
    every: int = 1,
    divergence_limit: float = 1e6,
    progress: bool = True,
) -> jax.Array:
    """Train several pairs together, in one vectorised run under one compilation.

    To ``fit_adversarial`` what ``fit_many`` is to ``fit``: all pairs see the same minibatches and keys, a pair that
    diverges stops alone. With ``settings`` the pairs may differ in anything that the losses and ``project`` can read
    from a setting, for example in the loss itself: ``jnp.stack([one, another])[setting["kind"]]``.

    Arguments are those of ``fit_adversarial``, but for

    - ``generators``: different objects of equal structure and shapes; as many ``discriminators``, likewise.
    - ``optimizers``: optax transformations; each pair starts them afresh.
    - ``settings``: as for ``fit_many``, one entry a pair; losses and ``project`` take it as one more, last argument.
    - ``divergence_limit``: holds with each pair's own first losses.

    Returns:
        The losses, (2, pairs, steps), float32, generators first.

    Raises:
        ValueError: as ``fit_many``; also for lists of unequal length.
        Diverged: after the run, if any pair was stopped; ``.members`` names them.
    """
    _refuse_other_than_modules("generators", generators)
    _refuse_other_than_modules("discriminators", discriminators)
    if len(generators) != len(discriminators):
        raise refuse("discriminators", f"to be {len(generators)}, one a generator", len(discriminators))
    return _train(
        _ADVERSARIES, list(zip(generators, discriminators, strict=True)), _pair("losses", losses),
        _pair("optimizers", optimizers), _round(discriminator_steps), data, many=True, key=key, steps=steps,
        batch_size=batch_size, settings=settings, project=project, watch=watch, every=every,
        divergence_limit=divergence_limit, progress=progress,
    )  # fmt: skip


def _train(
    names: tuple[str, ...], models: Sequence[tuple[nnx.Module, ...]], losses: tuple[Loss, ...],
    optimizers: tuple[Any, ...], turns: tuple[int, ...], data: Any, *, key: Any, steps: Any, batch_size: Any,
    project: Callable[..., None] | None, divergence_limit: float, progress: bool, many: bool = False,
    settings: Any = None, watch: Callable[[int], None] | None = None, every: int = 1,
) -> jax.Array:  # fmt: skip
    """Train what all four train: members, one unless ``many``, each a tuple of players, one or two.

    A player has a name, a loss and an optimizer; ``turns`` names the player of each update of a round. Of ``many``
    members all run side by side, their optimizers start afresh, and the losses have an axis of members.
    """
    with jax.numpy_dtype_promotion("standard"):  # optax mixes Python and array types
        groups: list[tuple[Any, ...]] = [
            (*group, *(_started(*pair, continues=not many) for pair in zip(group, optimizers, strict=True)))
            for group in models
        ]
        settings = settings_of(settings, len(models))
        keys = tuple(takes_key(loss, ", ".join(names), with_setting=settings is not None) for loss in losses)
        job = prepare(Rules(losses, keys, turns, project, names), data, key, steps, batch_size, divergence_limit)
        for name, model, optimizer in zip(names, groups[0], groups[0][len(names) :], strict=False):
            if not jax.tree.leaves(nnx.state(model, optimizer.wrt)):
                raise refuse(name, "to have parameters (nnx.Param)", "none")
        runner = Runner(job, groups, many=many, settings=settings)
        values, refused = runner.run(progress, watch=watch, every=positive_int("every", every))
    rounds = values if len(names) == 1 else _by_round(values, job)
    if not refused:
        return jnp.asarray(rounds)
    first_out = min(refused, key=lambda member: refused[member][0])
    update, reason = refused[first_out]
    step, last = update // len(turns), _last_good(values[first_out] if many else values, update, turns)
    if not many:
        whose, kept = ("the", "the model keeps its") if len(names) == 1 else ("its", "both models keep their")
        words = f"training diverged at step {step}: {reason}; {whose} last good loss was {last:.6g}, and {kept}"
        good = jnp.asarray(rounds[..., :step])
        raise Diverged(f"{words} last good state", step=step, loss=last, losses=good, members={})
    members = {member: at // len(turns) for member, (at, _) in refused.items()}
    told = "; ".join(f"member {member} at step {members[member]}: {reason}" for member, (_, reason) in refused.items())
    words = f"{len(refused)} of {len(models)} members diverged ({told}); each model keeps its last good state"
    raise Diverged(words, step=step, loss=last, losses=jnp.asarray(rounds), members=members)


def _by_round(values: np.ndarray, job: Job) -> np.ndarray:
    """Return losses of rounds, (2, ..., steps), generator first, from those of updates, (..., updates)."""
    parts = values.reshape(*values.shape[:-1], job.steps, len(job.rules.turns))
    return np.stack([parts[..., -1], parts[..., :-1].mean(axis=-1)])


def _last_good(values: np.ndarray, update: int, turns: tuple[int, ...]) -> float:
    """Return the last loss before ``update`` of the player that was refused there; NaN if there was none."""
    mine = [at for at in range(update) if turns[at % len(turns)] == turns[update % len(turns)]]
    return float(values[mine[-1]]) if mine else float("nan")


def _round(discriminator_steps: Any) -> tuple[int, ...]:
    return (1,) * positive_int("discriminator_steps", discriminator_steps) + (0,)


def _pair(what: str, given: Any) -> tuple[Any, Any]:
    alone = isinstance(given, optax.GradientTransformation)  # which is a tuple of two itself
    if not isinstance(given, tuple | list) or len(given) != 2 or alone:
        raise refuse(what, "to be a pair: the generator's, the discriminator's", repr(given))
    return given[0], given[1]


def _started(model: nnx.Module, optimizer: Any, *, continues: bool) -> nnx.Optimizer:
    if continues and isinstance(optimizer, nnx.Optimizer):
        return optimizer
    if not isinstance(optimizer, optax.GradientTransformation):
        raise refuse("optimizer", "to be an optax transformation (or, for one run, an nnx.Optimizer)", repr(optimizer))
    return nnx.Optimizer(model, optimizer, wrt=nnx.Param)


def _refuse_other_than_modules(what: str, models: Sequence[Any]) -> None:
    several = isinstance(models, list | tuple)
    if not several or not models or not all(isinstance(model, nnx.Module) for model in models):
        kinds = [type(model).__name__ for model in models] if several else type(models).__name__
        one = what == "model"
        raise refuse(what, "to be an nnx.Module" if one else "to be a list of nnx modules", kinds[0] if one else kinds)
    if len({id(model) for model in models}) < len(models):
        raise refuse(what, "to be different objects", "one of them twice")
