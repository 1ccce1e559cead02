"""Examples in docstrings do what they say, and every module that a reader meets has one."""

import doctest
import importlib
import pkgutil

import pytest

import gm_utils

INSIDE = {"loop", "order", "redraw"}  # nobody calls them but the package


@pytest.mark.parametrize("name", sorted(module.name for module in pkgutil.iter_modules(gm_utils.__path__)))
def test_examples_hold(name):
    failed, tried = doctest.testmod(importlib.import_module(f"gm_utils.{name}"))
    assert failed == 0
    assert tried or name in INSIDE
