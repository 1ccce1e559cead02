"""Train in one compiled loop: ``fit``, ``fit_adversarial`` for two models in turn, and ``_many`` of either at once.

All four share one loop (see ``loop``). It is compiled once for the models' structure, the losses and the optax
objects: reuse these objects, and a second run starts at once, whatever its number of steps.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from gm_utils.loop import Job, Rules, Runner, minibatch, prepare, put_back, settings_of, split_members, takes_key
from gm_utils.validation import positive_int, refuse

__all__ = ["Diverged", "fit", "fit_adversarial", "fit_adversarial_many", "fit_many", "minibatch"]

Loss: TypeAlias = Callable[..., jax.Array]
Optimizer: TypeAlias = optax.GradientTransformation | nnx.Optimizer


class Diverged(RuntimeError):
    """Training met a loss or a gradient that it refuses; the model keeps its last good state.

    Attributes:
        step: the step refused, counted from 0 (``steps`` itself when only the very last update was bad). Of several
            members, the earliest.
        loss: the last good loss before that step, in the loss's own unit; NaN if there was none. Of two adversaries,
            the loss of the one that was refused.
        losses: after ``fit`` the good losses, (step,); after ``fit_many`` (models, steps), NaN from a member's
            refused step on. After the adversarial runs the same with a leading axis of 2, as they return it.
        members: after ``fit_many`` the refused step of each diverged member, ``{member: step}``; empty after ``fit``.
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
    with jax.numpy_dtype_promotion("standard"):  # optax mixes Python and array types
        _refuse_other_than_modules("model", [model])
        own = _started(model, optimizer)
        rules = _rules_of_one(loss, project, with_setting=False)
        job = prepare(rules, data, key, steps, batch_size, divergence_limit)
        _refuse_without_parameters("model", model, own)
        graphdef, state = nnx.split((model, own))
        runner = Runner(job, graphdef, state, first=int(own.step[...]))
        try:
            losses, refused = runner.run(progress)
        finally:
            nnx.update((model, own), runner.good.state)
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
        project: as for ``fit``; with ``settings``, ``project(model, setting)``.
        divergence_limit: as for ``fit``, with each member's own first loss.
        progress: as for ``fit``.

    Returns:
        The losses, (models, steps), float32.

    Raises:
        ValueError: as ``fit``; also for models that differ in structure or shapes, and for settings of another length.
        Diverged: after the run, if any member was stopped; ``.members`` names them.
    """
    with jax.numpy_dtype_promotion("standard"):
        _refuse_other_than_modules("models", models)
        groups = [(model, _fresh(model, optimizer)) for model in models]
        settings = settings_of(settings, len(models))
        rules = _rules_of_one(loss, project, with_setting=settings is not None)
        job = prepare(rules, data, key, steps, batch_size, divergence_limit)
        graphdef, state = split_members(groups)
        _refuse_without_parameters("model", *groups[0])
        runner = Runner(job, graphdef, state, members=len(models), settings=settings)
        try:
            losses, refused = runner.run(progress)
        finally:
            put_back(groups, runner.good.state)
    if refused:
        first_out = min(refused, key=lambda member: refused[member][0])
        step = refused[first_out][0]
        last = float(losses[first_out, step - 1]) if step else float("nan")
        raise _members_diverged(len(models), refused, 1, step=step, loss=last, losses=losses)
    return jnp.asarray(losses)


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

    Args:
        generator: any ``nnx.Module`` with parameters.
        discriminator: any ``nnx.Module`` with parameters; a critic just as well.
        data: as for ``fit``.
        losses: of the generator and of the discriminator, in this order, each
            ``loss(generator, discriminator, batch)`` or ``loss(generator, discriminator, batch, key)`` -> scalar,
            to be minimised. Draw the noise of the fakes from the key.
        optimizers: of the generator and of the discriminator, each as for ``fit``. Where the generator's is an
            ``nnx.Optimizer`` with s steps behind it, minibatches go on from round s.
        key: as for ``fit``.
        steps: number of rounds, which is the number of the generator's updates.
        batch_size: rows of a minibatch.
        discriminator_steps: updates of the discriminator in a round.
        project: ``project(discriminator)``, called after each of its updates, which changes it in place.
        watch: called with the number of rounds done, before the first and after each ``every`` of them, while both
            models hold their state of that moment: the place to keep a snapshot.
        every: see ``watch``.
        divergence_limit: see above.
        progress: as for ``fit``.

    Returns:
        The losses, (2, steps), float32, generator first: ``g, d = fit_adversarial(...)``. That of the discriminator
        is the mean over its updates of the round; all were computed before the updates.

    Raises:
        ValueError: as ``fit``.
        Diverged: when an update is refused by the rule above; ``.step`` is its round.
    """
    with jax.numpy_dtype_promotion("standard"):
        _refuse_other_than_modules("generator and discriminator", [generator, discriminator])
        optimizers = _pair("optimizers", optimizers)
        own = [_started(generator, optimizers[0]), _started(discriminator, optimizers[1])]
        rules = _rules_of_two(losses, discriminator_steps, project, with_setting=False)
        job = prepare(rules, data, key, steps, batch_size, divergence_limit)
        group = (generator, discriminator, *own)
        for name, model, optimizer in (("generator", generator, own[0]), ("discriminator", discriminator, own[1])):
            _refuse_without_parameters(name, model, optimizer)
        graphdef, state = nnx.split(group)
        runner = Runner(job, graphdef, state, first=int(own[0].step[...]) * len(rules.turns))

        def seen(step: int) -> None:
            nnx.update(group, runner.good.state)
            watch(step)  # type: ignore[misc]

        try:
            values, refused = runner.run(progress, watch=watch and seen, every=positive_int("every", every))
        finally:
            nnx.update(group, runner.good.state)
    rounds = _by_round(values, job)
    if refused:
        update, reason = refused[0]
        last, step = _last_good(values, update, rules), update // len(rules.turns)
        raise Diverged(
            f"training diverged at step {step}: {reason}; its last good loss was {last:.6g}, "
            "and both models keep their last good state",
            step=step, loss=last, losses=jnp.asarray(rounds[:, :step]), members={},
        )  # fmt: skip
    return jnp.asarray(rounds)


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

    Args:
        generators: different objects of equal structure and shapes.
        discriminators: as many.
        data: as for ``fit``.
        losses: as for ``fit_adversarial``; with ``settings``, each takes its pair's setting as one more, last argument.
        optimizers: of the generators and of the discriminators; each pair starts them afresh.
        key: as for ``fit``.
        steps: number of rounds.
        batch_size: rows of a minibatch.
        discriminator_steps: as for ``fit_adversarial``.
        settings: as for ``fit_many``.
        project: as for ``fit_adversarial``; with ``settings``, ``project(discriminator, setting)``.
        watch: as for ``fit_adversarial``; a pair that was stopped keeps its last good state.
        every: see ``watch``.
        divergence_limit: as for ``fit_adversarial``, with each pair's own first losses.
        progress: as for ``fit``.

    Returns:
        The losses, (2, pairs, steps), float32, generators first.

    Raises:
        ValueError: as ``fit_many``; also for lists of unequal length.
        Diverged: after the run, if any pair was stopped; ``.members`` names them.
    """
    with jax.numpy_dtype_promotion("standard"):
        _refuse_other_than_modules("generators", generators)
        _refuse_other_than_modules("discriminators", discriminators)
        if len(generators) != len(discriminators):
            raise refuse("discriminators", f"to be {len(generators)}, one a generator", len(discriminators))
        of_g, of_d = _pair("optimizers", optimizers)
        pairs = zip(generators, discriminators, strict=True)
        groups = [(g, d, _fresh(g, of_g), _fresh(d, of_d)) for g, d in pairs]
        settings = settings_of(settings, len(groups))
        rules = _rules_of_two(losses, discriminator_steps, project, with_setting=settings is not None)
        job = prepare(rules, data, key, steps, batch_size, divergence_limit)
        graphdef, state = split_members(groups)
        _refuse_without_parameters("generator", groups[0][0], groups[0][2])
        _refuse_without_parameters("discriminator", groups[0][1], groups[0][3])
        runner = Runner(job, graphdef, state, members=len(groups), settings=settings)

        def seen(step: int) -> None:
            put_back(groups, runner.good.state)
            watch(step)  # type: ignore[misc]

        try:
            values, refused = runner.run(progress, watch=watch and seen, every=positive_int("every", every))
        finally:
            put_back(groups, runner.good.state)
    rounds = _by_round(values, job)
    if refused:
        first_out = min(refused, key=lambda member: refused[member][0])
        update, turns = refused[first_out][0], len(rules.turns)
        last = _last_good(values[first_out], update, rules)
        raise _members_diverged(len(groups), refused, turns, step=update // turns, loss=last, losses=rounds)
    return jnp.asarray(rounds)


def _members_diverged(
    count: int, refused: dict[int, tuple[int, str]], turns: int, *, step: int, loss: float, losses: np.ndarray
) -> Diverged:
    told = "; ".join(f"member {member} at step {at // turns}: {reason}" for member, (at, reason) in refused.items())
    return Diverged(
        f"{len(refused)} of {count} members diverged ({told}); each model keeps its last good state",
        step=step, loss=loss, losses=jnp.asarray(losses),
        members={member: at // turns for member, (at, _) in refused.items()},
    )  # fmt: skip


def _by_round(values: np.ndarray, job: Job) -> np.ndarray:
    """Return losses of rounds, (2, ..., steps), generator first, from those of updates, (..., updates)."""
    parts = values.reshape(*values.shape[:-1], job.steps, len(job.rules.turns))
    return np.stack([parts[..., -1], parts[..., :-1].mean(axis=-1)])


def _last_good(values: np.ndarray, update: int, rules: Rules) -> float:
    """Return the last loss before ``update`` of the player that was refused there; NaN if there was none."""
    player = [rules.turns[at % len(rules.turns)] for at in range(update + 1)]
    mine = [at for at in range(update) if player[at] == player[update]]
    return float(values[mine[-1]]) if mine else float("nan")


def _rules_of_one(loss: Loss, project: Callable[..., None] | None, *, with_setting: bool) -> Rules:
    return Rules((loss,), (takes_key(loss, "model", with_setting=with_setting),), (0,), project, ("its",))


def _rules_of_two(
    losses: tuple[Loss, Loss], discriminator_steps: int, project: Callable[..., None] | None, *, with_setting: bool
) -> Rules:
    losses = _pair("losses", losses)
    keys = tuple(takes_key(loss, "generator, discriminator", with_setting=with_setting) for loss in losses)
    turns = (1,) * positive_int("discriminator_steps", discriminator_steps) + (0,)
    return Rules(losses, keys, turns, project, ("the generator's", "the discriminator's"))


def _pair(what: str, given: Any) -> tuple[Any, Any]:
    alone = isinstance(given, optax.GradientTransformation)  # which is a tuple of two itself
    if not isinstance(given, tuple | list) or len(given) != 2 or alone:
        raise refuse(what, "to be a pair: the generator's, the discriminator's", repr(given))
    return given[0], given[1]


def _started(model: nnx.Module, optimizer: Any) -> nnx.Optimizer:
    return optimizer if isinstance(optimizer, nnx.Optimizer) else _fresh(model, optimizer)


def _fresh(model: nnx.Module, optimizer: Any) -> nnx.Optimizer:
    if not isinstance(optimizer, optax.GradientTransformation):
        raise refuse("optimizer", "to be an optax transformation (or, for one run, an nnx.Optimizer)", repr(optimizer))
    return nnx.Optimizer(model, optimizer, wrt=nnx.Param)


def _refuse_other_than_modules(what: str, models: Sequence[Any]) -> None:
    if not models or not all(isinstance(model, nnx.Module) for model in models):
        kinds = [type(model).__name__ for model in models]
        one = what == "model"
        raise refuse(what, "to be an nnx.Module" if one else "to be a list of nnx modules", kinds[0] if one else kinds)
    if len({id(model) for model in models}) < len(models):
        raise refuse(what, "to be different objects", "one of them twice")


def _refuse_without_parameters(what: str, model: nnx.Module, optimizer: nnx.Optimizer) -> None:
    if not jax.tree.leaves(nnx.state(model, optimizer.wrt)):
        raise refuse(what, "to have parameters (nnx.Param)", "none")
