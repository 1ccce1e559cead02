"""The table of notation says what the formulas on the pages say: the same letters, in the same notebooks."""

import re
from collections import defaultdict

import pytest

from gm_utils import plotting
from notebook_tools import QUESTIONS, ROOT, read

TABLE = (ROOT / "docs" / "notation.md").read_text(encoding="utf-8")
PROSE = {
    path.name[:2]: "\n\n".join(
        re.sub(r"(?s)```.*?```", "", cell.source) for cell in read(path).cells if cell.cell_type == "markdown"
    )
    for path in QUESTIONS
}


GREEK = (
    r"\\(?:alpha|beta|gamma|delta|(?:var)?epsilon|zeta|eta|(?:var)?theta|kappa|lambda|mu|nu|xi|pi|(?:var)?rho|sigma|tau|(?:var)?phi|chi"
    r"|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega)"
)
LETTER = re.compile(rf"[A-Za-z]|{GREEK}")


def letters(formula):
    """Return the letters of a formula, Greek ones by name, without words, functions and the d of a differential."""
    bare = re.sub(r"\\(?:text|mathrm|operatorname)\s*\{[^}]*\}", " . ", formula)
    marks = re.findall(r"\\[A-Za-z]+|\S", bare)
    after = [*marks[1:], ""]
    return {
        m for m, n in zip(marks, after, strict=True) if LETTER.fullmatch(m) and not (m == "d" and LETTER.fullmatch(n))
    }


def used_in(prose):
    """Return letter -> the notebooks in whose formulas it stands."""
    found = defaultdict(set)
    for number, text in prose.items():
        for shown, inline in re.findall(r"(?s)\$\$(.+?)\$\$|\$([^$]+?)\$", text):
            for letter in letters(shown or inline):
                found[letter].add(number)
    return dict(found)


def said_by(table):
    """Return letter -> the notebooks that its lines name."""
    found = defaultdict(set)
    for letter, numbers in re.findall(r"(?m)^\| \$([^$ ]+)\$ \|.*\| ([\d ]+) \|$", table):
        found[letter] |= set(numbers.split())
    return dict(found)


def disagreements(table, prose):
    """Return what the table says of a letter and the pages do not, or the other way round."""
    said, used = said_by(table), used_in(prose)
    listed = [f"{a}: table {sorted(said[a])}, pages {sorted(used.get(a, []))}" for a in said if said[a] != used.get(a)]
    return listed + [f"{a} has no line" for a, numbers in used.items() if len(numbers) > 1 and a not in said]


def test_table_and_formulas_agree():
    assert disagreements(TABLE, PROSE) == []


@pytest.mark.parametrize(
    ("numbers", "more", "seen"),
    [
        (["02"], r"the precision $\Lambda$", [r"\Lambda: table ['04', '06'], pages ['02', '04', '06']"]),
        (["03", "04"], r"noise $\varepsilon \sim N(0, 1)$", [r"\varepsilon has no line"]),  # another glyph for epsilon
        (["05"], r"$$\int q(x)\,dx$$", []),  # the d of a differential is no letter
        (["05"], r"$\text{Discriminator}$ and $\log x$", []),
    ],
)
def test_another_use_of_a_letter_is_seen(numbers, more, seen):
    assert disagreements(TABLE, PROSE | {number: PROSE[number] + "\n" + more for number in numbers}) == seen


def test_a_line_too_many_or_too_few_is_seen():
    assert disagreements(TABLE + "\n| $\\Lambda$ | a rate | 08 |", PROSE)
    assert disagreements(re.sub(r"(?m)^\| \$\\Phi\$.*\n", "", TABLE), PROSE) == [r"\Phi has no line"]


def test_words_with_two_meanings_stand_where_the_table_says():
    lines = re.findall(r"(?m)^\| ([a-zK][a-zKL ]+) \| .* \| ([\d ]+) \|$", TABLE)
    assert len(lines) > 5
    for word, numbers in lines:
        first, *rest = word.split()
        for number in numbers.split():
            assert re.search(rf"(?i)\b{first}", PROSE[number]), (word, number)
            assert all(re.search(rf"(?i)\b{part}", PROSE[number]) for part in rest), (word, number)


@pytest.mark.parametrize(("colour", "name"), re.findall(r"(?m)^\| (\w+) \| .* \| `(\w+)` \|$", TABLE))
def test_colours_are_those_of_the_figures(colour, name):
    assert getattr(plotting, colour.upper()) == getattr(plotting, name)
