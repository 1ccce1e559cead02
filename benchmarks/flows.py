"""Masked autoregressive flows side by side: gm_utils, flowjax, nflows, normflows and zuko.

Run by hand, in an environment of its own (Python 3.11, from the root of the checkout; the last line takes minutes):

    uv venv --python 3.11 .venv-peers
    uv pip install --python .venv-peers -r requirements.txt
    uv pip install --python .venv-peers --no-deps -e .
    uv pip install --python .venv-peers -c requirements.txt torch nflows normflows zuko flowjax
    .venv-peers/bin/python benchmarks/flows.py [rounds]

The figures in README.md come from torch 2.13.0 (the CPU build), nflows 0.14, normflows 1.7.3, zuko 1.6.0 and flowjax
19.1.2. Everything runs on one thread, each library in a process of its own, the libraries in turn within a round.
Times are CPU seconds of the process, without imports; the tables show medians over rounds. Leave the machine alone
meanwhile: neighbours take caches and half of a core that has two threads, and the seconds count more then.

All flows have 5 affine autoregressive layers, reversed from one to the next, with two hidden layers of 64 units in 2-D
and of 256 in 64-D; all see the same standardised data in batches of 256, with Adam and the same schedule. Each library
keeps its own initial weights and its own map from a network's output to a scale. PyTorch's libraries run the usual
loop, flowjax its own compiled ``step``. normflows' layer is wrapped in its ``Reverse``: as it comes it is the inverse
flow, whose density in 64-D takes fifty times as long. Its scale, a sigmoid, cannot exceed 1 that way, which costs nats.

- first call: from building the flow to the end of the first step, compilation included; "warm" is gm_utils with JAX's
  persistent compilation cache filled by an earlier process.
- gap: mean of log p(x) - log q(x) over 50,000 fresh points, in nats; the truth is 0.
- digits: values logit(0.01 + 0.98 (grey level + uniform noise) / 17) in 64-D, with fresh noise in every step, scored in
  nats in that space. The last 200 of the 1,500 training rows choose the step; the 297 test rows only report.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BATCH = 256
LAYERS = 5
STEPS = {"banana": 2000, "moons": 2000, "digits": 500, "speed": 500}
RATES = {"banana": 3e-3, "moons": 3e-3, "digits": 1e-3, "speed": 1e-3}
SMOOTH = ("digits",)  # tasks on which all libraries use tanh units; on the others they use ReLU
SAMPLES = 10_000
LIBRARIES = ["gm_utils", "flowjax", "nflows", "normflows", "zuko"]
# NPROC is the size of XLA's pool: with two threads a small step takes no less time and half as many CPU seconds again.
ONE_THREAD = dict.fromkeys(("NPROC", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
CACHE = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}


class Task:
    """What is learnt: data in its own space, its scale, and how a batch is made of rows."""

    def __init__(self, name: str):
        import jax

        from gm_utils import data

        self.name, self.steps, self.rate = name, STEPS[name], RATES[name]
        self.plane = name in ("banana", "moons")
        self.features, self.width = (2, 64) if self.plane else (64, 256)
        if self.plane:
            self.density = {"banana": data.banana, "moons": data.two_moons}[name]
            self.rows = np.asarray(self.density.sample(jax.random.key(0), 100_000))
            self.fresh = np.asarray(self.density.sample(jax.random.key(1), 50_000))
            sample = self.rows
        else:
            digits = data.digits()
            grey = np.asarray(digits.train)
            rng = np.random.default_rng(0)
            self.rows, validation = grey[:1300], grey[1300:]
            sample = self.noisy(np.tile(self.rows, (5, 1)), rng)
            self.validation = self.noisy(np.tile(validation, (5, 1)), rng)
            self.fresh = self.noisy(np.tile(np.asarray(digits.test), (5, 1)), rng)
        self.mean, self.std = sample.mean(axis=0), sample.std(axis=0)

    @staticmethod
    def noisy(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        p = 0.01 + 0.98 * (grey + rng.uniform(size=grey.shape)) / 17
        return np.log(p / (1 - p)).astype(np.float32)


class Ours:
    """gm_utils, through the interface that all libraries here share: train, log_prob, sample."""

    def __init__(self, task: Task):
        import jax
        import jax.numpy as jnp
        import optax
        from flax import nnx

        from gm_utils.flows import MAF

        self.task, self.key = task, jax.random.key(2)
        activation = jnp.tanh if task.name in SMOOTH else jax.nn.relu
        self.flow = MAF(task.features, LAYERS, [task.width] * 2, activation=activation, rngs=nnx.Rngs(0))
        self.flow.mean[...], self.flow.std[...] = jnp.asarray(task.mean), jnp.asarray(task.std)
        adam = optax.adam(optax.cosine_decay_schedule(task.rate, task.steps))
        # One vector compiles sooner; in 64-D it takes longer to copy.
        adam = optax.flatten(adam) if task.plane else adam
        self.optimizer = nnx.Optimizer(self.flow, adam, wrt=nnx.Param)

        def plane_loss(flow: Any, batch: Any) -> Any:
            return -flow.log_prob(batch).mean()

        def digits_loss(flow: Any, batch: Any, key: Any) -> Any:
            p = 0.01 + 0.98 * (batch + jax.random.uniform(key, batch.shape)) / 17
            return -flow.log_prob(jnp.log(p / (1 - p))).mean()

        self.loss = plane_loss if task.plane else digits_loss

    def train(self, steps: int) -> None:
        from gm_utils.training import fit

        fit(self.flow, self.loss, self.task.rows, key=self.key, steps=steps, batch_size=BATCH, optimizer=self.optimizer)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.flow.log_prob(x))

    def sample(self, n: int) -> np.ndarray:
        return np.asarray(self.flow.sample(self.key, n))

    def error_of_samples(self) -> float:
        """Compare the sampler with D full passes a layer, from the same noise: the largest gap in standard units.

        Of values beyond 1 it is the relative gap: single precision has no more digits to give (moving the noise by
        its last digit moves a sample of 20 by 1e-5).
        """
        import jax
        import jax.numpy as jnp

        noise = jax.random.normal(self.key, (1000, self.task.features))
        u = noise
        for k in reversed(range(LAYERS)):
            layer, x = self.flow.layer(k), jnp.zeros_like(u)
            for _ in range(self.task.features):
                shift, log_scale = layer.conditioner(x)
                x = u * jnp.exp(log_scale) + shift
            u = x
        fast = (self.flow.inverse(noise)[0] - self.task.mean) / self.task.std
        return float((jnp.abs(fast - u) / jnp.maximum(1, jnp.abs(u))).max())


class FlowJAX:
    """flowjax with its own compiled training step."""

    def __init__(self, task: Task):
        import equinox as eqx
        import jax
        import jax.numpy as jnp
        import optax
        import paramax
        from flowjax.distributions import Normal
        from flowjax.flows import masked_autoregressive_flow
        from flowjax.train.losses import MaximumLikelihoodLoss
        from flowjax.train.train_utils import step

        self.task, self.combine, self.step, self.loss = task, eqx.combine, step, MaximumLikelihoodLoss()
        self.key, self.rng = jax.random.key(0), np.random.default_rng(2)
        flow = masked_autoregressive_flow(
            self.key, base_dist=Normal(jnp.zeros(task.features)), flow_layers=LAYERS, nn_width=task.width, nn_depth=2,
            nn_activation=jnp.tanh if task.name in SMOOTH else jax.nn.relu,
        )  # fmt: skip
        self.optimizer = optax.adam(optax.cosine_decay_schedule(task.rate, task.steps))
        self.params, self.static = eqx.partition(
            flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable)
        )
        self.state = self.optimizer.init(self.params)
        self.densities = eqx.filter_jit(lambda flow, x: flow.log_prob(x))
        self.draws = eqx.filter_jit(lambda flow, key, n: flow.sample(key, (n,)))

    def train(self, steps: int) -> None:
        for _ in range(steps):
            batch = batch_of(self.task, self.rng)
            self.params, self.state, loss = self.step(
                self.params, self.static, batch, optimizer=self.optimizer, opt_state=self.state, loss_fn=self.loss,
                key=self.key,
            )  # fmt: skip
        loss.block_until_ready()

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        z = (x - self.task.mean) / self.task.std
        flow = self.combine(self.params, self.static)
        return np.asarray(self.densities(flow, z)) - np.log(self.task.std).sum()

    def sample(self, n: int) -> np.ndarray:
        flow = self.combine(self.params, self.static)
        return np.asarray(self.draws(flow, self.key, n)) * self.task.std + self.task.mean


class Torch:
    """nflows, normflows and zuko in the usual loop."""

    def __init__(self, task: Task, library: str):
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.task, self.torch, self.rng = task, torch, np.random.default_rng(2)
        d, width = task.features, task.width
        tanh = task.name in SMOOTH
        activation = torch.tanh if tanh else torch.nn.functional.relu
        made = {"num_blocks": 1, "use_residual_blocks": False, "activation": activation}
        self.draws: Callable[[int], Any]
        if library == "nflows":
            from nflows.distributions.normal import StandardNormal
            from nflows.flows.base import Flow
            from nflows.transforms import CompositeTransform, MaskedAffineAutoregressiveTransform, ReversePermutation

            layers: list[Any] = []
            for _ in range(LAYERS):
                layers += [MaskedAffineAutoregressiveTransform(d, width, **made), ReversePermutation(d)]
            flow = Flow(CompositeTransform(layers), StandardNormal([d]))
            self.densities, self.draws = flow.log_prob, flow.sample
        elif library == "normflows":
            import normflows

            swap = normflows.flows.Permute(d, mode="swap") if d == 2 else None
            layers = []
            for _ in range(LAYERS):
                layers.append(normflows.flows.Reverse(normflows.flows.MaskedAffineAutoregressive(d, width, **made)))
                layers.append(swap or reversal(normflows, torch, d))
            flow = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(d, trainable=False), layers)
            self.densities, self.draws = flow.log_prob, lambda n: flow.sample(n)[0]
        else:
            import zuko

            unit = torch.nn.Tanh if tanh else torch.nn.ReLU
            flow = zuko.flows.MAF(d, 0, transforms=LAYERS, hidden_features=(width, width), activation=unit)
            self.densities, self.draws = lambda x: flow().log_prob(x), lambda n: flow().sample((n,))
        self.optimizer = torch.optim.Adam(flow.parameters(), task.rate)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, task.steps)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            batch = self.torch.from_numpy(batch_of(self.task, self.rng))
            self.optimizer.zero_grad(set_to_none=True)
            loss = -self.densities(batch).mean()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        z = ((x - self.task.mean) / self.task.std).astype(np.float32)
        with self.torch.no_grad():
            return self.densities(self.torch.from_numpy(z)).numpy() - np.log(self.task.std).sum()

    def sample(self, n: int) -> np.ndarray:
        with self.torch.no_grad():
            return self.draws(n).numpy() * self.task.std + self.task.mean


def reversal(normflows: Any, torch: Any, features: int) -> Any:
    """Return normflows' shuffling layer with the reversed order in place of a random one."""
    layer = normflows.flows.Permute(features, mode="shuffle")
    order = torch.arange(features - 1, -1, -1)
    layer.perm, layer.inv_perm = order, order
    return layer


def batch_of(task: Task, rng: np.random.Generator) -> np.ndarray:
    """Return a standardised minibatch, (BATCH, features) float32."""
    rows = task.rows[rng.integers(0, len(task.rows), BATCH)]
    values = rows if task.plane else task.noisy(rows, rng)
    return ((values - task.mean) / task.std).astype(np.float32)


def work(library: str, name: str) -> dict[str, float]:
    """Measure one library on one task, in this process."""
    task = Task(name)
    if library == "gm_utils":
        import gm_utils.flows
        import gm_utils.training  # noqa: F401
    elif library == "flowjax":
        import flowjax.flows
        import flowjax.train  # noqa: F401
    else:
        __import__("torch")
        __import__(library)
    result = {}
    began = time.process_time()
    flow: Any = Ours(task) if library == "gm_utils" else FlowJAX(task) if library == "flowjax" else Torch(task, library)
    flow.train(1)
    result["first"] = time.process_time() - began
    if name == "digits":
        best, every = (np.inf, np.inf, 0.0), 25
        for step in range(0, task.steps, every):
            flow.train(every - (step == 0))
            scores = [-float(flow.log_prob(x).mean()) for x in (task.validation, task.fresh)]
            best = min(best, (*scores, step + every))
        return {**result, "validation": best[0], "nats": best[1], "step": best[2]}
    if library == "gm_utils":
        flow.train(1)  # the loop's second entry, with the optimiser's own arrays
    middle = time.process_time()
    count = task.steps - 1 - (library == "gm_utils")
    flow.train(count)
    result["rate"] = count / (time.process_time() - middle)
    result["total"] = time.process_time() - began
    if task.plane:
        result["gap"] = float((np.asarray(task.density.log_prob(task.fresh)) - flow.log_prob(task.fresh)).mean())
    else:
        seconds = []
        for _ in range(4):
            middle = time.process_time()
            flow.sample(SAMPLES)
            seconds.append(time.process_time() - middle)
        result["first sample"], result["sample"] = seconds[0], statistics.median(seconds[1:])
        if library == "gm_utils":
            result["error"] = flow.error_of_samples()
    return result


def ask(library: str, name: str, cache: str | None = None) -> dict[str, float]:
    """Run ``work`` in a process of its own."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    extra = {} if cache is None else {"JAX_COMPILATION_CACHE_DIR": cache, **CACHE}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--work", library, name],
        env={**clean, **ONE_THREAD, **extra}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{library} on {name}:\n{done.stderr}")
    result = json.loads(done.stdout.splitlines()[-1])
    print(library, name, "warm" if cache else "", result, file=sys.stderr, flush=True)
    return result


def table(title: str, columns: dict[str, str], results: dict[str, list[dict[str, float]]]) -> None:
    """Print medians as Markdown; ``columns`` maps a heading to a result's name and a format, "name:format"."""
    print(f"\n{title}\n\n| | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for library, rounds in results.items():
        cells = []
        for column in columns.values():
            key, form = column.split(":")
            values = [one[key] for one in rounds if key in one]
            cells.append(format(statistics.median(values), form) if values else "")
        print(f"| {library} | {' | '.join(cells)} |", flush=True)


def main(rounds: int) -> None:
    """Measure and print the tables."""
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {rounds} rounds")
    with tempfile.TemporaryDirectory() as cache:
        ask("gm_utils", "banana", cache)
        banana: dict[str, list[dict[str, float]]] = {
            name: [] for name in ["gm_utils", "gm_utils, warm", *LIBRARIES[1:]]
        }
        speed: dict[str, list[dict[str, float]]] = {name: [] for name in LIBRARIES}
        for k in range(rounds):
            for name in [*banana][:: 1 if k % 2 else -1]:
                banana[name].append(ask(name.split(",")[0], "banana", cache if "warm" in name else None))
            for name in LIBRARIES[:: 1 if k % 2 else -1]:
                speed[name].append(ask(name, "speed"))
    times = {"steps a CPU-second": "rate:.0f", "first call, CPU-s": "first:.1f"}
    table("2-D, banana", {**times, "2,000 steps, CPU-s": "total:.1f", "gap, nats": "gap:.4f"}, banana)
    samples = {"10,000 samples, CPU-s": "sample:.2f", "first time": "first sample:.1f"}
    table("64-D, digits", {**times, **samples, "off D full passes": "error:.1e"}, speed)
    table("2-D, two moons", {"gap, nats": "gap:.3f"}, {name: [ask(name, "moons")] for name in LIBRARIES})
    quality = {"test, nats": "nats:.2f", "validation": "validation:.2f", "chosen step": "step:.0f"}
    table("64-D, digits, held out", quality, {name: [ask(name, "digits")] for name in LIBRARIES})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        print(json.dumps(work(*sys.argv[2:])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
