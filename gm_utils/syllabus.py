"""What is asked and what earns marks: the one file ``questions.toml``, read, checked, drawn from, and set as Markdown.

The file says itself how it is laid out. A paper is one question of each slot; a seed picks which, and the values in it.
"""

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from gm_utils.validation import positive_int, refuse

FILE = Path(__file__).with_name("questions.toml")
_PLACE = re.compile(r"\{\{(\w+)\}\}")


class Point(NamedTuple):
    """Something that earns ``marks``, and the section of a notebook that teaches it."""

    marks: float
    words: str
    section: str
    notebook: str

    @property
    def address(self) -> str:
        """Where the section is, as a link from a notebook beside it."""
        return f"{self.notebook}.ipynb#{self.section.replace(' ', '-')}"

    @property
    def place(self) -> str:
        """The section in words: the notebook's number and the heading."""
        return f"{self.notebook[:2]} · {self.section}"


class Question(NamedTuple):
    """One question; those with numbers keep ``{{name}}`` in their text until ``draw`` fills it in.

    Attributes:
        slot: which question of a paper it may become, from 1.
        marks: what it carries; the marks of its ``points`` add up to it.
        notebook: the file that teaches it, without ``.ipynb``.
        ask: the question.
        points: the marking points.
        answer: a model answer.
        page: whether it is the question that the notebook itself asks; ``loses`` then says what loses marks.
        draw: name to the values that it may take.
        compute: Python that turns them into the right numbers.
        numbers: the numbers asked for, name to what it is.
        values: every number that ``compute`` left, once drawn.
    """

    slot: int
    marks: float
    notebook: str
    ask: str
    points: tuple[Point, ...]
    answer: str
    page: bool = False
    loses: str = ""
    draw: dict[str, list[float]] = {}  # noqa: RUF012
    compute: str = ""
    numbers: dict[str, str] = {}  # noqa: RUF012
    values: dict[str, float] = {}  # noqa: RUF012


class Formula(NamedTuple):
    """A formula of a model answer, and the cell that computes a number from it; see ``questions.toml``."""

    notebook: str
    plain: list[str]
    tex: str
    cell: str
    prints: str
    note: str = ""


class Syllabus(NamedTuple):
    """All questions and formulas, and the marks of a paper's questions, first to last."""

    marks: list[float]
    questions: list[Question]
    formulas: list[Formula]


def read(path: str | Path = FILE) -> Syllabus:
    """Return the questions in a file laid out like ``questions.toml``.

    Raises:
        ValueError: for a file that is no TOML, a key that is missing or unknown, and marks that do not add up.
    """
    content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    if not content.get("paper", {}).get("marks") or not content.get("question"):
        raise refuse(str(path), "to have [paper] with its marks, and a [[question]]", f"the tables {sorted(content)}")
    marks = content["paper"]["marks"]
    questions = [_question(entry, marks) for entry in content["question"]]
    for slot in range(1, len(marks) + 1):
        if not any(question.slot == slot for question in questions):
            raise refuse(f"slot {slot}", "to have a question", "none")
    formulas = []
    for entry in content.get("formula", []):
        plain = entry.get("plain")
        formulas.append(_made(Formula, {**entry, "plain": [plain] if isinstance(plain, str) else plain}))
    return Syllabus(marks, questions, formulas)


def _made(kind: Any, entry: dict[str, Any]) -> Any:
    try:
        return kind(**entry)
    except TypeError as error:
        raise refuse(f"a {kind.__name__.lower()}", f"to have the keys {', '.join(kind._fields)}", str(error)) from None


def _question(entry: dict[str, Any], marks: list[float]) -> Question:
    notebook = entry.get("notebook", "")
    points = tuple(_made(Point, {"notebook": notebook, **point}) for point in entry.get("points", []))
    question = _made(Question, {**entry, "points": points})
    name = f"question {question.ask[:40]!r}"
    if not 1 <= question.slot <= len(marks):
        raise refuse(f"the slot of {name}", f"to be 1 to {len(marks)}", question.slot)
    if question.marks != marks[question.slot - 1]:
        raise refuse(f"the marks of {name}", f"to be the {marks[question.slot - 1]} of its slot", question.marks)
    total = sum(point.marks for point in points)
    if total != question.marks:
        raise refuse(f"the points of {name}", f"to add up to {question.marks} marks", total)
    return question


def draw(seed: int, syllabus: Syllabus | None = None) -> list[Question]:
    """Return the paper of a seed: one question of each slot, with its values drawn and its numbers computed.

    Where each slot has n questions, the papers of seeds 1 to n have none in common, those of n + 1 to 2n neither,
    and so on. The choice is the same on every machine.

    Args:
        seed: 1 or more.
        syllabus: what ``read`` returns; the course's own without.
    """
    positive_int("seed", seed)
    syllabus = syllabus or read()
    paper = []
    for slot in range(1, len(syllabus.marks) + 1):
        pool = [question for question in syllabus.questions if question.slot == slot]
        turn, place = divmod(seed - 1, len(pool))
        question = pool[(place + _lot(len(pool), "slot", slot, turn)) % len(pool)]
        chosen = {name: _drawn(choices, seed, slot, name) for name, choices in question.draw.items()}
        paper.append(filled(question, chosen))
    return paper


def _lot(size: int, *what: Any) -> int:
    digest = hashlib.sha256("/".join(map(str, what)).encode()).hexdigest()
    return int(digest, 16) % size


def _drawn(choices: list[float], seed: int, slot: int, name: str) -> float:
    return choices[_lot(len(choices), seed, slot, name)]


def filled(question: Question, chosen: dict[str, float]) -> Question:
    """Return the question with the chosen values, and with what they compute, in place of each ``{{name}}``.

    Raises:
        ValueError: for a ``{{name}}`` or a number asked for that is neither drawn nor computed.
    """
    names: dict[str, Any] = dict(chosen)
    exec(question.compute, names)  # the course's own file, as much its code as a notebook's cells
    values = {}
    for name, value in names.items():
        if not name.startswith("_") and not callable(value) and getattr(value, "shape", None) in (None, ()):
            try:
                values[name] = float(value)
            except (TypeError, ValueError):
                continue

    def text(template: str) -> str:
        return _PLACE.sub(lambda found: shown(values[found[1]]), template)

    try:
        points = tuple(point._replace(words=text(point.words)) for point in question.points)
        asked = {name: values[name] for name in question.numbers}
        return question._replace(
            ask=text(question.ask), points=points, answer=text(question.answer), values={**values, **asked}
        )
    except KeyError as missing:
        raise refuse(f"{missing.args[0]} of slot {question.slot}", "to be drawn or computed", sorted(values)) from None


def shown(value: float) -> str:
    """Return a number as a question shows it, to three significant digits."""
    return f"{value:.3g}"


def is_right(answer: float, value: float) -> bool:
    """Return whether a number given as an answer is right: within 2 %, or 0.005 where the right one is small."""
    return abs(answer - value) <= max(0.02 * abs(value), 0.005)


# As Markdown, for pages that no kernel stands behind


def asked_line(question: Question) -> str:
    """Return the line in which a notebook asks its question."""
    return f"> *{question.ask}* ({question.marks:g} marks)"


def answer_section(question: Question) -> str:
    """Return a notebook's section on the answer: marking points, a folded model answer, what loses marks."""
    rows = "\n".join(f"| {point.marks:g} | {point.words} |" for point in question.points)
    return (
        f"## The answer\n\n| marks | point |\n|---|---|\n{rows}\n\n{_folded('A model answer', question.answer)}\n\n"
        f"**What loses marks.** {question.loses.strip()}"
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

    A notebook of the course takes its question and its answer (the cells ``question`` and ``answer``), the mock paper
    its papers in print: the cells whose names begin with ``paper-``, before the cell ``numbers`` or at the end. Every
    other cell stays as it is.

    Raises:
        ValueError: for a notebook with a question of its own, but no cell and no line to put it.
    """
    if name == "mock_paper":
        kept = [cell for cell in notebook["cells"] if not cell["id"].startswith("paper-")]
        made = [_markdown_cell(*cell) for seed in seeds for cell in printed(seed, syllabus)]
        place = next((k for k, cell in enumerate(kept) if cell["id"] == "numbers"), len(kept))
        notebook["cells"] = kept[:place] + made + kept[place:]
        return
    for question in syllabus.questions:
        if question.page and question.notebook == name:
            cells = {cell["id"]: cell for cell in notebook["cells"]}
            if not {"question", "answer"} <= set(cells):
                raise refuse(f"the notebook {name}", "to have cells called question and answer", sorted(cells))
            line = re.compile(r"^> \*.*\* \([\d.]+ marks\)$", flags=re.M)
            asks, found = line.subn(lambda _, q=question: asked_line(q), _text(cells["question"]))  # type: ignore[misc]
            if found != 1:
                raise refuse(f"the cell question of {name}", "to have one line > *...* (... marks)", found)
            cells["question"]["source"], cells["answer"]["source"] = asks, answer_section(question)


def _text(cell: dict[str, Any]) -> str:
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def _markdown_cell(name: str, text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}
