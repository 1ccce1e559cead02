"""Spot the error: every planted mistake is refuted by its own cell, and the mended line is not."""

import ast
import json
import re
import symtable

import pytest

import course
import notebook_tools as tools

PAGES = {path.name[:2]: path for path in tools.QUESTIONS}
EACH = 2


def exercises(notebook):
    """Return [(the cell to run, its place, the mended function)] of a page, in order; folds hold the mended ones."""
    cells = {cell.id: cell.source for cell in notebook.cells}
    found = []
    for name, source in cells.items():
        place = re.fullmatch(r"spot-(\d+)-code", name)
        if place:
            fold = cells.get(f"spot-{place[1]}-error", "")
            mended = re.search(r"<summary>The error</summary>\s*```python\n(.*?)```", fold, flags=re.S)
            found.append((source, place[1], mended[1] if mended else ""))
    return found


def with_function(source, mended):
    """Return the cell with one of its functions replaced by the function of the same name in ``mended``."""
    (new,) = ast.parse(mended).body
    old = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == new.name]
    assert len(old) == 1, f"the cell has no function {new.name}"
    lines = source.splitlines()
    return "\n".join([*lines[: old[0].lineno - 1], mended, *lines[old[0].end_lineno :]])


def verdicts(notebook):
    """Return {place: (as written, mended)}, whether the cell refutes; each runs after the set-up cell alone."""
    start = course.setup_cell({"cells": notebook.cells})["source"]
    found = {}
    for source, place, mended in exercises(notebook):
        pair = []
        for version in (source, with_function(source, mended)):
            names = {"__name__": "__main__"}
            tools.run_cell(start, names)
            tools.run_cell(version, names)
            pair.append(names[f"refuted_{place}"])
        found[place] = tuple(pair)
    return found


def test_there_are_two_on_every_page():
    counts = {number: len(exercises(tools.read(path))) for number, path in PAGES.items()}
    assert counts == dict.fromkeys(PAGES, EACH)
    assert sum(counts.values()) >= 16


@pytest.mark.parametrize("number", PAGES)
def test_the_mistake_is_refuted_and_the_mended_line_is_not(number):
    notebook = tools.read(PAGES[number])
    with tools.jax.numpy_dtype_promotion("standard"), tools.jax.numpy_rank_promotion("allow"):
        found = verdicts(notebook)
    assert found == {str(place): (True, False) for place in range(1, EACH + 1)}
    for source, place, _ in exercises(notebook):
        assert source.startswith(tools.CHECKED), "a cell whose outcome nobody compares"
        cell = next(cell for cell in notebook.cells if cell.id == f"spot-{place}-code")
        printed = "".join(output.get("text", "") for output in cell.outputs)
        assert printed.endswith("refuted: True\n")


@pytest.mark.parametrize("number", PAGES)
def test_its_names_are_its_own(number):
    """Run again at any time, it may not break what a slider or a claim looks up."""
    cells = {cell.id: cell for cell in tools.code_cells(tools.read(PAGES[number]))}
    mine = [name for name in cells if re.fullmatch(r"spot-\d+-code", name)]

    def of_page(source):
        return {one.get_name() for one in symtable.symtable(source, "cell", "exec").get_symbols() if one.is_assigned()}

    def looked_up(source):
        return {
            node.id
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }

    taken = set().union(*(of_page(cells[name].source) for name in mine))
    others = set().union(*(looked_up(cell.source) for name, cell in cells.items() if name not in mine))
    assert taken & others == set()


def page_of(number, change):
    notebook = tools.read(PAGES[number])
    for cell in notebook.cells:
        cell.source = change(cell.id, cell.source)
    return notebook


FIRST = next(iter(PAGES))


def test_a_mistake_that_is_no_mistake_is_seen():
    """Plant the mended line in place of the mistake: the cell must stop refuting."""
    (source, place, mended), *_ = exercises(tools.read(PAGES[FIRST]))
    notebook = page_of(FIRST, lambda name, text: with_function(text, mended) if text == source else text)
    assert verdicts(notebook)[place] == (False, False)


def test_a_correction_that_is_none_is_seen():
    """Plant the mistake in the fold: the mended line must then be refuted as well."""
    (source, place, mended), *_ = exercises(tools.read(PAGES[FIRST]))
    tree = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    wrong = ast.get_source_segment(source, tree[0]) + "\n"
    notebook = page_of(FIRST, lambda name, text: text.replace(mended, wrong))
    assert verdicts(notebook)[place] == (True, True)


def test_a_missing_exercise_is_seen():
    notebook = tools.read(PAGES[FIRST])
    notebook.cells = [cell for cell in notebook.cells if cell.id != "spot-2-code"]
    assert len(exercises(notebook)) == EACH - 1


def test_the_error_is_folded_away_and_not_told_before():
    for path in PAGES.values():
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in course.without_answers(notebook)["cells"]:
            assert "<summary>The error" not in "".join(cell["source"])
