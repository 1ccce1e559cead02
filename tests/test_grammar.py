"""The grammar's exact numbers, each by a second route: all sentences written out, long texts, closed forms."""

import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_utils.grammar import Grammar, sentences

COIN = {"toss": [(0.5, "a", "toss"), (0.5, "b", "toss")]}


def all_sentences(rules, start):
    """Return {sentence: probability}, for rules whose every way leads back to the start."""
    found, open_ends = Counter(), [("", start, 1.0)]
    while open_ends:
        text, node, p = open_ends.pop()
        for q, word, following in rules[node]:
            if following == start:
                found[text + word] += p * q
            else:
                open_ends.append((text + word, following, p * q))
    return found


@pytest.fixture(scope="module")
def language():
    from gm_utils.grammar import _sentences

    return all_sentences(_sentences(), "start")


@pytest.fixture(scope="module")
def text():
    return np.asarray(sentences.sample(jax.random.key(0), 60_000))


def entropy(counts):
    p = np.array(list(counts.values())) / sum(counts.values())
    return -(p * np.log2(p)).sum()


def test_entropy_is_that_of_a_sentence_over_its_mean_length(language):
    assert sum(language.values()) == pytest.approx(1, abs=1e-12)
    mean_length = sum(p * len(sentence) for sentence, p in language.items())
    assert sentences.entropy_bits() == pytest.approx(entropy(language) / mean_length, abs=1e-12)


@pytest.mark.parametrize("order", [0, 1, 2, 4])
def test_finite_orders_against_counts_over_all_sentences(language, order):
    """Every sentence starts with the same four letters, so those are known to follow the one before."""
    long, short = Counter(), Counter()
    for sentence, p in language.items():
        joined = sentence + "the "
        for k in range(len(sentence)):
            long[joined[k : k + order + 1]] += p
            short[joined[k : k + order]] += p
    assert sentences.entropy_bits(order) == pytest.approx(entropy(long) - entropy(short), abs=1e-9)
    table = sentences.contexts(order)
    assert set(table) == set(short)
    for context, row in table.items():
        assert row.sum() == pytest.approx(short[context] / sum(short.values()), abs=1e-9)


def test_a_longer_memory_never_costs_and_comes_down_to_the_source():
    scores = [sentences.entropy_bits(order) for order in range(0, 22, 3)]
    assert (np.diff(scores) < 1e-12).all()
    assert scores[-1] == pytest.approx(sentences.entropy_bits(), abs=1e-9)
    assert sentences.entropy_bits(20) > sentences.entropy_bits() + 1e-3  # the verb's number stands further back


def test_closed_forms():
    coin = Grammar(COIN)
    assert coin.entropy_bits() == coin.entropy_bits(0) == coin.entropy_bits(3) == pytest.approx(1, abs=1e-12)
    clock = Grammar({"tick": [(1.0, "ab", "tick")]})
    assert clock.entropy_bits(0) == pytest.approx(1, abs=1e-9)
    assert clock.entropy_bits(1) == pytest.approx(0, abs=1e-9)
    # "a" then a node that writes b or c: 1 bit every second character; one letter of memory is enough
    pair = Grammar({"s": [(1.0, "a", "t")], "t": [(0.5, "b", "s"), (0.5, "c", "s")]})
    assert pair.entropy_bits() == pytest.approx(0.5, abs=1e-9)
    assert pair.entropy_bits(0) == pytest.approx(1.5, abs=1e-9)


def test_shared_beginnings_of_words_are_one_state():
    grammar = Grammar({"s": [(0.25, "ab", "s"), (0.25, "ac", "s"), (0.5, "d", "s")]})
    assert grammar.log_prob(grammar.encode("ac")) == pytest.approx(math.log(0.25), abs=1e-12)
    assert grammar.entropy_bits() == pytest.approx(1.5 / 1.5, abs=1e-9)  # 1.5 bits a word of 1.5 letters


def test_log_prob_agrees_with_all_sentences_and_refuses_the_others(language):
    for sentence, p in list(language.items())[::977]:
        assert sentences.log_prob(sentences.encode(sentence)) == pytest.approx(math.log(p), abs=1e-9)
    assert sentences.log_prob(sentences.encode("the cats sleeps. ")) == -math.inf
    assert sentences.log_prob("cat") == -math.inf
    assert sentences.log_prob("the cat sleeps. ") == sentences.log_prob(sentences.encode("the cat sleeps. "))
    assert sentences.log_prob(jnp.zeros(0, jnp.int32)) == 0


def test_samples_follow_the_rules_and_score_the_entropy(text, language):
    assert sentences.decode(text).startswith("the ")
    score = -sentences.log_prob(text) / np.log(2)
    words = sentences.decode(text).split(". ")[:-1]
    assert {sentence + ". " for sentence in words} <= set(language)
    # the score of a sentence minus its length times the rate has mean 0; its spread gives the standard error
    p = np.array(list(language.values()))
    lengths = np.array([len(sentence) for sentence in language])
    spread = math.sqrt((p * (-np.log2(p) - sentences.entropy_bits() * lengths) ** 2).sum())
    assert abs(score - sentences.entropy_bits() * len(text)) < 4 * spread * math.sqrt(len(words))


def test_letters_come_as_often_as_they_should(text):
    expected = sentences.contexts(0)[""]
    parts = [np.bincount(part, minlength=len(expected)) / len(part) for part in text.reshape(100, -1)]
    error = np.std(parts, axis=0, ddof=1) / 10  # of the mean over 100 stretches of text
    assert (abs(np.mean(parts, axis=0) - expected) < 4 * error).all()


@pytest.mark.parametrize("order", [None, 0, 2])
def test_what_is_rare_comes_as_rarely_as_it_should(order):
    coin = Grammar({"toss": [(0.95, "a", "toss"), (0.05, "b", "toss")]})
    share = np.asarray(coin.sample(jax.random.key(6), 20_000, order=order)).mean()
    assert abs(share - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 20_000)


def test_a_key_gives_one_text():
    one, same, other = (np.asarray(sentences.sample(jax.random.key(k), 200)) for k in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert sentences.sample(jax.random.key(3), 5).dtype == jnp.int32


def test_text_and_codes_go_round(text):
    np.testing.assert_array_equal(sentences.encode(sentences.decode(text[:500])), text[:500])


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({}, "at least one node"),
        ({"s": [(0.5, "a", "s")]}, "to sum to 1"),
        ({"s": [(1.5, "a", "s"), (-0.5, "b", "s")]}, "to be positive"),
        ({"s": [(1.0, "", "s")]}, "none to be the beginning"),
        ({"s": [(0.5, "a", "s"), (0.5, "ab", "s")]}, "none to be the beginning"),
        ({"s": [(0.5, "a", "s"), (0.5, "a", "s")]}, "none to be the beginning"),
        ({"s": [(1.0, "a", "t")]}, "the next nodes of 's' to be among s, got t"),
        ({"s": [(0.5, "a", "l"), (0.5, "b", "r")], "l": [(1.0, "c", "l")], "r": [(1.0, "d", "r")]}, "never left"),
    ],
)
def test_rules_that_make_no_grammar_are_refused(rules, words):
    with pytest.raises(ValueError, match=words):
        Grammar(rules)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sentences.sample(jax.random.key(0), 0), "n to be a whole number above zero"),
        (lambda: sentences.encode("the zebra"), "got bz"),
        (lambda: sentences.encode(""), "got none"),
        (lambda: sentences.log_prob("the zebra"), "got bz"),
        (lambda: sentences.decode([0, 15]), "to lie in 0 to 14, got 0 to 15"),
        (lambda: sentences.decode([-1]), "to lie in 0 to 14"),
        (lambda: sentences.log_prob(np.zeros((2, 3), int)), r"of shape \(n,\), got int64 of shape \(2, 3\)"),
        (lambda: sentences.log_prob([0.5]), "whole numbers"),
        (lambda: sentences.contexts(-1), "order to be a whole number"),
        (lambda: sentences.entropy_bits(1.5), "order to be a whole number"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("order", [0, 2, 6])
def test_a_writer_with_a_memory_writes_its_own_contexts_and_scores_its_own_entropy(order):
    codes = np.asarray(sentences.sample(jax.random.key(5), 20_000, order=order))
    assert codes.shape == (20_000,)
    parts = np.array([sentences.score_bits(part, order) for part in codes.reshape(100, -1)])
    assert abs(parts.mean() - sentences.entropy_bits(order)) < 4 * parts.std(ddof=1) / 10
    if order == 6:  # longer contexts occur that the grammar does not have
        assert sentences.score_bits(codes, 16) == math.inf
        assert sentences.log_prob(codes) == -math.inf


def test_a_score_is_the_mean_of_log_probabilities():
    coin = Grammar({"toss": [(0.25, "a", "toss"), (0.75, "b", "toss")]})
    assert coin.score_bits(coin.encode("abb"), 0) == pytest.approx((2 + 2 * math.log2(4 / 3)) / 3, abs=1e-9)
    assert coin.score_bits(coin.encode("abb"), 1) == pytest.approx(math.log2(4 / 3), abs=1e-9)
    with pytest.raises(ValueError, match="more than 3 characters, got 3"):
        coin.score_bits(coin.encode("abb"), 3)


def test_the_source_scores_what_its_log_prob_says(text):
    part = text[:8000]
    known = sentences.log_prob(part[:21])  # 21 characters settle the state, wherever the text began
    by_table = sentences.score_bits(part, 21) * (len(part) - 21) * math.log(2)
    assert by_table == pytest.approx(known - sentences.log_prob(part), rel=1e-9)
