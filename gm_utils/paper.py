"""A mock paper to sit: write, then mark yourself point by point, and see where to read again.

Core ipywidgets only. The page that shows it has the same questions in print, for readers without a kernel.

>>> paper = Paper(1)
>>> paper.tick(question=1, point=1)
>>> paper.total == paper.questions[0].points[0].marks, paper.review().missed[0].question
(True, 1)
"""

import html
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import ipywidgets

from gm_utils.syllabus import Point, Question, Syllabus, draw, is_right
from gm_utils.validation import refuse

_WIDTH = {"width": "98%", "max_width": "60em"}


class Mark(NamedTuple):
    """A marking point of a paper: which question, which of its points, and whether it is earned."""

    question: int
    point: Point
    earned: bool


class Paper:
    """The paper of a seed, to be answered and marked; end a cell with it.

    Args:
        seed: 1 or more.
        syllabus: what ``syllabus.read`` returns; the course's own without.

    Attributes:
        seed: which paper.
        questions: its questions, their values drawn.
    """

    def __init__(self, seed: int = 1, syllabus: Syllabus | None = None) -> None:
        self.seed = seed
        self.questions = draw(seed, syllabus)
        self._totals = [ipywidgets.HTML() for _ in range(2)]
        self._sheets = [_Sheet(k, q, self._add_up) for k, q in enumerate(self.questions, start=1)]
        self._box = ipywidgets.VBox([self._totals[0], *[sheet.box for sheet in self._sheets], self._totals[1]])
        self._add_up()

    @property
    def total(self) -> float:
        """The marks of the points that are ticked."""
        return sum(mark.point.marks for mark in self.marks() if mark.earned)

    @property
    def most(self) -> float:
        """The marks of all points."""
        return sum(question.marks for question in self.questions)

    def marks(self) -> list[Mark]:
        """Return every marking point of the questions whose marking points were asked for, in order."""
        return [
            Mark(number, point, tick.value)
            for number, sheet in enumerate(self._sheets, start=1)
            if sheet.marked
            for point, tick in zip(sheet.question.points, sheet.ticks, strict=True)
        ]

    def tick(self, question: int, point: int, earned: bool = True) -> None:
        """Tick a marking point, or take the tick off; both count from 1, and the question counts as marked.

        Raises:
            ValueError: for a question or a point that the paper does not have.
        """
        ticks = self._sheet(question).ticks
        if not 1 <= point <= len(ticks):
            raise refuse("point", f"to be 1 to {len(ticks)}", point)
        self._sheet(question).opened.value = True
        ticks[point - 1].value = earned

    def give(self, question: int, **numbers: float) -> bool:
        """Give the numbers that a question asks for, as its boxes do, and return whether all of them are right.

        Raises:
            ValueError: for a number that the question does not ask for.
        """
        sheet = self._sheet(question)
        for name, value in numbers.items():
            if name not in sheet.boxes:
                raise refuse("a number", f"among {', '.join(sheet.boxes) or 'none'}", name)
            sheet.boxes[name].value = str(value)
        return sheet.all_right()

    def review(self) -> "Review":
        """Return what to read again: the points of marked questions that are not ticked, by section."""
        return Review(self.marks())

    def _sheet(self, question: int) -> "_Sheet":
        if not 1 <= question <= len(self._sheets):
            raise refuse("question", f"to be 1 to {len(self._sheets)}", question)
        return self._sheets[question - 1]

    def _add_up(self, _: Any = None) -> None:
        for sheet in self._sheets:
            sheet.add_up()
        marked = sum(sheet.marked for sheet in self._sheets)
        words = f"Paper {self.seed}: <b>{self.total:g} of {self.most:g} marks</b>; questions marked so far: {marked}"
        for line in self._totals:
            line.value = f'<div role="status" style="font-size:1.2em">{words}</div>'

    def __repr__(self) -> str:
        return f"Paper {self.seed}: {len(self.questions)} questions, {self.total:g} of {self.most:g} marks ticked"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        words = f"{self!r}. Run this cell to sit it; in print it stands below."
        return {"text/plain": words, "application/vnd.jupyter.widget-view+json": view}


class _Sheet:
    """One question of the paper: its text, boxes to write in, and the marking points once they are asked for."""

    def __init__(self, number: int, question: Question, changed: Callable[[Any], None]) -> None:
        self.question = question
        self.marked = False  # once the points were shown; hiding them again takes no marks away
        head = f"<h3>Question {number} ({question.marks:g} marks)</h3>{_typeset(question.ask)}"
        essay = ipywidgets.Textarea(
            placeholder="Write your answer here", rows=3 if question.marks < 5 else 14, layout=_WIDTH
        )
        self.boxes, lines = {}, []
        for name, words in question.numbers.items():
            box = ipywidgets.Text(
                description=words, placeholder="a number", style={"description_width": "initial"},
                continuous_update=False,
            )  # fmt: skip
            self.boxes[name], remark = box, ipywidgets.HTML()
            box.observe(partial(self._judge, name, remark), names="value")
            lines.append(ipywidgets.HBox([box, remark]))
        self.opened = ipywidgets.ToggleButton(description="Mark this answer", tooltip="Show the marking points")
        self.ticks, rows, self._links = [], [], []
        for point in question.points:
            tick = ipywidgets.Checkbox(
                description=f"{point.marks:g}", indent=False, layout={"width": "4.5em", "flex": "0 0 auto"}
            )
            text = f"→ [{point.place}]({point.address})"
            data = {"text/markdown": text, "text/plain": text}  # in Markdown JupyterLab follows it, in HTML it does not
            link = ipywidgets.Output(outputs=({"output_type": "display_data", "data": data, "metadata": {}},))
            words = ipywidgets.VBox([ipywidgets.HTMLMath(_typeset(point.words)), link], layout={"flex": "1 1 auto"})
            tick.observe(changed, names="value")
            self.ticks.append(tick)
            self._links.append(link)
            rows.append(ipywidgets.HBox([tick, words]))
        self._sum = ipywidgets.HTML()
        self._scheme = ipywidgets.VBox([*rows, self._sum], layout={**_WIDTH, "display": "none"})
        self.opened.observe(self._open, names="value")
        self.opened.observe(changed, names="value")
        self.box = ipywidgets.VBox([ipywidgets.HTMLMath(head), essay, *lines, self.opened, self._scheme], layout=_WIDTH)

    def add_up(self) -> None:
        """Show what is earned; a point that is not has its link."""
        for tick, link in zip(self.ticks, self._links, strict=True):
            link.layout.display = "none" if tick.value else ""
        earned = sum(point.marks for point, tick in zip(self.question.points, self.ticks, strict=True) if tick.value)
        self._sum.value = f"<b>{earned:g} of {self.question.marks:g} marks</b>"

    def all_right(self) -> bool:
        """Return whether every number asked for has been given and is right."""
        return all(map(self._right, self.boxes))

    def _right(self, name: str) -> bool:
        number = _number(self.boxes[name].value)
        return number is not None and is_right(number, self.question.values[name])

    def _judge(self, name: str, remark: Any, change: Any) -> None:
        words = "✔ right" if self._right(name) else "✘ not yet"
        if _number(change["new"]) is None:
            words = "write it as a number, such as 0.25"
        remark.value = f'<span role="status">{words}</span>'

    def _open(self, change: Any) -> None:
        self.marked = True
        self._scheme.layout.display = "" if change["new"] else "none"


class Review:
    """The points that are still to be earned, by notebook and section, with links; as a notebook's cell shows it."""

    def __init__(self, marks: list[Mark]) -> None:
        self.missed = [mark for mark in marks if not mark.earned]
        self._nothing = "Nothing: every point is ticked." if marks else "No question is marked yet."

    def __repr__(self) -> str:
        lines = [
            f"question {mark.question}, {mark.point.marks:g}: {mark.point.words} -> {mark.point.place}"
            for mark in self.missed
        ]
        return "\n".join(lines) or self._nothing

    def _repr_markdown_(self) -> str:
        places: dict[tuple[str, str], list[Mark]] = {}
        for mark in sorted(self.missed, key=lambda mark: (mark.point.notebook, mark.question)):
            places.setdefault((mark.point.place, mark.point.address), []).append(mark)
        lines = []
        for (place, address), marks in places.items():
            missed = sum(mark.point.marks for mark in marks)
            lines.append(f"- [{place}]({address}), {missed:g} mark{'s' * (missed != 1)}")
            lines += [f"  - question {mark.question}: {mark.point.words}" for mark in marks]
        return "\n".join(lines) or self._nothing


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ".").replace("−", "-"))
    except ValueError:
        return None


def _typeset(text: str) -> str:
    """Return text with $formulas$ and *emphasis* as HTML; the front end sets the formulas."""
    parts = html.escape(text, quote=False).replace("\n\n", "<br><br>").split("$")
    parts[::2] = [re.sub(r"\*(.+?)\*", r"<em>\1</em>", part) for part in parts[::2]]
    return f'<div style="line-height:1.5">{"$".join(parts)}</div>'
