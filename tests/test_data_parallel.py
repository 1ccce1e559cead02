"""Training on a mesh of eight devices, in a process of its own: JAX fixes the number of devices when it starts."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gm_utils.training import fit, fit_many

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
ROWS, BATCH = 256, 64
shards = []


class Net(nnx.Module):
    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.hidden, self.out = nnx.Linear(2, 16, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.tanh(self.hidden(x)))[:, 0]


def loss(model, batch, key):
    hidden = model.hidden(batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape))
    jax.debug.inspect_array_sharding(hidden, callback=lambda found: shards.append(found.shard_shape(hidden.shape)))
    return ((model.out(nnx.tanh(hidden))[:, 0] - batch["y"]) ** 2).mean()


def member_loss(model, batch):
    return ((model(batch["x"]) - batch["y"]) ** 2).mean()


x = jax.random.normal(jax.random.key(0), (ROWS, 2))
data = {"x": x, "y": x[:, 0] * x[:, 1]}
optimizer = optax.adam(1e-2)
arguments = {"key": jax.random.key(1), "steps": 200, "batch_size": BATCH, "optimizer": optimizer}
report = {"devices": len(jax.devices())}




alone = Net()
expected = fit(alone, loss, data, **arguments)
report["fell"] = float(expected[-1] / expected[0])
report["shards on one device"] = sorted(set(shards))
mesh = Mesh(np.array(jax.devices()), ("rows",))
for name, spec in [("rows spread", PartitionSpec("rows")), ("rows copied", PartitionSpec())]:
    shards.clear()
    model = Net()
    placed = jax.device_put(data, NamedSharding(mesh, spec))
    losses = fit(model, loss, placed, **arguments)
    report[name] = {
        "shards": sorted(set(shards)),
        "losses": float(np.abs(np.asarray(losses) / np.asarray(expected) - 1).max()),
        "same_parameters": bool(
            np.allclose(model.hidden.kernel[...], alone.hidden.kernel[...], rtol=1e-4, atol=1e-5)
        ),
        "copied": model.hidden.kernel[...].sharding.is_fully_replicated,
        "still_usable": bool(np.isfinite(model(x)).all()),
    }
members = [
    fit_many([Net(0), Net(1)], member_loss, given, **arguments | {"steps": 40}) for given in (data, placed)
]
report["members"] = float(np.abs(np.asarray(members[1]) / np.asarray(members[0]) - 1).max())
square = Mesh(np.array(jax.devices()).reshape(4, 2), ("rows", "unused"))
shards.clear()
fit(Net(), loss, jax.device_put(data, NamedSharding(square, PartitionSpec("rows"))), **arguments | {"steps": 2})
report["rows over four of two axes"] = sorted(set(shards))
try:
    fit(Net(), loss, placed, **arguments | {"batch_size": 60})
except ValueError as error:
    report["refusal"] = str(error)
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def report():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("placed", ["rows spread", "rows copied"])
def test_eight_devices_learn_what_one_learns(report, placed):
    assert report["devices"] == 8
    assert report["fell"] < 0.5
    found = report[placed]
    assert found["losses"] < 1e-5
    assert report["members"] < 1e-5
    assert found["same_parameters"]
    assert found["copied"]
    assert found["still_usable"]


def test_each_device_computes_its_share_of_the_batch(report):
    assert report["shards on one device"] == [[64, 16]]
    assert report["rows spread"]["shards"] == [[8, 16]]
    assert report["rows copied"]["shards"] == [[8, 16]]
    assert report["rows over four of two axes"] == [[16, 16]]


def test_rows_that_do_not_divide_are_refused(report):
    assert report["refusal"] == "expected batch_size to divide over the 8 devices of the data's mesh, got 60"
