"""What is asked and what earns marks: the one file ``questions.toml``, read, checked and drawn from.

The file says itself how it is laid out. A paper is one question of each slot; a seed picks which, and the values in it.

>>> draw(1) == draw(1), draw(1) == draw(2)
(True, False)
>>> shown(2 / 3), is_right(0.667, 2 / 3)
('0.667', True)
"""

import contextlib
import hashlib
import math
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from gm_utils.validation import positive_int, refuse

FILE = Path(__file__).with_name("questions.toml")
_PLACE = re.compile(r"\{\{(\w+)\}\}")
_KINDS = {
    bool: "true or false",
    dict: "a table { ... }",
    float: "a number",
    int: "a whole number",
    list: "a list [ ... ]",
    str: "text",
}


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
        ValueError: for a file that is no TOML, a key that is missing, unknown or of another kind, and marks that do
            not add up.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise refuse(str(path), "to be TOML in UTF-8", str(error)) from None
    _check_kind("[paper]", dict, content.get("paper", {}))
    marks, entries = content.get("paper", {}).get("marks"), content.get("question")
    if not marks or not entries:
        raise refuse(str(path), "to have [paper] with its marks, and a [[question]]", f"the tables {sorted(content)}")
    formulas = content.get("formula", [])
    for name, tables in (("question", entries), ("formula", formulas)):
        _check_kind(f"[[{name}]], in double brackets,", list[dict], tables)
    _check_kind("the marks of [paper]", list[float], marks)
    questions = [_question(place, entry, marks) for place, entry in enumerate(entries, start=1)]
    for slot in range(1, len(marks) + 1):
        if not any(question.slot == slot for question in questions):
            raise refuse(f"slot {slot}", "to have a question", "none")
    pages = Counter(question.notebook for question in questions if question.page)
    for notebook, number in pages.items():
        if number > 1:
            raise refuse(f"the page {notebook}", "to ask one question", f"{number} with page = true")
    return Syllabus(marks, questions, [_formula(place, entry) for place, entry in enumerate(formulas, start=1)])


def _check_kind(what: str, kind: Any, value: Any) -> None:
    """Refuse a value of another kind than an annotation says, such as ``list[float]``, or one that holds such."""
    outer, inner = get_origin(kind) or kind, get_args(kind)
    wanted: Any = (int, float) if outer is float else outer
    if not isinstance(value, wanted) or (isinstance(value, bool) and outer is not bool):
        raise refuse(what, f"to be {_KINDS[outer]}", repr(value))
    if inner and outer is list:
        for one in value:
            _check_kind(f"each of {what}", inner[0], one)
    if inner and outer is dict:
        for key, one in value.items():
            _check_kind(f"{key} in {what}", inner[1], one)


def _made(kind: Any, name: str, entry: dict[str, Any]) -> Any:
    hints = {key: hint for key, hint in get_type_hints(kind).items() if key != "values"}
    missing = [key for key in hints if key not in entry and key not in kind._field_defaults]
    unknown = [key for key in entry if key not in hints]
    if missing or unknown:
        got = [f"none called {', '.join(missing)}"] * bool(missing) + [f"also {', '.join(unknown)}"] * bool(unknown)
        raise refuse(name, f"to have the keys {', '.join(hints)}", "; ".join(got))
    for key, value in entry.items():
        _check_kind(f"{key} of {name}", hints[key], value)
    return kind(**entry)


def _formula(place: int, entry: dict[str, Any]) -> Formula:
    name = f"formula {place} of the file"
    formula = _made(Formula, name, entry)
    try:
        re.compile(formula.prints)
    except re.error as error:
        raise refuse(f"prints of {name}", "to be a pattern", f"{formula.prints!r}: {error}") from None
    return formula


def _question(place: int, entry: dict[str, Any], marks: list[float]) -> Question:
    name = f"question {place} of the file"
    if isinstance(entry.get("ask"), str):
        name = f"{name}, {entry['ask'][:40]!r}"
    rows = entry.get("points", [])
    _check_kind(f"points of {name}", list, rows)
    points = []
    for number, point in enumerate(rows, start=1):
        _check_kind(f"point {number} of {name}", dict, point)
        points.append(_made(Point, f"point {number} of {name}", {"notebook": entry.get("notebook", ""), **point}))
    question = _made(Question, name, {**entry, "points": tuple(points)})
    if not 1 <= question.slot <= len(marks):
        raise refuse(f"the slot of {name}", f"to be 1 to {len(marks)}", question.slot)
    if question.marks != marks[question.slot - 1]:
        raise refuse(f"the marks of {name}", f"to be the {marks[question.slot - 1]} of its slot", question.marks)
    total = sum(point.marks for point in points)
    if not math.isclose(total, question.marks):
        raise refuse(f"the points of {name}", f"to add up to {question.marks:g} marks", f"{total:g}")
    if question.page and not question.loses.strip():
        raise refuse(name, "to have loses, since page = true", "none")
    for key, choices in question.draw.items():
        if not choices:
            raise refuse(f"{key} in draw of {name}", "to have values to choose from", "none")
    return question


def draw(seed: int, syllabus: Syllabus | None = None) -> list[Question]:
    """Return the paper of a seed: one question of each slot, with its values drawn and its numbers computed.

    Where each slot has n questions, the papers of seeds 1 to n have none in common, those of n + 1 to 2n neither,
    and so on. The choice is the same on every machine.

    Args:
        seed: 1 or more.
        syllabus: what ``read`` returns; the course's own without.

    Raises:
        ValueError: for another seed, and as ``filled``.
    """
    positive_int("seed", seed)
    syllabus = syllabus or read()
    paper = []
    for slot in range(1, len(syllabus.marks) + 1):
        pool = [question for question in syllabus.questions if question.slot == slot]
        turn, place = divmod(seed - 1, len(pool))
        question = pool[(place + _lot(len(pool), "slot", slot, turn)) % len(pool)]
        chosen = {name: choices[_lot(len(choices), seed, slot, name)] for name, choices in question.draw.items()}
        paper.append(filled(question, chosen))
    return paper


def _lot(size: int, *what: Any) -> int:
    digest = hashlib.sha256("/".join(map(str, what)).encode()).hexdigest()
    return int(digest, 16) % size


def filled(question: Question, chosen: dict[str, float]) -> Question:
    """Return the question with the chosen values, and with what they compute, in place of each ``{{name}}``.

    Raises:
        ValueError: for ``compute`` that does not run, for a ``{{name}}`` or a number asked for that is neither drawn
            nor computed, and for a number that is not finite.
    """
    names: dict[str, Any] = dict(chosen)
    asker = f"slot {question.slot}, {question.ask[:40]!r}"
    try:
        exec(question.compute, names)  # the course's own file, as much its code as a notebook's cells
    except Exception as error:
        raise refuse(f"compute of {asker}", "to run", f"{type(error).__name__}: {error}") from error
    values = {}
    for name, value in names.items():
        with contextlib.suppress(TypeError, ValueError):  # functions, lists and arrays of several numbers
            values[name] = float(value)

    def text(template: str) -> str:
        return _PLACE.sub(lambda found: shown(values[found[1]]), template)

    try:
        points = tuple(point._replace(words=text(point.words)) for point in question.points)
        done = question._replace(ask=text(question.ask), points=points, answer=text(question.answer), values=values)
        for name in question.numbers:
            if not math.isfinite(values[name]):
                raise refuse(f"{name} of {asker}", "to be finite", values[name])
    except KeyError as missing:
        raise refuse(f"{missing.args[0]} of {asker}", "to be drawn or computed", f"only {sorted(values)}") from None
    return done


def shown(value: float) -> str:
    """Return a number as a question shows it, to three significant digits."""
    return f"{value:.3g}"


def is_right(answer: float, value: float) -> bool:
    """Return whether a number given as an answer is right: within 1 %, or 0.0005 where the right one is zero."""
    return abs(answer - value) <= (0.01 * abs(value) if value else 0.0005)
