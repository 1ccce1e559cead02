"""One page to print: every formula of the model answers, beside the number that a notebook's cell computed from it."""

import html
import re
from collections.abc import Mapping
from typing import Any

from gm_utils.syllabus import Formula, Syllabus
from gm_utils.validation import refuse

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.45 system-ui, sans-serif; max-width: 64em; margin: 1.5em auto; padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: 0; } h2 { font-size: 1.15em; margin: 1.6em 0 .3em; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: middle; padding: .35em .8em .35em 0; border-top: 1px solid #8888; }
th { font-size: .8em; font-weight: normal; opacity: .8; }
td:first-child { width: 45%; } td:last-child { width: 22%; font-size: .8em; opacity: .8; }
code { font-size: .85em; overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; vertical-align: middle; }
@media (max-width: 40em) { th { display: none; } td, td:first-child, td:last-child { display: block; width: auto; }
  td + td { border: 0; padding-top: 0; } }
@media print { body { font-size: 11px; margin: 0; } tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def printed_text(cell: Mapping[str, Any]) -> str:
    """Return what a code cell of a stored notebook printed, as text."""
    outputs = cell.get("outputs", [])
    return "\n".join("".join(one.get("text") or one.get("data", {}).get("text/plain", "")) for one in outputs)


def computed(formula: Formula, notebook: Mapping[str, Any]) -> tuple[str, str]:
    """Return what the formula's cell printed of it, and the section that the cell stands in.

    Args:
        formula: which cell, and the pattern for what it prints.
        notebook: the notebook in the form of its file, outputs stored.

    Raises:
        ValueError: if there is no such cell, or if it printed nothing of that kind.
    """
    section = ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            headings = re.findall(r"(?m)^## (.+)$", "".join(cell["source"]))
            section = headings[-1] if headings else section
        elif cell["id"] == formula.cell:
            found = re.search(formula.prints, printed_text(cell))
            if found and re.search(r"\d", found[0]):
                return " ".join(found[0].split()), section
            wanted = f"to have printed {formula.prints!r}"
            raise refuse(f"cell {formula.cell} of {formula.notebook}", wanted, repr(printed_text(cell)[:200]))
    raise refuse(formula.notebook, f"to have a cell {formula.cell}, for {formula.plain[0]!r}", "none")


def drawn(tex: str, words: str) -> str:
    r"""Return a formula as an SVG that needs no font and takes the colour of the text around it.

    >>> drawn(r"\sigma^2", "the variance")[:43]
    '<svg role="img" aria-label="the variance" w'

    Args:
        tex: the formula, as Matplotlib's mathtext reads it, without dollar signs.
        words: the same as text, for those who cannot see it.

    Raises:
        ValueError: for a formula that mathtext cannot read.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.path import Path
    from matplotlib.textpath import TextPath

    letters = TextPath((0, 0), f"${tex}$", prop=FontProperties(family="DejaVu Sans", math_fontfamily="cm", size=17))
    names = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}
    strokes = []
    for points, kind in letters.iter_segments(curves=True, simplify=False):
        flipped = [f"{-y if k % 2 else y:.2f}" for k, y in enumerate(points)]
        strokes.append(names[kind] + ("" if kind == Path.CLOSEPOLY else " ".join(flipped)))
    box = letters.get_extents()
    view = f"{box.x0 - 1:.1f} {-box.y1 - 1:.1f} {box.width + 2:.1f} {box.height + 2:.1f}"
    size = f'width="{(box.width + 2) / 16:.2f}em" height="{(box.height + 2) / 16:.2f}em"'  # of the text's size
    label = html.escape(words)
    return (
        f'<svg role="img" aria-label="{label}" {size} viewBox="{view}"><title>{label}</title>'
        f'<path fill="currentColor" d="{"".join(strokes)}"/></svg>'
    )


def page(syllabus: Syllabus, notebooks: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the sheet as one HTML page that needs nothing else.

    Args:
        syllabus: the questions and their formulas.
        notebooks: name to notebook, with stored outputs; formulas of any other notebook are left out.

    Raises:
        ValueError: for a formula from which no cell computed a number.
    """
    parts = []
    for name, notebook in notebooks.items():
        asked = [question for question in syllabus.questions if question.page and question.notebook == name]
        rows = []
        for formula in syllabus.formulas:
            if formula.notebook == name:
                number, section = computed(formula, notebook)
                where = f"{html.escape(section)}<br><code>{html.escape(formula.cell)}</code>"
                picture = drawn(formula.tex, formula.plain[0])
                told = html.escape(f"{formula.note} {number}".strip())
                rows.append(f"<tr><td>{picture}</td><td>{told}</td><td>{where}</td></tr>")
        if rows:
            title = "; ".join(f"{question.ask} ({question.marks:g} marks)" for question in asked) or name
            head = '<tr><th scope="col">formula</th><th scope="col">computed</th><th scope="col">in the cell</th></tr>'
            parts.append(
                f"<h2>{name[:2]} · {html.escape(title)}</h2>\n<table>{head}\n" + "\n".join(rows) + "\n</table>"
            )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>The formulas, with their numbers</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>The formulas, with their numbers</h1>\n"
        "<p>Every formula of the model answers, beside what a cell of the notebooks computed from it.</p>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
