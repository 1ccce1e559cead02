"""A right answer passes, a wrong one is told where, an empty one is not scolded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_utils.exercises import check


def reference(x, y):
    return x @ y


INPUTS = [
    (jax.random.normal(jax.random.key(k), (3, 4)), jax.random.normal(jax.random.key(k + 9), (4,))) for k in range(4)
]


def run(answer, reference=reference, inputs=INPUTS, **options):
    return check(answer, reference, inputs=inputs, hint="Sum over the shared axis.", **options)


@pytest.mark.parametrize(
    "answer", [reference, lambda x, y: np.asarray(x) @ np.asarray(y), lambda x, y: (x * y[None]).sum(1)]
)
def test_right(answer):
    assert run(answer).status == "right"
    assert "4 inputs" in run(answer).message


@pytest.mark.parametrize("answer", [lambda x, y: None, lambda x, y: ...])
def test_not_attempted(answer):
    assert run(answer).status == "not attempted"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda x, y: -(x @ y), "expected ["),
        (lambda x, y: x @ y + 1e-2, "expected ["),
        (lambda x, y: x @ y * jnp.nan, "nan"),
        (lambda x, y: (x @ y)[:2], "expected shape (3,), got (2,)"),
        (lambda x, y: (x @ y, 1.0), "expected one array, got a tuple of 2 (one array, one array)"),
        (lambda x, y: "seven", "expected numbers, got 'seven'"),
        (lambda x, y: (None, None), "expected one array, got None in it"),
        (lambda x, y: 1 / 0, "raised ZeroDivisionError"),
        (lambda x: x, "raised TypeError"),
        (lambda x, y: x @ y * (1 if x[0, 0] == INPUTS[0][0][0, 0] else 2), "expected ["),
    ],
)
def test_not_yet_says_where_and_hints(answer, told):
    result = run(answer)
    assert result.status == "not yet"
    assert told in result.message
    assert "First failing input" in result.message
    assert "Hint: Sum over" in result.message
    assert "not yet" in result._repr_html_()


def test_infinities_and_nan_are_compared_exactly():
    def lower(x):
        return jnp.array([-jnp.inf, 1.0])

    one = [(jnp.ones(2),)]
    assert run(lower, lower, one).status == "right"
    assert run(lambda x: jnp.array([-1e9, 1.0]), lower, one).status == "not yet"


def test_whole_numbers_and_truth_values_are_not_rounded_to():
    one = [(np.arange(4),)]
    assert run(lambda x: x + 0.0, lambda x: x, one).status == "right"
    assert run(lambda x: x + 0.9, lambda x: x, one).status == "not yet"
    assert run(lambda x: x > 1, lambda x: x > 1, one).status == "right"
    assert run(lambda x: np.maximum(x - 1, 0), lambda x: x > 1, one).status == "not yet"


def test_tolerance_is_relative():
    def large(x):
        return x * 1e6

    one = [(jnp.ones(2),)]
    assert run(lambda x: x * 1e6 + 1, large, one).status == "right"
    assert run(lambda x: x * 1e6 + 1, large, one, rtol=1e-7).status == "not yet"
    # An entry that ought to be zero may be off by the tolerance of the largest one, not of its own.
    zero = lambda x: np.array([0.0, 1000.0])  # noqa: E731
    assert run(lambda x: np.array([0.09, 1000.0]), zero, one).status == "right"
    assert run(lambda x: np.array([0.11, 1000.0]), zero, one).status == "not yet"


def test_no_inputs_or_an_empty_reference_is_refused():
    with pytest.raises(ValueError, match="expected inputs to be one or more"):
        run(reference, inputs=[])
    with pytest.raises(ValueError, match="expected reference to return numbers"):
        run(reference, reference=lambda x, y: None)


WORDS = {"A": "exact", "B": "none"}


@pytest.mark.parametrize("answer", [WORDS.get, lambda letter: {"A": "Exact", "B": "NONE"}[letter]])
def test_words_count_whatever_their_capitals(answer):
    assert run(answer, WORDS.get, [("A",), ("B",)]).status == "right"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda letter: "exact", "'exact' is not the word looked for"),
        (lambda letter: "exact" if letter == "A" else "non", "'non' is not"),
        (lambda letter: "exact" if letter == "A" else " none", "' none' is not"),
        (lambda letter: 7, "expected a word in quotation marks, got 7"),
        (lambda letter: jnp.zeros(2), "expected a word in quotation marks, got Array"),
        (lambda letter: (letter, letter), "expected one word, got a tuple of 2"),
    ],
)
def test_a_wrong_word_is_refused_and_the_right_one_not_told(answer, told):
    result = run(answer, WORDS.get, [("A",), ("B",)])
    assert result.status == "not yet"
    assert told in result.message
    assert "none" not in result.message.replace("' none'", "")
    assert "First failing input: '" in result.message


def test_words_among_numbers():
    def reference(x):
        return "mean", x.mean()

    one = [(jnp.ones(2),)]
    assert run(lambda x: ("Mean", 1.0), reference, one).status == "right"
    assert run(lambda x: ("mean", 2.0), reference, one).status == "not yet"
    assert run(lambda x: ("median", 1.0), reference, one).status == "not yet"
