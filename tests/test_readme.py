"""What README.md and CONTRIBUTING.md state is so: counts, links, commands; the film is short and small, and moves."""

import importlib
import re

import pytest
from PIL import Image

import course
import notebook_tools as tools

pytestmark = pytest.mark.once
PAGES = {name: (tools.ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")}
CASES = [importlib.import_module(f"cases_{path.name[:2]}") for path in tools.QUESTIONS]
CELLS = {
    "claims": r"(?m)^\w+ = Claim\(",
    "experiments": r"(?m)^\w+ = experiment\(",
    "cells": rf"\A{tools.CHECKED}",
    "exercises": r"(?m)^check\(",
    "planted mistakes": r"(?m)^refuted_\d = ",
}


def counted():
    """Return what the eight notebooks and the cases of their tests hold, by the words of the README."""
    sources = [cell.source for path in tools.QUESTIONS for cell in tools.code_cells(tools.read(path))]
    found = {what: sum(len(re.findall(pattern, source)) for source in sources) for what, pattern in CELLS.items()}
    found["faults"] = sum(len(case.BROKEN) + len(getattr(case, "BROKEN_PAGES", [])) for case in CASES)
    found["wrong answers"] = sum(len(wrong) for case in CASES for wrong in case.MISTAKES.values())
    return found


def test_the_counts_are_those_of_the_notebooks():
    text, found = " ".join(PAGES["README.md"].split()), counted()
    stated = {what: set(map(int, re.findall(rf"\b(\d+) {what}\b", text))) for what in found}
    assert stated == {what: {number} for what, number in found.items()}
    lines = [[tools.code_lines(cell.source) for cell in tools.code_cells(tools.read(path))] for path in tools.QUESTIONS]
    assert f"| {max(first for first, *_ in lines)}, {max(map(max, lines))} |" in text
    assert f"| {found['cells']} of {found['cells']}, in each set |" in text


@pytest.mark.parametrize("name", PAGES)
def test_links_commands_and_paths_lead_somewhere(name):
    text = PAGES[name]
    places = re.findall(r"\]\(([^)\s]+)\)", text)
    places += re.findall(r"`((?:notebooks|tests|docs|benchmarks|gm_utils|\.ci)/[\w./]*)[ `]", text)
    assert [place for place in places if "NN" not in place and not (tools.ROOT / place).exists()] == []
    assert set(re.findall(r"course\.py (\w+)", text)) <= set(course.COMMANDS)


def test_the_film_is_short_small_and_moves():
    words, place = re.search(r"!\[([^\]]+)\]\((docs/film\.\w+)\)", PAGES["README.md"]).groups()
    assert len(words.split()) > 10
    film = tools.ROOT / place
    assert film.stat().st_size < 800_000
    with Image.open(film) as frames:
        milliseconds = []
        for number in range(frames.n_frames):
            frames.seek(number)
            frames.load()
            milliseconds.append(frames.info["duration"])
        assert frames.info["loop"] == 0  # for ever
        assert 700 <= frames.width <= 1000
    assert len(milliseconds) > 20
    assert 6_000 <= sum(milliseconds) <= 10_000


def test_the_memory_of_every_notebook_is_stated_and_a_class_fits():
    section = PAGES["README.md"].split("## A class on one server")[1].split("## ")[0]
    names, _, sizes = ([cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"(?m)^\|.*$", section))
    pages = sorted(path.stem for path in tools.FOLDER.glob("*.ipynb"))
    assert [page[:2] if page[0].isdigit() else page for page in pages] == names
    assert max(map(int, sizes)) <= 800
    sentence = re.search(r"So (\d+) students' kernels .* take ([\d.]+) of (\d+) GB", section)
    students, taken, memory = map(float, sentence.groups())
    assert round(students * max(map(int, sizes)) / 1000, 1) == taken < memory
