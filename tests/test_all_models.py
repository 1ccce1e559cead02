"""The page that puts one data set through all models: its structure, its verdicts, its table, its experiment."""

import statistics

import jax
import numpy as np
import pytest

import course
import notebook_tools as tools

PAGE = tools.FOLDER / "all_models.ipynb"
CELLS = {cell.id: cell.source for cell in tools.read(PAGE).cells}
CLAIMS = {"claim_a": "wrong", "claim_b": "incomplete", "claim_c": "wrong", "claim_d": "incomplete", "claim_e": "wrong"}

PASSES = ["family-code", "plane-family", "digits-scores-code", "table-show", "table-check", "claim-d"]
ROUTES = ["claim-b-evidence", "claim-b-hidden", "claim-b-routes"]


@pytest.fixture(autouse=True)
def _rules_of_a_reader():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def names():
    return tools.run(tools.read(PAGE)).names


def test_structure():
    page = tools.read(PAGE)
    assert tools._outputs(page, "all") + tools._checks(page, "all") + tools._links(page, "all") == []
    assert page.cells[1].source.startswith(course.setup_block(course.repository_setting(tools.ROOT)))
    sizes = [tools.code_lines(cell.source) for cell in tools.code_cells(page)]
    assert statistics.median(sizes) <= 6
    assert max(sizes) <= 25
    assert 700 <= sum(tools.words(cell.source) for cell in page.cells if cell.cell_type == "markdown") <= 1300
    promised, measured = tools.promised_and_measured(page)["everything"]
    assert 3 / 4 < promised / measured < 4 / 3


def test_every_notebook_is_linked():
    text = "\n".join(CELLS.values())
    assert [path.name for path in tools.FOLDER.glob("*.ipynb") if path != PAGE and f"({path.name}" not in text] == []


def test_the_verdicts(names):
    assert {name: names[name].verdict for name in CLAIMS} == CLAIMS


def again(names, cells, right="", mistake=""):
    """Run cells once more, with a mistake planted in those that hold the right code; return the names."""
    assert any(right in CELLS[cell] for cell in cells)
    names = dict(names)
    for cell in cells:
        tools.run_cell(CELLS[cell].replace(right, mistake) if right else CELLS[cell], names)
    return names


@pytest.mark.parametrize(
    ("cells", "right", "mistake", "claim", "verdict"),
    [
        (["bet-score", "claim-a-evidence", "claim-a"], "np.log(1 - a) + log_p, np.log(a)", "-99 + log_p, np.log(a)",
         "claim_a", "stands"),
        (["claim-a-evidence", "claim-a-samples", "claim-a"], "< 0.99", "< 0.0", "claim_a", "stands"),
        (["claim-b-hidden", "claim-b"], "exact - plane", "-exact + plane", "claim_b", "wrong"),
        (["claim-b-hidden", "claim-b"], 'above["autoregressive"] - above["VAE"]',
         'above["VAE"] - above["autoregressive"]', "claim_b", "stands"),
        (["nearness-code", "claim-c"], "wasserstein_samples(batch, real) for", "wasserstein_samples(real, real) for",
         "claim_c", "stands"),
        (PASSES, "flow.layers * chain", "1", "claim_d", "wrong"),
        (PASSES, "mixture.sample, 0", "mixture.sample, 9", "claim_d", "stands"),
        (["claim-e"], "0.8 *", "1.25 *", "claim_e", "stands"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_page_flips_the_verdict(names, cells, right, mistake, claim, verdict):
    assert again(names, cells, right, mistake)[claim].verdict == verdict != CLAIMS[claim]


@pytest.mark.parametrize(
    ("cells", "right", "mistake", "line"),
    [
        (["plane-family", "plane-checks"], "- np.log(s).sum()", "+ np.log(s).sum()",
         "held out and grid agree within 4 standard errors"),
        (["digits-data", "digits-check"], "np.log(S).sum() - np", "-np.log(S).sum() - np",
         "a Gaussian of y and one of x score the same"),
        (["digits-nearness", "digits-check"], "np.floor(17 * v)", "np.round(17 * v)",
         "the way back to pixels is exact"),
        (["digits-scores-code", "table-check"], "= nats(", "= -nats(",
         "on digits the flow's score is the best exact one, by over 4 standard errors"),
        (ROUTES, "jnp.log(1 / 20)", "jnp.log(1 / 10)", "4,096 draws find the same"),
        (ROUTES, "np.linspace(-5, 5, 201", "np.linspace(-2, 2, 81", "the grid holds the prior"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_page_flips_a_check(names, capsys, cells, right, mistake, line):
    again(names, cells)
    assert f"{line}: True" in capsys.readouterr().out
    again(names, cells, right, mistake)
    assert f"{line}: False" in capsys.readouterr().out


def test_the_words_of_the_table_come_from_the_models(names):
    points = np.zeros((50, 2))
    rising = np.random.default_rng(0).normal(1, 0.1, 50)
    for log_q, word in (
        (None, "none"),
        (lambda y, draws: np.zeros(50), "exact"),
        (lambda y, draws: rising * np.log(draws), "bound"),
        (lambda y, draws: -rising * np.log(draws), "unclear"),
    ):
        assert names["density"](log_q, points) == word


def test_the_table_is_the_same_as_text_and_in_html(names):
    table = names["table"]
    assert [line[1] for line in table.lines[1:6]] == ["exact", "exact", "bound", "exact", "none"]
    html = table._repr_html_()
    for line, text in zip(table.lines, repr(table).splitlines(), strict=True):
        assert all(cell in text and f">{cell}</t" in html for cell in line)


def test_passes_are_counted_in_the_masks(names):
    for features, layers in ((2, 1), (3, 2), (5, 4)):
        flow = names["MAF"](features, layers, [16], rngs=names["nnx"].Rngs(0))
        assert names["passes"](flow) == features * layers


def test_the_experiment_over_its_whole_range(names):
    assert tools.sweep(names["bet"]) == []
    for a in (0.01, 0.5, 0.99):
        for D in (2, 8, 64):
            names["bet"].set(a=a, D=D)
            assert 0 <= names["bet"].readout["nats lost"] <= names["bet"].readout["-log(1 - a)"] + 1e-9
