"""The file of questions, the papers drawn from it, and what the notebooks take from it; each rule sees a fault."""

import base64
import copy
import itertools
import json
import math
import re
import zlib

import pytest

import course
import notebook_tools as tools
from gm_utils import syllabus
from gm_utils.paper import Paper
from press import questions as press
from press.sheet import computed

COURSE = syllabus.read()
STORED = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(tools.FOLDER.glob("*.ipynb"))}
HERE = [name for name in STORED if name != "mock_paper"]
TEXT = syllabus.FILE.read_text(encoding="utf-8")
FORMULAS = [formula for formula in COURSE.formulas if formula.notebook in HERE]


def edited(tmp_path, old, new):
    """Return the path of a copy of the file with a fault in it."""
    assert old in TEXT, old
    path = tmp_path / "questions.toml"
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    return path


def test_the_notebook_of_every_question_is_there():
    assert {question.notebook for question in COURSE.questions} <= set(HERE)


# Marks


def test_marks_add_up():
    assert COURSE.marks == [2, 2, 2, 2, 2, 13, 13, 14]
    assert sum(COURSE.marks) == 50
    for question in COURSE.questions:
        assert sum(point.marks for point in question.points) == COURSE.marks[question.slot - 1]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  { marks = 0.5,", "  { marks = 1.0,", "to add up to 2 marks, got 2.5"),
        ("  { marks = 1.5,", "  { marks = 1.0,", "to add up to 13 marks, got 12.5"),
        ("slot = 8\nmarks = 14", "slot = 8\nmarks = 13", "to be the 14 of its slot, got 13"),
        ("slot = 1\nmarks = 2", "slot = 9\nmarks = 2", "to be 1 to 8, got 9"),
        ("marks = [2, 2,", "marks = [3, 2,", "to be the 3 of its slot, got 2"),
        ("13, 13, 14]", "13, 13, 14, 5]", "slot 9 to have a question, got none"),
        ("[paper]\nmarks", "[sheet]\nmarks", "to have [paper] with its marks, and a [[question]], got the tables"),
    ],
)
def test_marks_that_do_not_add_up_are_refused(tmp_path, old, new, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        syllabus.read(edited(tmp_path, old, new))


def test_thirds_and_tenths_of_a_mark_add_up(tmp_path):
    tenths = TEXT.replace("{ marks = 0.5,", "{ marks = 0.7,", 2).replace("{ marks = 0.5,", "{ marks = 0.1,", 1)
    path = tmp_path / "questions.toml"
    path.write_text(tenths, encoding="utf-8")
    assert syllabus.read(path).questions[0].marks == 2


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("ask = ", "asks = ", "question 1 of the file to have the keys slot, marks, notebook, ask, points, answer"),
        ("ask = ", "asks = ", "got none called ask; also asks"),
        ("cell = ", "sell = ", "expected formula 1 of the file to have the keys"),
        (
            "slot = 1",
            "slot = '1'",
            "expected slot of question 1 of the file, 'What is a generative model?' to be a whole",
        ),
        ("slot = 1\nmarks = 2", "slot = 1\nmarks = '2'", "to be a number, got '2'"),
        ("page = true", "page = 'yes'", "to be true or false, got 'yes'"),
        ("  { marks = 0.5,", "  { marks = 'half',", "expected marks of point 1 of question 1 of the file, 'What is"),
        ("  { marks = 0.5, section", "  { section", "got none called marks"),
        (
            "points = [",
            "points = [ 2,",
            "expected point 1 of question 1 of the file, 'What is a generative model?' to be",
        ),
        ("\n[paper]\n", "\n[[paper]]\n", "expected [paper] to be a table { ... }, got [{"),
        ("marks = [2, 2,", "marks = ['2', 2,", "expected each of the marks of [paper] to be a number, got '2'"),
        ("\n[paper]\n", "\n[paper\n", "to be TOML in UTF-8, got Expected ']'"),
        ("[0.6, 0.7, 0.75]", "0.6", "to be a list [ ... ], got 0.6"),
        ("[0.6, 0.7, 0.75]", "[]", "to have values to choose from, got none"),
        ("[0.6, 0.7, 0.75]", "['a']", "to be a number, got 'a'"),
        ('kl = "shortfall in nats"', "kl = 1", "expected kl in numbers of question 3 of the file, 'A source"),
        ("loses = ", "answers = ", "got also answers"),
        ("loses = '''", "loses = ''''''\nanswers = '''", "got also answers"),
        ("slot = 1\nmarks = 2", "slot = 1\nvalues = {}\nmarks = 2", "got also values"),
        ("prints = '", "prints = '(", "expected prints of formula 1 of the file to be a pattern"),
        (
            'notebook = "01_generative_models"\nask',
            'notebook = "01_generative_models"\npage = true\nloses = "-"\nask',
            "expected the page 01_generative_models to ask one question, got 2 with page = true",
        ),
    ],
)
def test_a_slip_in_the_file_is_refused_in_a_sentence(tmp_path, old, new, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        syllabus.read(edited(tmp_path, old, new))


def test_a_page_must_say_what_loses_marks(tmp_path):
    path = edited(tmp_path, "loses = '''", "loses = ''''''  # '''")
    lines = path.read_text(encoding="utf-8").split("loses = ''''''")
    path.write_text(lines[0] + "loses = ''''''\n[[question]]" + lines[1].partition("[[question]]")[2], encoding="utf-8")
    with pytest.raises(ValueError, match="to have loses, since page = true, got none"):
        syllabus.read(path)


@pytest.mark.parametrize("name", ["question", "formula"])
def test_single_brackets_are_refused(tmp_path, name):
    path = tmp_path / "questions.toml"
    path.write_text(
        f"[paper]\nmarks = [2]\n[{name}]\nslot = 1\n" + "[[question]]\n" * (name != "question"), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=re.escape(f"expected [[{name}]], in double brackets, to be a list")):
        syllabus.read(path)


def test_another_encoding_is_refused(tmp_path):
    path = tmp_path / "questions.toml"
    path.write_bytes(TEXT.encode("utf-16"))
    with pytest.raises(ValueError, match="to be TOML in UTF-8, got"):
        syllabus.read(path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("kl = kl_categorical(", "kl = kl_categoric(", "to run, got NameError: name 'kl_categoric' is not defined"),
        ("{{kl}} nats.", "{{kL}} nats.", "expected kL of slot 1, 'A source takes three"),
        ("numbers = { kl = ", "numbers = { nats = ", "expected nats of slot 1"),
        ("{{a}}, {{b}}", "{{a}}, {{bb}}", "to be drawn or computed, got only"),
        (
            'section = "The family tree"',
            'section = "The family three"',
            "got 01_generative_models.ipynb#The-family-three",
        ),
        (
            "gap = -math.log(narrow) / 2",
            "gap = math.inf",
            "expected gap of slot 4, 'A posterior of two unknowns is Gaussian ",
        ),
    ],
)
def test_a_slip_that_reading_cannot_see_is_refused_before_anything_is_written(tmp_path, old, new, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        press.check(syllabus.read(edited(tmp_path, old, new)), STORED)


# Papers


def test_three_seeds_make_three_papers_without_a_question_in_common():
    for first in (1, 4, 10):
        papers = [syllabus.draw(seed, COURSE) for seed in range(first, first + 3)]
        for slot, questions in enumerate(zip(*papers, strict=True), start=1):
            assert [question.slot for question in questions] == [slot] * 3
            assert len({question.points[0] for question in questions}) == 3
    assert {sum(question.marks for question in paper) for paper in papers} == {50}


def test_a_seed_always_draws_the_same_paper_and_another_seed_other_numbers():
    assert syllabus.draw(7, COURSE) == syllabus.draw(7, COURSE)
    numeric = [question for question in COURSE.questions if question.compute]
    assert {question.slot for question in numeric} == set(range(1, 9))
    for slot in range(1, 9):
        seen = [q.values for seed in range(1, 40) for q in syllabus.draw(seed, COURSE)[slot - 1 : slot] if q.values]
        assert len({tuple(values.items()) for values in seen}) > 2


@pytest.mark.parametrize("question", [q for q in COURSE.questions if q.compute], ids=lambda q: f"slot {q.slot}")
def test_numbers_come_from_the_package_and_none_is_left_out(question):
    assert "gm_utils." in question.compute
    assert question.numbers
    for choice in (0, -1):
        done = syllabus.filled(question, {name: values[choice] for name, values in question.draw.items()})
        assert set(question.numbers) <= set(done.values)
        assert "{{" not in done.ask + done.answer + "".join(point.words for point in done.points)


def test_numbers_against_a_second_route():
    """By hand, in float64, from the values that papers 1 and 3 give."""
    first, third = syllabus.draw(1, COURSE), syllabus.draw(3, COURSE)
    network, ellipse, series, banana, game = (first[slot - 1].values for slot in (2, 4, 5, 7, 8))
    kept = network["a"] * network["hit"] + (1 - network["a"]) * network["miss"]
    assert network["kept"] == pytest.approx(kept, rel=1e-5)
    assert network["posterior"] == pytest.approx(network["a"] * network["hit"] / kept, rel=1e-5)
    assert ellipse["narrow"] == pytest.approx(1 - ellipse["r"] ** 2, rel=1e-5)
    assert ellipse["gap"] == pytest.approx(-math.log(1 - ellipse["r"] ** 2) / 2, rel=1e-5)

    one, two, phi = series["first"], series["second"], series["phi"]
    assert series["log_p"] == pytest.approx(normal(one, 0, 1 / (1 - phi**2)) + normal(two, phi * one, 1), rel=1e-5)
    x1, x2 = banana["first"], banana["second"]
    assert banana["log_p"] == pytest.approx(normal(x2, 0, 4) + normal(x1, x2**2 / 4, 1), rel=1e-5)
    assert game["best"] == pytest.approx(game["p"] / (game["p"] + game["q"]), rel=1e-5)
    shares, neuron = third[0].values, third[2].values
    kl = sum(share * math.log(3 * share) for share in (shares["a"], shares["b"], shares["c"]))
    assert shares["kl"] == pytest.approx(kl, rel=1e-5)
    h = math.tanh(neuron["w"] * neuron["x"] + neuron["b"])
    assert neuron["dw"] == pytest.approx(2 * (h - neuron["t"]) * (1 - h**2) * neuron["x"], rel=1e-5)
    code, gan = (syllabus.draw(2, COURSE)[slot - 1].values for slot in (6, 8))
    kl = (code["mu"] ** 2 + code["sigma"] ** 2 - 1 - math.log(code["sigma"] ** 2)) / 2
    assert code["kl"] == pytest.approx(kl, rel=1e-5)
    assert (gan["jsd"], gan["w1"]) == (pytest.approx(math.log(2), rel=1e-5), pytest.approx(gan["d"], rel=1e-5))


def normal(x, mean, variance):
    return -((x - mean) ** 2) / variance / 2 - math.log(2 * math.pi * variance) / 2


def kl_term(mean, sigma, log_var):
    return (mean**2 + sigma**2 - 1 - log_var) / 2


# What candidates answer instead: the other direction, bits, a lost sign, half or factor, sigma for its square, ...
SLIPS = {
    (1, "kl"): lambda v: [-math.log(3) - sum(math.log(v[k]) for k in "abc") / 3, v["kl"] / math.log(2), -v["kl"]],
    (2, "kept"): lambda v: [v["a"] * v["hit"], v["hit"], 1 - v["kept"], v["a"] * v["hit"] + v["miss"], v["a"]],
    (2, "posterior"): lambda v: [
        v["hit"],
        v["a"],
        v["a"] * v["hit"],
        1 - v["posterior"],
        v["hit"] / (v["hit"] + v["miss"]),
    ],
    (3, "h"): lambda v: [v["a"], -v["h"], 1 - v["h"] ** 2],
    (3, "dw"): lambda v: [
        -v["dw"],
        v["dw"] / 2,
        v["da"],
        v["dh"],
        v["dh"] * v["x"],
        v["dh"] * (1 - v["a"] ** 2) * v["x"],
    ],
    (4, "narrow"): lambda v: [1 - v["r"], math.sqrt(v["narrow"]), 1 / v["narrow"], 1, v["r"] ** 2],
    (4, "gap"): lambda v: [-v["gap"], 2 * v["gap"], v["gap"] / math.log(2), -math.log(1 - v["r"]) / 2],
    (5, "variance"): lambda v: [1 / (1 - v["phi"]), math.sqrt(v["variance"]), 1 - v["phi"] ** 2, 1],
    (5, "log_p"): lambda v: (
        [
            normal(v["second"], v["phi"] * v["first"], 1) + first
            for first in (0, normal(v["first"], 0, 1), normal(v["first"], 0, v["variance"]) + math.log(2 * math.pi))
        ]
        + [
            normal(v["first"], 0, v["variance"]) + normal(v["second"], mean, v["variance"])
            for mean in (0, v["phi"] * v["first"])
        ]
    ),
    (6, "kl"): lambda v: (
        [2 * v["kl"], -v["kl"], v["kl"] / math.log(2)]
        + [
            kl_term(v["mu"], *pair)
            for s in [v["sigma"]]
            for pair in ((s, -2 * math.log(s)), (s, math.log(s)), (s**0.5, math.log(s)))
        ]
    ),
    (7, "log_p"): lambda v: (
        [
            normal(v["second"], 0, spread) + normal(v["first"], mean, 1)
            for spread, mean in ((16, v["second"] ** 2 / 4), (2, v["second"] ** 2 / 4), (4, v["second"] / 4))
        ]
        + [normal(v["first"], 0, 4) + normal(v["second"], v["first"] ** 2 / 4, 1), v["log_p"] + math.log(2 * math.pi)]
    ),
    (8, "best"): lambda v: [v["q"] / (v["p"] + v["q"]), v["p"] / v["q"], v["p"]],
    (8, "jsd"): lambda v: [1, math.log(4), 0, math.log(2) / 2],
    (8, "w1"): lambda v: [v["d"] ** 2, 1, v["d"] / 2],
}


def accepted(questions):
    """Return every slip that would be judged right, for some values that a seed may draw."""
    found = []
    for question in questions:
        for chosen in itertools.product(*question.draw.values()):
            values = syllabus.filled(question, dict(zip(question.draw, chosen, strict=True))).values
            for name in question.numbers:
                slips = SLIPS[question.slot, name](values)
                found += [(name, chosen, slip) for slip in slips if syllabus.is_right(slip, values[name])]
    return found


def test_a_number_is_right_within_one_percent_and_zero_within_half_a_thousandth():
    for answer, value in ((1.009, 1), (-0.0101, -0.01), (4e-4, 0)):
        assert syllabus.is_right(answer, value)
    for answer, value in ((1.011, 1), (3e-4, 4e-4), (0, 4e-4), (6e-4, 0)):
        assert not syllabus.is_right(answer, value)


def test_no_common_slip_is_judged_right():
    numeric = [question for question in COURSE.questions if question.numbers]
    assert accepted(numeric) == []
    band = next(question for question in numeric if question.slot == 7)
    assert accepted([band._replace(draw={"first": [2.0], "second": [2.0]})]), "there x1 and x2 may be swapped"


def test_a_place_that_nothing_fills_is_refused():
    question = next(q for q in COURSE.questions if q.compute)
    chosen = {name: values[0] for name, values in question.draw.items()}
    with pytest.raises(ValueError, match=r"expected shortfall of slot 1, .* to be drawn or computed, got only"):
        syllabus.filled(question._replace(ask="{{shortfall}}"), chosen)
    with pytest.raises(ValueError, match="expected seed to be a whole number above zero, got 0"):
        syllabus.draw(0, COURSE)


# Links


TAUGHT = [question for question in COURSE.questions if question.notebook in HERE]


def test_every_point_leads_to_a_section_that_is_there():
    assert press.lost_links(TAUGHT, STORED) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('section = "The family tree"', 'section = "The family three"'),
        ('section = "The audit"', 'section = "The audit", notebook = "99_nothing"'),
    ],
)
def test_a_link_that_leads_nowhere_is_seen(tmp_path, old, new):
    faulty = syllabus.read(edited(tmp_path, old, new))
    assert len(press.lost_links([q for q in faulty.questions if q.notebook in HERE], STORED)) == 1


def test_a_heading_that_was_renamed_is_seen():
    renamed = copy.deepcopy(STORED)
    cell = next(c for c in renamed["02_forward_vs_importance_sampling"]["cells"] if c["id"] == "rejection")
    cell["source"] = "## Evidence" + "".join(cell["source"]).partition("\n")[2]
    assert press.lost_links(TAUGHT, renamed)


# Notebooks take their questions, marks and answers from the file


def outdated(course_file):
    """Return the notebooks that do not say what the file says."""
    found = []
    for name, notebook in STORED.items():
        joined = copy.deepcopy(notebook)
        for cell in joined["cells"]:
            cell["source"] = "".join(cell["source"])
        written = copy.deepcopy(joined)
        press.written_into(written, name, course_file)
        if written != joined:
            found.append(name)
    return found


def test_the_notebooks_say_what_the_file_says():
    assert outdated(COURSE) == []


@pytest.mark.parametrize(
    ("old", "new", "notebooks"),
    [
        ("What is a generative model?", "What is a model?", ["01_generative_models", "mock_paper"]),
        ("earns marks. ", "earns marks, ", []),
        ("Forgetting to *add* where", "Forgetting to *sum* where", ["03_backpropagation"]),
        ("whatever P is", "whatever P may be", ["mock_paper"]),
        ('section = "A chain for contrast"', 'section = "The bound"', ["mock_paper"]),
    ],
)
def test_a_change_of_the_file_is_seen_where_it_matters(tmp_path, old, new, notebooks):
    assert outdated(syllabus.read(edited(tmp_path, old, new))) == notebooks


def test_a_notebook_without_a_place_for_its_question_is_refused():
    notebook = copy.deepcopy(STORED[HERE[0]])
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"]).replace("(2 marks)", "(some marks)")
    with pytest.raises(ValueError, match=r"expected the cell question of 01\w+ to have one line"):
        press.written_into(notebook, HERE[0], COURSE)
    notebook["cells"] = [cell for cell in notebook["cells"] if cell["id"] != "answer"]
    next(cell for cell in notebook["cells"] if cell["id"] == "question")["source"] = "> *What?* (2 marks)"
    with pytest.raises(ValueError, match=r"expected the notebook 01\w+ to have a cell called answer, got only"):
        press.written_into(notebook, HERE[0], COURSE)


# Every formula and number of a model answer is computed by a cell


def plain(text):
    return " ".join(text.replace("−", "-").split())


TRACES = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*|[=≥≤<>∝←∫∏Σ√½²³⁻]|\|\||\bE_|\bKL\(|\blog(?:\(| [pqDNE]\b)|\bexp\(")


def unaccounted(answer, formulas):
    """Return what is left of formulas and numbers in a model answer once all that have a cell are taken out."""
    text = re.sub(r"(?:= )?\{\{\w+\}\}", "", plain(answer))  # computed by the mock paper's own cell
    for one in sorted((plain(one) for formula in formulas for one in formula.plain), key=len, reverse=True):
        text = text.replace(one, " ")
    return TRACES.findall(re.sub(r"\w*_(?:\{[^}]*\}|\w+)|\b2-D\b|\blayer \d", " ", text))


def said_otherwise(formula, number):
    """Return the figures in a formula's words, decimal or above 9, that are not among those its cell computed."""
    said = re.findall(r"(?<![\w.])(?:\d+\.\d+|\d\d+)(?![\w])", plain(" ".join(formula.plain)))
    got = [float(one.replace(",", "")) for one in re.findall(r"\d[\d,]*\.?\d*", number)]
    close = {one: 10 ** -len(one.partition(".")[2]) / 1.99 for one in said}
    return [one for one in said if not any(abs(float(one) - value) <= close[one] for value in got)]


@pytest.mark.parametrize("question", COURSE.questions, ids=lambda q: f"slot {q.slot}: {q.ask[:30]}")
def test_every_formula_and_number_of_a_model_answer_has_a_cell(question):
    assert unaccounted(question.answer, COURSE.formulas) == []


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: f"{formula.notebook[:2]} {formula.plain[0][:30]}")
def test_a_cell_computed_it(formula):
    number, section = computed(formula, STORED[formula.notebook])
    assert re.search(r"\d", number)
    assert section
    assert said_otherwise(formula, number) == []
    answers = plain(" ".join(question.answer for question in COURSE.questions if question.notebook == formula.notebook))
    assert all(plain(one) in answers for one in formula.plain), "a formula that no answer uses"


@pytest.mark.parametrize(
    ("addition", "left"),
    [
        ("The gap is 0.7 nats.", ["0.7"]),
        ("It keeps 3 of 10 draws.", ["3", "10"]),
        ("So F = m a.", ["="]),
        ("And KL(a || b) is small.", ["KL(", "||"]),
    ],
)
def test_a_number_or_formula_without_a_cell_is_seen(addition, left):
    answer = COURSE.questions[0].answer
    assert unaccounted(f"{answer} {addition}", COURSE.formulas) == left


def test_a_cell_that_computes_nothing_of_the_kind_is_seen():
    formula = COURSE.formulas[0]
    notebook = copy.deepcopy(STORED[formula.notebook])
    with pytest.raises(ValueError, match="to have a cell nowhere"):
        computed(formula._replace(cell="nowhere"), notebook)
    with pytest.raises(ValueError, match="to have printed 'nothing'"):
        computed(formula._replace(prints="nothing"), notebook)
    next(cell for cell in notebook["cells"] if cell["id"] == formula.cell)["outputs"] = []
    with pytest.raises(ValueError, match="to have printed"):
        computed(formula, notebook)
    assert said_otherwise(formula._replace(plain=["an entropy of 3.531 nats"]), "exact entropy 3.5310242") == []
    assert said_otherwise(formula._replace(plain=["an entropy of 3.541 nats"]), "exact entropy 3.5310242") == ["3.541"]


def test_the_mock_paper_computes_the_numbers_it_prints():
    cell = next(cell for cell in STORED["mock_paper"]["cells"] if cell["id"] == "numbers-code")
    told = "".join(cell["outputs"][0]["text"]).splitlines()
    assert cell["source"][0].startswith(tools.CHECKED)
    for seed in (1, 2, 3):
        for place, question in enumerate(syllabus.draw(seed, COURSE), start=1):
            for name, value in question.values.items():
                assert f"paper {seed}, question {place}: {name} = {syllabus.shown(value)}" in told


# The paper on the page


def test_a_paper_is_marked_point_by_point():
    paper = Paper(1, COURSE)
    assert (paper.total, paper.most, paper.marks()) == (0, 50, [])
    assert "No question is marked yet." in repr(paper.review())
    for number, question in enumerate(paper.questions, start=1):
        for place in range(1, len(question.points) + 1):
            paper.tick(number, place)
    assert paper.total == 50
    assert repr(paper.review()) == paper.review()._repr_markdown_() == "Nothing: every point is ticked."
    paper.tick(6, 2, earned=False)
    missed = paper.questions[5].points[1]
    assert paper.total == 50 - missed.marks
    assert f"[{missed.place}]({missed.address}), 1 mark\n" in paper.review()._repr_markdown_()
    assert "49 of 50 marks" in paper._repr_mimebundle_()["text/plain"]


def test_a_click_shows_the_points_and_a_tick_takes_its_link_away():
    paper = Paper(1, COURSE)
    sheet = paper._sheets[0]
    assert sheet._scheme.layout.display == "none"
    sheet.opened.value = True
    assert sheet._scheme.layout.display == ""
    sheet.ticks[0].value = True
    assert [link.layout.display for link in sheet._links] == ["none", "", "", ""]
    shown = [link.outputs[0]["data"]["text/markdown"] for link in sheet._links]
    assert shown == [f"→ [{point.place}]({point.address})" for point in paper.questions[0].points]
    assert "0.5 of 50 marks</b>; questions marked so far: 1" in paper._totals[0].value
    sheet.opened.value = False  # put away again: what was earned stays
    assert sheet._scheme.layout.display == "none"
    assert "0.5 of 50 marks</b>; questions marked so far: 1" in paper._totals[0].value


def test_numbers_are_judged_on_the_spot():
    paper = Paper(1, COURSE)
    right = paper.questions[1].values
    assert not paper.give(2, kept=right["kept"])
    assert paper.give(2, kept=1.009 * right["kept"], posterior=right["posterior"])
    assert not paper.give(2, kept=1.02 * right["kept"])
    box = paper._sheets[1].boxes["kept"]
    remark = paper._sheets[1].box.children[2].children[1]
    comma = f"{right['kept']:.3g}".replace(".", ",")
    for text, words in ((comma, "right"), ("half", "write it as a number"), ("0.9", "not yet")):
        box.value = text
        assert words in remark.value


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda paper: paper.tick(9, 1), "expected question to be 1 to 8, got 9"),
        (lambda paper: paper.tick(1, 5), "expected point to be 1 to 4, got 5"),
        (lambda paper: paper.give(1, kl=1.0), "expected a number among none, got kl"),
        (lambda paper: paper.give(2, kl=1.0), "expected a number among kept, posterior, got kl"),
    ],
)
def test_what_a_paper_does_not_have_is_refused(act, words):
    with pytest.raises(ValueError, match=words):
        act(Paper(1, COURSE))


# The notebook of the mock paper


def test_the_page_of_the_mock_paper():
    notebook = tools.read(tools.FOLDER / "mock_paper.ipynb")
    assert notebook.cells[1].source.startswith(course.setup_block(course.repository_setting(tools.ROOT)))
    assert tools._outputs(notebook, "mock") == []
    absent = {question.notebook for question in COURSE.questions} - set(HERE)
    lost = [problem.where for problem in tools._links(notebook, "mock")]
    assert [where for where in lost if where.partition(".ipynb")[0] not in absent] == []
    text = "\n".join(cell.source for cell in notebook.cells)
    assert (
        "> 8 questions, 50 marks: 5 of 2, 2 of 13, 1 of 14. In 90 minutes that is 1.8 for a mark. Papers 1 to 3 "
        in text
    )
    assert text.count("<details><summary>Marking scheme and model answer</summary>") == 24
    for seed in (1, 2, 3):
        for question in syllabus.draw(seed, COURSE):
            assert question.ask in text
            assert question.answer.strip() in text


def test_the_copy_for_upload_carries_the_file():
    cell = course.carrying_cell(tools.ROOT / "gm_utils")
    packed = re.search(r'_unpack\("""\n(.*?)\n"""\)', cell["source"], flags=re.S)[1]
    files = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert files["gm_utils/questions.toml"] == TEXT
