"""Training speed of a VAE and of a GAN: gm_utils, a step loop with ``nnx.jit``, and a plain PyTorch loop.

Run by hand, in an environment with gm_utils and PyTorch for CPUs, ``python benchmarks/models.py [repeats]``:

    python3.11 -m venv /path/of/your/choice && . /path/of/your/choice/bin/activate
    pip install -r requirements.txt -e . && pip install torch

Every contender trains the same networks with Adam on the same batch sizes, in a process of its own, on one thread,
in turn, and the round is repeated; the table shows medians. Times are CPU seconds, so that other work on the machine
counts little. *First call* is the time of the first 100 steps, compilation included, imports left out. *Steps* are
counted over the 2,000 steps after these; ``gm_utils`` goes on with its optimiser, under the same compiled loop.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

TASKS = {
    "VAE": "digits, 64 - 128 - 8 - 128 - 64, batch 100",
    "GAN": "ring of eight, 2 - 64 - 64 - 2 against 2 - 64 - 64 - 1, batch 64",
}
FIRST, THEN, RATE = 100, 2000, 1e-3
# NPROC is the size of XLA's pool of threads.
ONE_THREAD = {**dict.fromkeys(("NPROC", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"), "JAX_PLATFORMS": "cpu"}


def vae_of_gm_utils() -> Callable[[int], float]:
    import jax
    import optax
    from flax import nnx

    from gm_utils.data import digits_binary
    from gm_utils.training import fit
    from gm_utils.vae import VAE

    rows = digits_binary().train
    model = VAE(64, 8, [128], rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(RATE), wrt=nnx.Param)

    def loss(model, x, key):
        return -model.elbo(key, x).mean()

    def train(steps):
        how = {"key": jax.random.key(0), "steps": steps, "batch_size": 100, "optimizer": optimizer, "progress": False}
        return float(fit(model, loss, rows, **how)[-50:].mean())

    return train


def vae_in_a_jit_loop() -> Callable[[int], float]:
    import jax
    import optax
    from flax import nnx

    from gm_utils.data import digits_binary
    from gm_utils.vae import VAE

    rows, rng = digits_binary().train, numpy_rng()
    model = VAE(64, 8, [128], rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(RATE), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x, key):
        value, grads = nnx.value_and_grad(lambda model: -model.elbo(key, x).mean())(model)
        optimizer.update(model, grads)
        return value

    def train(steps):
        keys = jax.random.split(jax.random.key(0), steps)
        values = [step(model, optimizer, rows[rng.integers(0, len(rows), 100)], key) for key in keys]
        return sum(float(value) for value in values[-50:]) / 50

    return train


def vae_in_torch() -> Callable[[int], float]:
    import torch
    from torch import nn

    from gm_utils.data import digits_binary

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = torch.tensor(digits_binary().train.__array__())
    encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 16))
    decoder = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE)
    cross_entropy = nn.BCEWithLogitsLoss(reduction="none")

    def step():
        x = rows[torch.randint(len(rows), (100,))]
        mean, log_var = encoder(x).chunk(2, dim=1)
        z = mean + torch.exp(log_var / 2) * torch.randn_like(mean)
        kl = (mean**2 + log_var.exp() - 1 - log_var).sum(dim=1) / 2
        value = (cross_entropy(decoder(z), x).sum(dim=1) + kl).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value.detach()

    return lambda steps: float(torch.stack([step() for _ in range(steps)])[-50:].mean())


def jax_pair():
    """Return generator, discriminator, their two losses, and the rows to learn from."""
    import jax
    from flax import nnx

    from gm_utils import data, gan

    class Net(nnx.Module):
        def __init__(self, size_in, size_out, seed):
            rngs = nnx.Rngs(seed)
            self.one, self.two = nnx.Linear(size_in, 64, rngs=rngs), nnx.Linear(64, 64, rngs=rngs)
            self.out = nnx.Linear(64, size_out, rngs=rngs)

        def __call__(self, x):
            return self.out(nnx.relu(self.two(nnx.relu(self.one(x)))))

    def of_generator(generator, discriminator, x, key):
        return gan.nonsaturating_generator_loss(discriminator(generator(jax.random.normal(key, (64, 2))))[:, 0])

    def of_discriminator(generator, discriminator, x, key):
        fake = generator(jax.random.normal(key, (64, 2)))
        return gan.discriminator_loss(discriminator(x)[:, 0], discriminator(fake)[:, 0])

    rows = data.eight_gaussians.sample(jax.random.key(0), 16384)
    return Net(2, 2, 0), Net(2, 1, 1), of_generator, of_discriminator, rows


def gan_of_gm_utils() -> Callable[[int], float]:
    import jax
    import optax
    from flax import nnx

    from gm_utils.training import fit_adversarial

    generator, discriminator, of_generator, of_discriminator, rows = jax_pair()
    adam = optax.adam(RATE, b1=0.5)
    optimizers = tuple(nnx.Optimizer(net, adam, wrt=nnx.Param) for net in (generator, discriminator))

    def train(steps):
        how = {"key": jax.random.key(0), "steps": steps, "batch_size": 64, "optimizers": optimizers, "progress": False}
        values = fit_adversarial(generator, discriminator, rows, losses=(of_generator, of_discriminator), **how)
        return float(values[1, -50:].mean())

    return train


def gan_in_a_jit_loop() -> Callable[[int], float]:
    import jax
    import optax
    from flax import nnx

    generator, discriminator, of_generator, of_discriminator, rows = jax_pair()
    rng = numpy_rng()
    of_g, of_d = (nnx.Optimizer(net, optax.adam(RATE, b1=0.5), wrt=nnx.Param) for net in (generator, discriminator))

    @nnx.jit
    def step(generator, discriminator, of_g, of_d, x, keys):
        turn = nnx.value_and_grad(lambda net: of_discriminator(generator, net, x, keys[0]))
        value, grads = turn(discriminator)
        of_d.update(discriminator, grads)
        grads = nnx.grad(lambda net: of_generator(net, discriminator, x, keys[1]))(generator)
        of_g.update(generator, grads)
        return value

    def train(steps):
        keys = jax.random.split(jax.random.key(0), (steps, 2))
        batches = (rows[rng.integers(0, len(rows), 64)] for _ in range(steps))
        pairs = zip(batches, keys, strict=True)
        values = [step(generator, discriminator, of_g, of_d, x, key) for x, key in pairs]
        return sum(float(value) for value in values[-50:]) / 50

    return train


def gan_in_torch() -> Callable[[int], float]:
    import jax
    import torch
    from torch import nn

    from gm_utils import data

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = torch.tensor(data.eight_gaussians.sample(jax.random.key(0), 16384).__array__())

    def net(size_in, size_out):
        return nn.Sequential(
            nn.Linear(size_in, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, size_out)
        )

    generator, discriminator, cross_entropy = net(2, 2), net(2, 1), nn.BCEWithLogitsLoss()
    of_g, of_d = (torch.optim.Adam(n.parameters(), lr=RATE, betas=(0.5, 0.999)) for n in (generator, discriminator))
    ones, zeros = torch.ones(64, 1), torch.zeros(64, 1)

    def step():
        x = rows[torch.randint(len(rows), (64,))]
        fake = generator(torch.randn(64, 2)).detach()
        value = cross_entropy(discriminator(x), ones) + cross_entropy(discriminator(fake), zeros)
        of_d.zero_grad()
        value.backward()
        of_d.step()
        of_g.zero_grad()
        cross_entropy(discriminator(generator(torch.randn(64, 2))), ones).backward()
        of_g.step()
        return value.detach()

    return lambda steps: float(torch.stack([step() for _ in range(steps)])[-50:].mean())


def numpy_rng():
    import numpy as np

    return np.random.default_rng(0)


CONTENDERS = {
    "VAE": {"gm_utils": vae_of_gm_utils, "nnx.jit step loop": vae_in_a_jit_loop, "PyTorch": vae_in_torch},
    "GAN": {"gm_utils": gan_of_gm_utils, "nnx.jit step loop": gan_in_a_jit_loop, "PyTorch": gan_in_torch},
}


def measure(task: str, name: str) -> dict[str, float]:
    """Train in this process and return the CPU seconds of the first call, the steps a CPU second after it, the loss."""
    train = CONTENDERS[task][name]()
    began = time.process_time()
    train(FIRST)
    first = time.process_time() - began
    began = time.process_time()
    loss = train(THEN)
    return {"first": first, "steps": THEN / (time.process_time() - began), "loss": loss}


def main(repeats: int) -> None:
    for task, what in TASKS.items():
        found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS[task]}
        for _ in range(repeats):
            for name in found:
                child = subprocess.run(
                    [sys.executable, __file__, task, name], env=os.environ | ONE_THREAD, capture_output=True, text=True
                )
                if child.returncode:
                    sys.exit(f"{task}, {name} failed:\n{child.stderr}")
                found[name].append(json.loads(child.stdout.splitlines()[-1]))
        middle = {
            name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()
        }
        print(f"\n{task}: {what}; medians of {repeats} rounds, CPU seconds of one thread\n")
        print("| | steps per CPU-second | gm_utils is faster by | first 100 steps, seconds | last loss, nats |")
        print("|---|---|---|---|---|")
        for name, row in middle.items():
            ratio = middle["gm_utils"]["steps"] / row["steps"]
            print(f"| {name} | {row['steps']:,.0f} | {ratio:.1f}x | {row['first']:.2f} | {row['loss']:.2f} |")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(*sys.argv[1:])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
