"""What goes out of the house: student copies without answers, and the sheet of formulas that needs no network."""

import html
import json
import re
from html.parser import HTMLParser

import pytest

import course
import notebook_tools as tools
from gm_utils import syllabus
from press import sheet

NAMES = [path.stem for path in sorted(tools.FOLDER.glob("*.ipynb"))]
COURSE = syllabus.read()


def stored(name):
    return json.loads((tools.FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def markdown(notebook):
    return "\n".join("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown")


def text_of(notebook):
    return "\n".join("".join(cell["source"]) for cell in notebook["cells"])


def answers_in(handout, original):
    """Return every line of a folded solution, scheme or answer of the original that the handout still has."""
    folded = "\n".join(re.findall(r"(?s)<details>(.*?)</details>", markdown(original)))
    lines = {line.strip() for line in folded.splitlines() if len(line.split()) > 5}
    lines = {line for line in lines if text_of(original).count(line) == folded.count(line)}  # said nowhere else
    assert lines, "an original with nothing folded away"
    return [line for line in lines if line in text_of(handout)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("student copies")
    assert course.main(["handout", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("name", NAMES)
def test_a_handout_has_no_answers(name, folder):
    original, handout = stored(name), tools.read(folder / f"{name}.ipynb")
    assert answers_in(handout, original) == []
    assert "<details" not in markdown(handout)
    tagged = [cell["id"] for cell in original["cells"] if "answers" in cell["metadata"].get("tags", [])]
    assert not set(tagged) & {cell.id for cell in handout.cells}


@pytest.mark.parametrize("name", NAMES)
def test_a_handout_keeps_everything_else(name, folder):
    original, handout = stored(name), tools.read(folder / f"{name}.ipynb")
    kept = {cell.id: cell for cell in handout.cells}
    for cell in original["cells"]:
        if cell["cell_type"] == "code" and "answers" not in cell["metadata"].get("tags", []):
            assert kept[cell["id"]].source == "".join(cell["source"])
    tools.nbformat.validate(handout)
    dropped = [c for c in original["cells"] if "answers" in c["metadata"].get("tags", [])]
    lost = {title for cell in dropped for title in re.findall(r"(?m)^## (.+)$", "".join(cell["source"]))}
    titles = re.findall(r"(?m)^## (.+)$", markdown(original))
    assert re.findall(r"(?m)^## (.+)$", markdown(handout)) == [title for title in titles if title not in lost]
    before = tools._links(tools.read(tools.FOLDER / f"{name}.ipynb"), name)
    assert [problem for problem in tools._links(handout, name) if problem not in before] == []


def test_an_answer_that_stays_is_seen():
    original = stored(NAMES[0])
    assert answers_in(original, original)
    open_fold = json.loads(json.dumps(original).replace("<details>", "").replace("</details>", ""))
    assert answers_in(course.without_answers(open_fold), original)


def test_handouts_go_to_a_folder_of_their_own(capsys):
    assert course.main(["handout", "--out", str(tools.FOLDER)]) == 1
    assert "holds the notebooks themselves" in capsys.readouterr().err
    ignored = (tools.ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert {"handouts/", "dist/"} <= set(ignored)


def test_one_handout_by_its_number(tmp_path):
    assert course.main(["handout", "2", "--out", str(tmp_path / "a b")]) == 0
    assert [path.stem for path in (tmp_path / "a b").iterdir()] == ["02_forward_vs_importance_sampling"]


# The sheet


class Needs(HTMLParser):
    """Collects what a page would fetch, its pictures, and the words of its table cells."""

    def __init__(self, text):
        super().__init__()
        self.fetched, self.pictures, self.scripts = [], [], 0
        self.fetched += re.findall(r"url\([^)]*\)|@import[^;]*", text)
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.scripts += tag == "script"
        self.fetched += [found[key] for key in ("src", "href", "data", "srcset", "xlink:href") if key in found]
        if tag == "svg":
            self.pictures.append(found["aria-label"])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("sheet") / "sheet.html"
    assert course.sheet_inside([str(path)]) == 0
    return path.read_text(encoding="utf-8")


def test_the_sheet_needs_nothing_else(page):
    needs = Needs(page)
    assert (needs.fetched, needs.scripts) == ([], 0)
    assert Needs('<img src="a.png"><script></script><style>b { c: url(d) }</style>').fetched == ["url(d)", "a.png"]


def test_the_sheet_has_every_formula_beside_its_number(page):
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td></tr>", page, flags=re.S)
    formulas = [formula for formula in COURSE.formulas if formula.notebook in NAMES]
    assert len(rows) == len(formulas) == len(Needs(page).pictures)
    by_notebook = sorted(formulas, key=lambda formula: NAMES.index(formula.notebook))
    for (picture, number, place), formula in zip(rows, by_notebook, strict=True):
        got, section = sheet.computed(formula, stored(formula.notebook))
        assert sheet.html.escape(formula.plain[0]) in picture
        assert sheet.html.escape(got) in number
        assert f"{sheet.html.escape(section)}<br><code>{formula.cell}</code>" == place


def test_each_part_of_the_sheet_is_headed_by_the_question_of_its_page(page):
    headings = [html.unescape(heading) for heading in re.findall("<h2>(.*?)</h2>", page)]
    asked = {question.notebook: question for question in COURSE.questions if question.page}
    names = [name for name in NAMES if any(formula.notebook == name for formula in COURSE.formulas)]
    wanted = [f"{name[:2]} · {asked[name].ask} ({asked[name].marks:g} marks)" for name in names]
    assert headings == wanted


def test_a_sheet_of_cells_that_were_not_run_is_refused(monkeypatch, tmp_path, capsys):
    def silent(path):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            cell["outputs"] = []
        copied = tmp_path / "notebooks" / path.name
        copied.parent.mkdir(exist_ok=True)
        copied.write_text(json.dumps(notebook), encoding="utf-8")

    silent(tools.FOLDER / f"{NAMES[0]}.ipynb")
    monkeypatch.setattr(course, "ROOT", tmp_path)
    assert course.sheet_inside([str(tmp_path / "sheet.html")]) == 1
    assert "to have printed" in capsys.readouterr().err
    assert not (tmp_path / "sheet.html").exists()


@pytest.mark.parametrize("formula", COURSE.formulas, ids=lambda formula: formula.plain[0][:30])
def test_every_formula_can_be_drawn(formula):
    picture = sheet.drawn(formula.tex, formula.plain[0])
    commands = re.search(r' d="([^"]*)"', picture)[1]
    assert commands.count("M") >= 2
    left, top, width, height = map(float, re.search(r'viewBox="([^"]*)"', picture)[1].split())
    numbers = [float(one) for one in re.findall(r"-?[\d.]+", commands)]
    assert width * height > 0
    assert left <= min(numbers[::2])
    assert max(numbers[::2]) <= left + width + 1
    assert top <= min(numbers[1::2])
    assert max(numbers[1::2]) <= top + height + 1


def test_a_formula_that_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="Unknown symbol"):
        sheet.drawn(r"\nosuchsymbol", "none")


# Questions into notebooks


def test_the_command_writes_what_changed_and_nothing_else(monkeypatch, tmp_path, capsys):
    path = tmp_path / f"{NAMES[0]}.ipynb"
    before = (tools.FOLDER / path.name).read_bytes()
    path.write_bytes(before)
    assert course.questions_inside([str(path)]) == 0
    assert path.read_bytes() == before
    path.write_bytes(before.replace(b"What is a generative model?", b"What is it?", 1))
    assert course.questions_inside([str(path)]) == 0
    assert capsys.readouterr().out == f"{NAMES[0]}: written\n"
    assert path.read_bytes() == before


def test_the_command_says_what_is_wrong_with_the_file(monkeypatch, tmp_path, capsys):
    text = syllabus.FILE.read_text(encoding="utf-8").replace("{ marks = 0.5,", "{ marks = 5,", 1)
    (tmp_path / "questions.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(syllabus.read, "__defaults__", (tmp_path / "questions.toml",))
    assert course.questions_inside([]) == 1
    assert "to add up to 2 marks, got 6.5" in capsys.readouterr().err
