"""Reading, judging and running the notebooks: what several tests share."""

import ast
import re
import statistics
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import jax
import nbformat
import numpy as np
from matplotlib.lines import Line2D

import course
from gm_utils.experiment import Experiment

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
QUESTIONS = sorted(FOLDER.glob("0[1-8]_*.ipynb"))
ESSAYS = {"06": 13.0, "07": 13.0, "08": 14.0}  # marks; every other question carries 2
CHECKED = "# NBVAL_CHECK_OUTPUT"


class Problem(NamedTuple):
    """What is wrong with a notebook, and where."""

    what: str
    where: str


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def code_lines(source: str) -> int:
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in source.splitlines())


def words(source: str) -> int:
    return len(re.sub(r"<details>.*?</details>", "", source, flags=re.S).split())


def titles(cell: Any) -> list[str]:
    """Return the titles of the ## sections that a cell opens; code fences hold none."""
    text = re.sub(r"(?s)```.*?```", "", cell.source) if cell.cell_type == "markdown" else ""
    return re.findall(r"(?m)^## (.+)$", text)


def headings(notebook: Any) -> list[str]:
    """Return the titles of all ## sections in order."""
    return [title for cell in notebook.cells for title in titles(cell)]


def core(notebook: Any) -> list[Any]:
    """Return the cells before the section Further: the path that has a budget."""
    cells: list[Any] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and re.search(r"(?m)^## Further$", cell.source):
            break
        cells.append(cell)
    return cells


def reading_minutes(cells: Iterable[Any], *, code: bool = True, folded: bool = False) -> float:
    """Return how long cells take to read: 180 words and 7.5 lines of code a minute, 15 s a displayed
    formula, 20 s a figure, a minute an experiment.

    Args:
        cells: cells of a notebook, with their outputs.
        code: whether the lines of code are read.
        folded: whether what stands in <details> is read.
    """
    seconds = 0.0
    for cell in cells:
        if cell.cell_type == "markdown":
            text = cell.source if folded else re.sub(r"(?s)<details>.*?</details>", "", cell.source)
            prose, formulas = re.subn(r"(?s)\$\$.+?\$\$", "", text)
            prose = re.sub(r"\]\([^)]*\)", "]", prose)  # the address of a link is not read
            seconds += 15 * formulas + sum(bool(re.search(r"\w", word)) for word in prose.split()) / 3
        else:
            pictured = 60 if re.search(r"(?m)^\w+ = experiment\(", cell.source) else 20
            seconds += 8 * code * code_lines(cell.source) + pictured * ("image/png" in str(cell.outputs))
    return seconds / 60


def promised_and_measured(notebook: Any) -> dict[str, tuple[float, float]]:
    """Return, for each path of the first cell, the minutes that it promises and those that reading takes.

    The night before, code is run but not read; an exercise takes five minutes beside its reading.
    """
    parts: dict[str, list[Any]] = {"": []}
    for cell in notebook.cells:
        for title in titles(cell)[:1]:
            parts[title] = []
        parts[list(parts)[-1]].append(cell)
    night = parts.get("The question", []) + parts.get("The answer", [])
    without = [cell for title in parts if title not in ("Exercises", "Further", "Experiments") for cell in parts[title]]
    exercises = sum(cell.id.startswith("exercise-") for cell in notebook.cells)
    measured = {
        "the night before": reading_minutes(night, code=False, folded=True),
        "core": reading_minutes(without),
        "everything": reading_minutes(notebook.cells) + 5 * exercises,
    }
    promises = dict(re.findall(r"(?m)^\| ([a-z ]+) \|.*\| *(\d+) *\|$", notebook.cells[0].source))
    return {path: (float(promises.get(path, "nan")), minutes) for path, minutes in measured.items()}


def judge(notebook: Any, number: str) -> list[Problem]:
    """Return everything that is wrong with the structure of question ``number``'s notebook."""
    problems: list[Problem] = []
    for part in (_sections, _budget, _front, _outputs, _checks, _marks, _links):
        problems += part(notebook, number)
    return problems


def _sections(notebook: Any, number: str) -> list[Problem]:
    found = headings(notebook)
    wanted = ["The question", "The audit", "Exercises", "The answer", "Further", "Experiments"]
    built = [title for title in found if title not in wanted]
    inside = found[1 : 1 + len(built)] == built
    problems = []
    if [title for title in found if title in wanted] != wanted or not inside:
        problems.append(Problem("sections are not question, building, audit, exercises, answer, ...", str(found)))
    if not 2 <= len(built) <= 5:
        problems.append(Problem("expected two to five sections that build the idea", str(built)))
    return problems


def _budget(notebook: Any, number: str) -> list[Problem]:
    essay = number in ESSAYS
    cells = core(notebook)
    prose = sum(words(cell.source) for cell in cells if cell.cell_type == "markdown")
    lines = sum(code_lines(cell.source) for cell in cells if cell.cell_type == "code")
    sizes = {cell.id: code_lines(cell.source) for cell in code_cells(notebook)}
    minutes = re.findall(r"(?m)^\| core \|.*\| *(\d+) *\|$", notebook.cells[0].source)
    limits = [
        ("words of prose in the core", prose, 0, 3200 if essay else 1600),
        ("lines of code in the core", lines, 0, 280 if essay else 140),
        ("minutes of the core path", int(minutes[0]) if minutes else np.inf, 1, 50 if essay else 25),
        ("lines in the median cell", statistics.median(sizes.values()), 1, 6),
        ("lines in the longest cell", max(sizes.values()), 1, 25),
        ("words for each line of code", prose / max(lines, 1), 5, 12),
    ]
    problems = [
        Problem(f"expected {low} to {high} {what}", f"{got}")
        for what, got, low, high in limits
        if not low <= got <= high
    ]
    for path, (promise, measure) in promised_and_measured(notebook).items():
        if not 3 / 4 < promise / measure < 4 / 3:
            problems.append(Problem(f"the path {path} takes other minutes than promised", f"{measure:.1f}, {promise}"))
    return problems


def _front(notebook: Any, number: str) -> list[Problem]:
    title, second = notebook.cells[:2]
    problems = []
    if not re.search(rf"(?m)^# {int(number)} · ", title.source):
        problems.append(Problem("the first cell is not the title", title.source[:40]))
    if "(#The-answer)" not in title.source:
        problems.append(Problem("no link from the title to the answer", title.source[:40]))
    if not second.source.startswith(course.setup_block(course.repository_setting(ROOT))):
        problems.append(Problem("the second cell is not the set-up cell of course.py", second.source[:80]))
    early = code_cells(notebook)[:3]
    if not any("experiment(" in cell.source and "image/png" in str(cell.outputs) for cell in early):
        problems.append(Problem("nothing moves within the first three code cells", early[-1].id))
    for neighbour in (int(number) - 1, int(number) + 1):
        for path in QUESTIONS:
            if path.name.startswith(f"{neighbour:02}_") and f"({path.name})" not in title.source:
                problems.append(Problem("no link to the neighbour", path.name))
    return problems


def _outputs(notebook: Any, number: str) -> list[Problem]:
    problems = []
    if "widgets" in notebook.metadata:
        problems.append(Problem("widget state is stored", "metadata"))
    if len(nbformat.writes(notebook)) > 600_000:
        problems.append(Problem("the file is over 600 kB", str(len(nbformat.writes(notebook)))))
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        problems.append(Problem("the cells were not run once, in order", str(counts)))
    for cell in notebook.cells:
        if re.fullmatch(r"[0-9a-f]{8}", cell.id):
            problems.append(Problem("the id of a cell is not a name", cell.id))
    for cell in code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            if output.output_type == "error" or output.get("name") == "stderr":
                problems.append(Problem("an error or words on stderr are stored", cell.id))
            if "application/vnd.jupyter.widget-view+json" in data:
                problems.append(Problem("a widget view is stored", cell.id))
            if "image/png" in data and not output.metadata.get("image/png", {}).get("alt", "").strip():
                problems.append(Problem("a picture has no alternative text", cell.id))
    return problems


def _checks(notebook: Any, number: str) -> list[Problem]:
    """Every experiment is followed by a checked cell that drives it, every claim by one that prints its verdict."""
    problems = []
    cells = code_cells(notebook)
    for place, cell in enumerate(cells):
        for banned in ("interact(", "pyplot", "Output(", "%matplotlib"):
            if banned in cell.source:
                problems.append(Problem(f"{banned} is used", cell.id))
        for name in re.findall(r"(?m)^(\w+) = experiment\(", cell.source):
            after = cells[place + 1].source if place + 1 < len(cells) else ""
            if not (after.startswith(CHECKED) and f"{name}.set(" in after):
                problems.append(Problem("an experiment without predict, then check", name))
        for name in re.findall(r"(?m)^(\w+) = Claim\(", cell.source):
            verdicts = [c for c in cells if c.source.startswith(CHECKED) and f"{name}.verdict" in c.source]
            if not verdicts:
                problems.append(Problem("a claim whose verdict no checked cell prints", name))
    experiments = sum(len(re.findall(r"(?<![\w.])experiment\(", cell.source)) for cell in cells)
    named = sum(len(re.findall(r"(?m)^\w+ = experiment\(", cell.source)) for cell in cells)
    if experiments != named or not experiments:
        problems.append(Problem("an experiment without a name", f"{experiments} made, {named} named"))
    return problems


def _marks(notebook: Any, number: str) -> list[Problem]:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    answer = re.search(r"(?ms)^## The answer$(.*?)(?=^## |\Z)", text)
    marks = [float(found) for found in re.findall(r"(?m)^\| *([\d.]+) *\|", answer[1])] if answer else []
    wanted = ESSAYS.get(number, 2.0)
    problems = [] if sum(marks) == wanted else [Problem(f"the marks do not add up to {wanted:g}", str(marks))]
    if answer and ("<details>" not in answer[1] or "loses marks" not in answer[1]):
        problems.append(Problem("no folded model answer, or not what loses marks", "The answer"))
    return problems


def _anchors(notebook: Any) -> set[str]:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return {title.strip().replace(" ", "-") for title in re.findall(r"(?m)^#+ (.+)$", text)}


def _links(notebook: Any, number: str) -> list[Problem]:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    problems = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        if file.startswith("http"):
            continue
        if (file and not (FOLDER / file).exists()) or (
            anchor and anchor not in _anchors(read(FOLDER / file) if file else notebook)
        ):
            problems.append(Problem("a link that leads nowhere", target))
    return problems


class Run(NamedTuple):
    """A notebook after a run: its names, the value of each cell's last expression, and what was raised."""

    names: dict[str, Any]
    values: dict[str, Any]
    errors: dict[str, Exception]


def run(notebook: Any, *, keep_going: bool = False) -> Run:
    """Run the code cells in this process, as a kernel would; with ``keep_going`` past cells that raise.

    The relaxed rules of promotion are those that a reader's kernel has.
    """
    done = Run({"__name__": "__main__"}, {}, {})
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for cell in code_cells(notebook):
            try:
                done.values[cell.id] = run_cell(cell.source, done.names)
            except Exception as error:
                if not keep_going:
                    raise
                done.errors[cell.id] = error
    return done


def leading_to(notebook: Any, claims: Iterable[str]) -> Any:
    """Keep of the code cells those that the claims rest on, found by the names that they set and use.

    A cell stays if it sets a name that a later one needs, or may change the object: by an assignment to a part of it,
    a method of it, or a call that takes it.
    """
    cells = code_cells(notebook)
    imports = [n for c in cells for n in ast.walk(ast.parse(c.source)) if isinstance(n, ast.Import | ast.ImportFrom)]
    imported = {(alias.asname or alias.name).split(".")[0] for node in imports for alias in node.names}
    needed, kept = set(claims), []
    for cell in reversed(cells):
        tree = ast.parse(cell.source)
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        stores = [node for node in ast.walk(tree) if isinstance(getattr(node, "ctx", None), ast.Store)]
        parts = [arg for call in calls for arg in call.args]
        parts += [node.value for node in [*stores, *(call.func for call in calls)] if hasattr(node, "value")]
        changed = {part.id for part in parts if isinstance(part, ast.Name)} - imported
        if needed & (changed | set(_set_by(tree))):
            kept.append(cell)
            needed |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    notebook.cells = kept[::-1]
    return notebook


def _set_by(node: ast.AST) -> Iterator[str]:
    """Yield the names that a cell sets, without those that live inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield child.name
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in child.names)
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        elif not isinstance(child, ast.Lambda | ast.comprehension):
            yield from _set_by(child)


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run one cell and return the value of its last expression, None if it does not end in one."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


def experiments_of(done: Run) -> dict[str, Experiment]:
    return {name: value for name, value in done.names.items() if isinstance(value, Experiment) and name != "_"}


def sweep(experiment: Experiment) -> list[Problem]:
    """Drive an experiment over all values of each control, and over all pairs of ends; return what went wrong."""
    problems: list[Problem] = []
    start = {name: control.value for name, control in experiment._controls.items()}

    def drive(**values: Any) -> np.ndarray:
        try:
            experiment.set(**(start | values))
        except Exception as error:
            problems.append(Problem(f"raised {type(error).__name__}: {error}", str(values)))
        if not np.isfinite(list(experiment.readout.values())).all():
            problems.append(Problem("a readout is not finite", f"{values}: {experiment.readout}"))
        return experiment.pixels()

    first = drive()
    for name, values in experiment.controls.items():
        if not [value for value in values if (drive(**{name: value}) != first).any()]:
            problems.append(Problem("a control changes nothing", name))
    for one, other in combinations(experiment.controls, 2):
        for a in (experiment.controls[one][0], experiment.controls[one][-1]):
            for b in (experiment.controls[other][0], experiment.controls[other][-1]):
                shown = drive(**{one: a, other: b})
                if (shown != experiment.full_draw()).any():
                    problems.append(Problem("the picture differs from a full draw", f"{one}={a}, {other}={b}"))
    drive()
    for line in experiment._redraw.figure.findobj(Line2D):
        # Matplotlib walks through a JAX array entry by entry: it costs 100 MB and half a second.
        if any(isinstance(part, jax.Array) for part in line.get_data(orig=True)):
            problems.append(Problem("an artist holds a JAX array; give it np.asarray(...)", line.get_label()))
    return problems
