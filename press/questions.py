"""The questions' file and the notebooks: what it says is checked against them, and written into them.

A notebook of the course shows its question and its answer, the mock paper some papers in print, for pages that no
kernel stands behind. ``course.py questions`` calls this.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from gm_utils.syllabus import Question, Syllabus, draw, filled
from gm_utils.validation import refuse


def check(syllabus: Syllabus, notebooks: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a syllabus whose numbers cannot be computed or whose points lead nowhere.

    Args:
        syllabus: what ``read`` returns.
        notebooks: name to notebook, in the form of its file; every section that is taught stands in one of them.

    Raises:
        ValueError: for a question whose numbers do not come out, for its first or its last values; for a point whose
            section no notebook has.
    """
    for question in syllabus.questions:
        for place in (0, -1):
            filled(question, {name: choices[place] for name, choices in question.draw.items()})
    lost = lost_links(syllabus.questions, notebooks)
    if lost:
        raise refuse("the section of every point", "to be a heading of its notebook", ", ".join(lost))


def lost_links(questions: list[Question], notebooks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the addresses, in the points of questions, of sections that the notebooks do not have."""
    headings = {}
    for name, notebook in notebooks.items():
        text = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
        headings[name] = re.findall(r"(?m)^##+ (.+)$", text)
    return [
        point.address
        for question in questions
        for point in question.points
        if point.section not in headings.get(point.notebook, [])
    ]


def answer_section(question: Question) -> str:
    """Return a notebook's section on the answer: marking points, a folded model answer, what loses marks."""
    rows = "\n".join(f"| {point.marks:g} | {point.words} |" for point in question.points)
    return (
        f"## The answer\n\n| marks | point |\n|---|---|\n{rows}\n\n{_folded('A model answer', question.answer)}\n\n"
        f"**What loses marks.** {question.loses.strip()}"
    )


def facts_line(syllabus: Syllabus, minutes: int = 90) -> str:
    """Return the line in which the mock paper says how long its papers are and which of them differ throughout."""
    total, pools = sum(syllabus.marks), Counter(question.slot for question in syllabus.questions)
    kinds = ", ".join(f"{number} of {marks:g}" for marks, number in Counter(syllabus.marks).items())
    fewest = min(pools.values())
    apart = f"Papers 1 to {fewest} have no question in common; later seeds" if fewest > 1 else "Seeds"
    return (
        f"> {len(syllabus.marks)} questions, {total:g} marks: {kinds}. In {minutes} minutes that is "
        f"{minutes / total:.1f} for a mark. {apart} mix the questions anew and draw their numbers again."
    )


def printed(seed: int, syllabus: Syllabus | None = None) -> list[tuple[str, str]]:
    """Return (name, Markdown) for the cells of a paper in print: each question, its scheme and model answer folded."""
    paper = draw(seed, syllabus)
    total = sum(question.marks for question in paper)
    cells = [(f"paper-{seed}", f"## Paper {seed}\n\n{len(paper)} questions, {total:g} marks.")]
    for number, question in enumerate(paper, start=1):
        rows = "\n".join(f"| {p.marks:g} | {p.words} | [{p.place}]({p.address}) |" for p in question.points)
        scheme = f"| marks | point | taught in |\n|---|---|---|\n{rows}\n\n{question.answer.strip()}"
        head = f"### Paper {seed}, question {number}\n\n{question.ask} *({question.marks:g} marks)*"
        text = f"{head}\n\n{_folded('Marking scheme and model answer', scheme)}"
        cells.append((f"paper-{seed}-question-{number}", text))
    return cells


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text.strip()}\n</details>"


def written_into(notebook: dict[str, Any], name: str, syllabus: Syllabus, seeds: range = range(1, 4)) -> None:
    """Write what the questions say into a notebook, in the form of its file, in place.

    A notebook of the course takes its question and its answer (the cells ``question`` and ``answer``). The mock paper
    takes the line > ... of its cell ``title``, and its papers in print: the cells whose names begin with ``paper-``,
    before the cell ``numbers`` or at the end. Every other cell stays as it is.

    Raises:
        ValueError: for a notebook with a question of its own, but no cell and no line to put it.
    """
    if name == "mock_paper":
        kept = [cell for cell in notebook["cells"] if not cell["id"].startswith("paper-")]
        _write_line(name, kept, "title", r"^> .*$", facts_line(syllabus))
        made = [
            {"cell_type": "markdown", "id": cell, "metadata": {}, "source": text}
            for seed in seeds
            for cell, text in printed(seed, syllabus)
        ]
        place = next((k for k, cell in enumerate(kept) if cell["id"] == "numbers"), len(kept))
        notebook["cells"] = kept[:place] + made + kept[place:]
        return
    for question in syllabus.questions:
        if question.page and question.notebook == name:
            line = f"> *{question.ask}* ({question.marks:g} marks)"
            _write_line(name, notebook["cells"], "question", r"^> \*.*\* \([\d.]+ marks\)$", line)
            _cell(name, notebook["cells"], "answer")["source"] = answer_section(question)


def _write_line(notebook: str, cells: list[dict[str, Any]], name: str, pattern: str, line: str) -> None:
    """Replace the one line of a notebook's cell that fits a pattern."""
    cell = _cell(notebook, cells, name)
    source, found = re.subn(pattern, lambda _: line, "".join(cell["source"]), flags=re.M)
    if found != 1:
        raise refuse(f"the cell {name} of {notebook}", f"to have one line like {pattern}", found)
    cell["source"] = source


def _cell(notebook: str, cells: list[dict[str, Any]], name: str) -> dict[str, Any]:
    named = {cell["id"]: cell for cell in cells}
    if name not in named:
        raise refuse(f"the notebook {notebook}", f"to have a cell called {name}", f"only {sorted(named)}")
    return named[name]
