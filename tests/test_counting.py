"""Operations against counts by hand, seconds against a clock that the test holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_utils import counting
from gm_utils.counting import operations, seconds


@pytest.mark.parametrize("compiled", [True, False])
def test_operations_of_what_can_be_counted_by_hand(compiled):
    a, b = jnp.ones((8, 16)), jnp.ones((16, 4))
    assert operations(jnp.matmul, a, b, compiled=compiled) == 2 * 8 * 16 * 4
    assert operations(lambda a: a * a + 1, a, compiled=compiled) == 2 * 128
    assert operations(jnp.tanh, a, compiled=compiled) == 128
    assert operations(jnp.sum, a, compiled=compiled) == 127
    tree = {"a": a, "b": b}
    assert operations(lambda t: jnp.tanh(t["a"] @ t["b"]), tree, compiled=compiled) == 2 * 8 * 16 * 4 + 32


def test_what_the_compiler_drops_is_counted_as_written_only():
    a = jnp.ones((8, 8))
    twice = lambda a: (a @ a) + (a @ a)  # noqa: E731
    assert operations(twice, a) == 1024 + 64
    assert operations(twice, a, compiled=False) == 2 * 1024 + 64


def test_operations_are_counted_for_a_processor_wherever_the_arrays_are():
    on = []

    def f(x):
        on.append(jax.config.jax_default_device)
        return x + 1

    assert operations(f, jax.device_put(jnp.ones(3), jax.devices()[-1])) == 3
    assert on == [jax.local_devices(backend="cpu")[0]]


def test_costs_of_either_form(monkeypatch):
    class Lowered:
        def cost_analysis(self):
            return [{"flops": 5.0}]

    class Jitted:
        def lower(self, *args):
            return Lowered()

    monkeypatch.setattr(jax, "jit", lambda f: Jitted())
    assert operations(jnp.tanh, 1.0, compiled=False) == 5.0


def test_a_function_without_operations_is_refused():
    with pytest.raises(ValueError, match="expected f to take at least one operation, got a count of 0"):
        operations(lambda x: x, jnp.ones(2))


def test_seconds_are_those_of_the_best_call_and_the_first_does_not_count(monkeypatch):
    now, lasts, calls = [0.0], iter([0.0, 3.0, 2.0, 5.0]), []

    def f(*args):
        calls.append(args)
        now[0] += next(lasts)
        return args[0]

    monkeypatch.setattr(counting, "perf_counter", lambda: now[0])
    assert seconds(f, np.ones(2), "b", calls=3) == 2.0
    assert len(calls) == 4
    assert all(call[1] == "b" for call in calls)


def test_seconds_wait_for_the_value(monkeypatch):
    waited = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    seconds(lambda x: x + 1, 1, calls=2)
    assert waited == [2, 2, 2]


def test_seconds_of_no_call_are_refused():
    with pytest.raises(ValueError, match="expected calls to be a whole number above zero, got 0"):
        seconds(np.sum, np.ones(2), calls=0)
