"""Every notebook run in this process: its experiments swept, its exercises solved, its verdicts turned.

What is particular to a notebook (wrong answers, broken code, other worlds) stands in ``cases_NN.py``.
"""

import contextlib
import importlib
import io
import re

import jax
import jax.numpy as jnp
import nbformat
import numpy as np
import pytest

import notebook_tools as tools
from gm_utils.experiment import experiment
from gm_utils.plotting import figure

NUMBERS = {path.name[:2]: path for path in tools.QUESTIONS}
CASES = {number: importlib.import_module(f"cases_{number}") for number in NUMBERS}

compiled = []  # one entry for each time that XLA was asked for a program, seconds
COMPILE = "/jax/core/compile/backend_compile_duration"
jax.monitoring.register_event_duration_secs_listener(lambda name, s, **_: name == COMPILE and compiled.append(s))


@pytest.fixture(autouse=True)
def _rules_of_a_reader():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="class")
def ran(request):
    return tools.run(tools.read(NUMBERS[request.cls.number]))


def exercises(notebook):
    """Return {function: (checking cell, folded solution)}."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    solutions = re.findall(r"<summary>Solution</summary>\s*```python\n(.*?)```", text, flags=re.S)
    by_name = {re.search(r"def (\w+)", solution)[1]: solution for solution in solutions}
    checks = {}
    for cell in tools.code_cells(notebook):
        called = re.search(r"(?m)^check\((\w+),", cell.source)
        if called:
            checks[called[1]] = cell
    assert set(checks) == set(by_name), "every exercise has a check and a folded solution"
    return {name: (checks[name], by_name[name]) for name in checks}


def expected(claims):
    """Return {claim: verdict}. A list means that all turn to "wrong"; a dict says what a claim turns to."""
    return claims if isinstance(claims, dict) else dict.fromkeys(claims, "wrong")


def pytest_generate_tests(metafunc):
    """Give each notebook's class its own faults: those planted in code, and those on the page."""
    cases = CASES[metafunc.cls.number] if hasattr(metafunc.cls, "number") else None
    if "fault" in metafunc.fixturenames:
        metafunc.parametrize(("fault", "claims"), cases.BROKEN, ids=lambda value: getattr(value, "__name__", None))
    elif "mistake" in metafunc.fixturenames:
        metafunc.parametrize(("right", "mistake", "claims"), getattr(cases, "BROKEN_PAGES", []))


class OfANotebook:
    """One class a notebook, so that two processes can share the notebooks; all but the faults share one run."""

    number: str

    def test_every_experiment_over_its_whole_range(self, ran):
        found = tools.experiments_of(ran)
        assert found
        compiled.clear()
        for one in found.values():  # where a cell had forgotten what was compiled, the first move would lag
            one.set()
        assert not compiled, "a slider that moves for the first time waits for nothing"
        assert {name: tools.sweep(one) for name, one in found.items()} == {name: [] for name in found}

    def test_a_second_run_in_the_same_names_gives_the_same_page(self, ran):
        before = {name: claim.verdict for name, claim in ran.names.items() if hasattr(claim, "verdict")}
        pictures = {name: one.pixels() for name, one in tools.experiments_of(ran).items()}
        for cell in tools.code_cells(tools.read(NUMBERS[self.number])):
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                tools.run_cell(cell.source, ran.names)
            if cell.source.startswith(tools.CHECKED):  # the stored text is that of a first run, as nbval sees to
                stored = [output.text for output in cell.outputs if output.output_type == "stream"]
                assert printed.getvalue() == "".join(stored), cell.id
        assert {name: claim.verdict for name, claim in ran.names.items() if hasattr(claim, "verdict")} == before
        for name, one in tools.experiments_of(ran).items():
            np.testing.assert_array_equal(one.pixels(), pictures[name])

    def test_exercises(self, ran):
        found = exercises(tools.read(NUMBERS[self.number]))
        mistakes = CASES[self.number].MISTAKES
        assert len(found) >= 3
        assert set(found) == set(mistakes)
        for name, (cell, solution) in found.items():
            assert ran.values[cell.id].status == "not attempted"
            tools.run_cell(solution, ran.names)
            assert tools.run_cell(cell.source, ran.names).status == "right", name
            assert len(mistakes[name]) >= 3
            for mistake in mistakes[name]:
                tools.run_cell(mistake, ran.names)
                assert tools.run_cell(cell.source, ran.names).status == "not yet", mistake

    def test_every_fault_must_change_a_verdict(self, ran):
        for case in CASES[self.number].BROKEN + getattr(CASES[self.number], "BROKEN_PAGES", []):
            unmoved = [name for name, verdict in expected(case[-1]).items() if ran.names[name].verdict == verdict]
            assert not unmoved, f"{case[0]}: the right page says the same"

    def test_verdicts_follow_the_evidence(self, ran):
        # One test a notebook: with a case each, pytest would run the notebook anew for each.
        sources = [cell.source for cell in tools.code_cells(tools.read(NUMBERS[self.number]))]
        for claim, world, verdict in CASES[self.number].OTHER_WORLDS:
            source = next(source for source in sources if f"{claim} = Claim(" in source)
            names = ran.names | world
            tools.run_cell(source[source.index(f"{claim} = Claim(") :], names)
            assert names[claim].verdict == verdict, f"{claim} with other {', '.join(world)}"

    def test_a_broken_implementation_flips_the_verdict(self, fault, claims, monkeypatch):
        fault(monkeypatch)
        self.verdicts_turn(tools.read(NUMBERS[self.number]), claims)

    def test_a_mistake_on_the_page_flips_the_verdict(self, right, mistake, claims):
        notebook = tools.read(NUMBERS[self.number])
        cells = [cell for cell in tools.code_cells(notebook) if right in cell.source]
        assert cells, "the code to break is on the page"
        cells[0].source = cells[0].source.replace(right, mistake)
        self.verdicts_turn(notebook, claims)

    def verdicts_turn(self, notebook, claims):
        ran = tools.run(tools.leading_to(notebook, claims), keep_going=True)
        assert {name: ran.names[name].verdict for name in expected(claims)} == expected(claims)


globals().update(
    {f"Test{number}": type(f"Test{number}", (OfANotebook,), {"number": number}) for number in reversed(NUMBERS)}
)


def live(update):
    fig, axes = figure(size=(2, 2))
    (line,) = axes.plot([0, 1], [0, 1])
    return experiment(fig, update(line), alt="A line.", a=(0, 2, 1, 1), b=(0, 2, 1, 1))


def good(line):
    def update(a, b):
        line.set_ydata([a / 3, b / 3])
        return {"sum": a + b}

    return update


def idle_control(line):
    def update(a, b):
        line.set_ydata([a / 3, 0])
        return {"sum": a + b}

    return update


def not_finite(line):
    def update(a, b):
        line.set_ydata([a / 3, b / 3])
        return {"ratio": np.inf if b == 0 else a / b}

    return update


def jax_in_an_artist(line):
    def update(a, b):
        line.set_ydata(jnp.array([a / 3, b / 3]))
        return {"sum": a + b}

    return update


def raising(line):
    def update(a, b):
        line.set_ydata([a / 3, b / 3])
        if a == b == 2:
            raise ArithmeticError("both ends")
        return {"sum": a + b}

    return update


@pytest.mark.parametrize(
    ("update", "words"),
    [
        (good, None),
        (idle_control, "a control changes nothing"),
        (not_finite, "not finite"),
        (raising, "raised Arith"),
        (jax_in_an_artist, "holds a JAX array"),
    ],
)
def test_the_sweep_sees_planted_faults(update, words):
    problems = tools.sweep(live(update))
    assert [p for p in problems if words and words in p.what] if words else problems == []


def test_a_claim_keeps_the_cells_that_it_rests_on():
    sources = {
        "imports": "import numpy as np",
        "model": "model = [np.zeros(2)]\nother = 3",
        "unused": "def f():\n    model = 2\n    return model\nf()",
        "training": "train(model)",
        "part": "model[0] = np.ones(2)",
        "method": "model.append(np.ones(2))",
        "look": "np.ones(2)",
        "loop": "for total in model:\n    pass",
        "claim": "claim_1a = Claim(total)",
        "after": "train(other)",
    }
    cells = [nbformat.v4.new_code_cell(source, id=name) for name, source in sources.items()]
    kept = tools.leading_to(nbformat.v4.new_notebook(cells=cells), ["claim_1a"]).cells
    assert [cell.id for cell in kept] == ["imports", "model", "training", "part", "method", "loop", "claim"]
