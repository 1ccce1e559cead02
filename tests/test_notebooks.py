"""The notebooks as they are committed: their structure, and that a fault in it is seen."""

import nbformat
import pytest

import notebook_tools as tools

VIEW = "application/vnd.jupyter.widget-view+json"
NUMBERS = {path.name[:2]: path for path in tools.QUESTIONS}


@pytest.mark.parametrize("number", NUMBERS)
def test_structure(number):
    assert tools.judge(tools.read(NUMBERS[number]), number) == []


def test_the_core_of_all_notebooks_takes_four_hours_and_a_half():
    cores = [tools.promised_and_measured(tools.read(path))["core"] for path in NUMBERS.values()]
    for minutes in zip(*cores, strict=True):  # promised, measured
        assert sum(minutes) <= 4.6 * 60


def cell_with(notebook, text, kind="code"):
    return next(cell for cell in notebook.cells if cell.cell_type == kind and text in cell.source)


def replace(text, new, kind="markdown", count=1):
    def fault(notebook):
        cell = cell_with(notebook, text, kind)
        cell.source = cell.source.replace(text, new, count)

    return fault


def drop(text, kind="markdown"):
    return lambda notebook: notebook.cells.remove(cell_with(notebook, text, kind))


def outputs(change):
    def fault(notebook):
        cell = next(cell for cell in tools.code_cells(notebook) if "image/png" in str(cell.outputs))
        change(cell.outputs[0])

    return fault


def spare(k):
    return nbformat.v4.new_code_cell("pass", id=f"spare-{k}", execution_count=0)


FAULTS = {
    "a missing section": (replace("## Exercises", "Exercises"), "sections are not"),
    "sections out of order": (replace("## The audit", "## Experiments"), "sections are not"),
    "one building section only": (lambda n: [replace(f"## {t}", t)(n) for t in tools.headings(n)[1:4]], "two to five"),
    "too many words": (replace("## The question", "## The question\n\n" + "word " * 1600), "words of prose"),
    "too much code": (replace("import jax", "pass\n" * 120 + "import jax", "code"), "lines of code in the core"),
    "a long cell": (replace("import jax", "pass\n" * 26 + "import jax", "code"), "lines in the longest cell"),
    "too many minutes": (replace("exercises | 25 |", "exercises | 99 |"), "minutes"),
    "too few minutes": (replace("exercises | 25 |", "exercises | 15 |"), "the path core takes other minutes"),
    "a long night": (replace("## The answer", "## The answer\n\n" + "word " * 500), "the path the night before"),
    "no promise": (replace("| everything |", "| all |"), "the path everything"),
    "no title": (replace("# ", "", count=1), "not the title"),
    "no link to the answer": (replace("(#The-answer)", "(#The-question)"), "no link from the title"),
    "another set-up": (replace("try:\n    import gm_utils", "import gm_utils", "code"), "not the set-up cell"),
    "nothing moves early": (lambda n: [n.cells.insert(1, spare(k)) for k in range(3)], "nothing moves"),
    "stored widget state": (lambda n: n.metadata.update(widgets={}), "widget state"),
    "a stored view": (outputs(lambda o: o.data.update({VIEW: {}})), "widget view"),
    "no alternative text": (outputs(lambda o: o.metadata.clear()), "no alternative text"),
    "an unrun cell": (lambda n: setattr(tools.code_cells(n)[3], "execution_count", None), "not run once"),
    "a stored error": (outputs(lambda o: o.update(output_type="error")), "an error or words"),
    "a large file": (outputs(lambda o: o.data.update({"text/plain": "x" * 600_000})), "over 600 kB"),
    "an unnamed cell": (lambda n: setattr(n.cells[2], "id", "0a1b2c3d"), "not a name"),
    "an unchecked experiment": (replace("bet.set(", "bet.get(", "code"), "without predict"),
    "an unnamed experiment": (replace("bet = experiment(", "experiment(", "code"), "without a name"),
    "an unchecked claim": (replace("_2b.verdict", "_2b.label", "code"), "no checked cell prints"),
    "pyplot": (replace("import jax", "import matplotlib.pyplot\nimport jax", "code"), "pyplot is used"),
    "a mark too many": (replace("| 0.5 |", "| 1.0 |"), "do not add up"),
    "no model answer": (lambda n: replace("<details>", "")(n) or drop("| marks | point |")(n), "do not add up"),
    "a broken link": (replace("(#Further)", "(#Farther)"), "leads nowhere"),
    "a link to no file": (replace("(#Further)", "(99_nothing.ipynb)"), "leads nowhere"),
    "a link to no section": (replace("(#Further)", "(01_generative_models.ipynb#Farther)"), "leads nowhere"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_seen(name):
    notebook = tools.read(NUMBERS["02"])
    assert tools.judge(notebook, "02") == []
    fault, words = FAULTS[name]
    fault(notebook)
    assert any(words in problem.what for problem in tools.judge(notebook, "02"))
