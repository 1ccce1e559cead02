"""The house: three floors without circles, and no module that loads what its reader does not need."""

import ast
import graphlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gm_utils

FLOORS = ["ground", "models", "desk"]


def floors_of(text):
    """Return {module: floor} as a package's docstring lists them."""
    lines = re.findall(r"(?m)^- (\w+): (.*(?:\n  .*)*)", text)
    return {name: FLOORS.index(floor) for floor, names in lines for name in re.findall(r"``(\w+)``", names)}


def imports_of(source):
    """Return the modules of gm_utils that a source imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "gm_utils":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gm_utils."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("gm_utils.")}
    return found


def faults(floors, imports):
    """Return what breaks the rule: modules on no floor, imports from above, and circles."""
    found = [f"{module} is on no floor" for module in imports if module not in floors]
    found += [f"{module} is listed, but not there" for module in floors if module not in imports]
    for module, used in imports.items():
        found += [f"{module} imports {name} from above" for name in used if floors[name] > floors.get(module, 9)]
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        found.append(f"circle {error.args[1]}")
    return found


MODULES = sorted(module.name for module in pkgutil.iter_modules(gm_utils.__path__))
IMPORTS = {
    name: imports_of((Path(gm_utils.__file__).parent / f"{name}.py").read_text(encoding="utf-8")) for name in MODULES
}


def test_every_module_has_a_floor_and_keeps_to_it():
    assert faults(floors_of(gm_utils.__doc__), IMPORTS) == []


@pytest.mark.parametrize(
    ("floors", "imports", "words"),
    [
        ({"a": 0}, {"a": set(), "b": set()}, "b is on no floor"),
        ({"a": 0, "b": 1}, {"a": set()}, "is listed, but not there"),
        ({"a": 0, "b": 1}, {"a": {"b"}, "b": set()}, "a imports b from above"),
        ({"a": 0, "b": 0}, {"a": {"b"}, "b": {"a"}}, "circle"),
    ],
)
def test_a_planted_fault_is_seen(floors, imports, words):
    assert any(words in fault for fault in faults(floors, imports))


HEAVY = ["sklearn", "scipy.stats", "scipy.optimize", "matplotlib.pyplot", "ipywidgets", "flax", "optax", "pandas"]
NETWORKS = ["loop", "training", "networks", "scoring", "autoregressive", "vae", "flows", "gan"]
NEEDED = {"experiment": ["ipywidgets"], "paper": ["ipywidgets"], **{name: ["flax", "optax"] for name in NETWORKS}}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_loads_only_what_it_needs(name):
    code = f"import sys, gm_utils.{name}; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= set(NEEDED.get(name, []))


@pytest.mark.parametrize(("own", "wanted"), [({}, "highest"), ({"JAX_DEFAULT_MATMUL_PRECISION": "high"}, "high")])
def test_products_keep_their_digits_on_any_device_unless_the_reader_wants_less(own, wanted):
    clean = {name: value for name, value in os.environ.items() if name != "JAX_DEFAULT_MATMUL_PRECISION"}
    code = "import gm_utils, jax; print(jax.config.jax_default_matmul_precision)"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=clean | own, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [wanted]
