"""Text whose entropy is known: sentences of a small grammar, with the exact score of every order of memory.

The grammar is a graph of words. Spelt out it becomes a Markov chain whose states are places in the graph, and in which
the next character settles the next state. So every entropy below is a finite sum, and nothing is estimated.

>>> coin = Grammar({"toss": [(0.5, "heads ", "toss"), (0.5, "tails ", "toss")]})
>>> print(f"{coin.entropy_bits():.4f}, {coin.score_bits('heads tails ', order=6):.4f}: a bit for six letters")
0.1667, 0.1667: a bit for six letters
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gm_utils.validation import positive_int, refuse

Rules = Mapping[str, Sequence[tuple[float, str, str]]]


class Grammar:
    """A source of endless text: from the first node on, draw a word, write it, go to the node that it names.

    Args:
        rules: ``{node: [(probability, word, next node), ...]}``. The first node begins a sentence. No word of a node
            may begin another word of the same node, so that a text has one reading.

    Attributes:
        alphabet: the characters in order; a character's code is its place here.

    Raises:
        ValueError: for no rules, an unknown node, an empty word, a word that begins another, probabilities that are
            not positive or do not sum to 1, and rules that can get caught in one of several parts of the graph.
    """

    def __init__(self, rules: Rules) -> None:
        _check(rules)
        spelt = [(node, word) for node, words in rules.items() for _, word, _ in words]
        self.alphabet = "".join(sorted({character for _, word in spelt for character in word}))
        # A state is a node, and the letters of a word of it that are written already.
        places = [(node, "") for node in rules] + [(node, word[:k]) for node, word in spelt for k in range(len(word))]
        states = {place: k for k, place in enumerate(dict.fromkeys(places))}
        self._chance = np.zeros((len(states), len(self.alphabet)))  # P(character | state)
        self._next = np.zeros((len(states), len(self.alphabet)), int)
        for node, words in rules.items():
            for probability, word, following in words:
                for k, character in enumerate(word, start=1):
                    move = states[node, word[: k - 1]], self.alphabet.index(character)
                    self._chance[move] += probability
                    self._next[move] = states[(node, word[:k]) if k < len(word) else (following, "")]
        self._chance /= self._chance.sum(axis=1, keepdims=True)
        self._stationary = self._long_run()
        self._tables: dict[int, dict[str, np.ndarray]] = {}

    def sample(self, key: jax.Array, n: int, order: int | None = None) -> jax.Array:
        """Return the codes of ``n`` characters, (n,) int32; without ``order`` they start with a sentence.

        With ``order`` the writer is no longer the grammar, but the best model that remembers ``order`` characters. It
        starts from a context of the grammar, drawn as often as it comes.

        Raises:
            ValueError: for an ``n`` that is no whole number above zero, and an ``order`` that is none from zero on.
        """
        uniform = np.asarray(jax.random.uniform(key, (positive_int("n", n) + 1,)), float).tolist()
        if order is None:
            sums, following = _sums(self._chance), self._next.tolist()
            state, codes = 0, []
            for u in uniform[1:]:
                codes.append(bisect_right(sums[state], u))
                state = following[state][codes[-1]]
            return jnp.asarray(np.array(codes, np.int32))
        table = self.contexts(order)
        rows = np.array(list(table.values()))
        place = {context: k for k, context in enumerate(table)}
        (starts,), sums = _sums(rows.sum(axis=1)[None]), _sums(rows / rows.sum(axis=1, keepdims=True))
        text = list(place)[bisect_right(starts, uniform[0])]
        for u in uniform[1:]:
            text += self.alphabet[bisect_right(sums[place[text[len(text) - order :]]], u)]
        return self.encode(text[order:])

    def decode(self, codes: Any) -> str:
        """Return the text of an array of codes, (n,).

        Raises:
            ValueError: for codes of another shape or kind, and for codes outside of the alphabet.
        """
        return "".join(self.alphabet[code] for code in self._codes(codes))

    def encode(self, text: str) -> jax.Array:
        """Return the codes of a text, (n,) int32.

        Raises:
            ValueError: for an empty text, and for a character outside of the alphabet.
        """
        return jnp.asarray(np.array(self._codes(text), np.int32))

    def log_prob(self, codes: Any) -> float:
        """Return the log probability in nats of a text that starts with a sentence; -inf if it breaks a rule.

        Args:
            codes: (n,) whole numbers, or the text itself.

        Raises:
            ValueError: for codes of another shape or kind, and for characters or codes outside of the alphabet.
        """
        state, total = 0, 0.0
        for code in self._codes(codes):
            if not self._chance[state, code]:
                return -math.inf
            total += math.log(self._chance[state, code])
            state = int(self._next[state, code])
        return total

    def contexts(self, order: int) -> dict[str, np.ndarray]:
        """Return the long-run P(context, next character): an array (characters,) for each context of ``order`` letters.

        A row divided by its sum is the best prediction that ``order`` characters of memory allow. Contexts that never
        occur are left out. The table grows exponentially with ``order``.

        Raises:
            ValueError: for an ``order`` that is no whole number from zero on.
        """
        if order:
            positive_int("order", order)
        if order in self._tables:
            return self._tables[order]
        found: dict[str, dict[int, float]] = {"": {s: p for s, p in enumerate(self._stationary) if p > 0}}
        options = [
            [(c, int(after[c]), row[c]) for c in np.flatnonzero(row)]
            for row, after in zip(self._chance, self._next, strict=True)
        ]
        for _ in range(order):
            longer: dict[str, dict[int, float]] = {}
            for context, belief in found.items():
                for state, weight in belief.items():
                    for c, after, probability in options[state]:
                        seen = longer.setdefault(context + self.alphabet[c], {})
                        seen[after] = seen.get(after, 0.0) + weight * probability
            found = longer
        self._tables[order] = {
            context: np.array(list(belief.values())) @ self._chance[list(belief)] for context, belief in found.items()
        }
        return self._tables[order]

    def entropy_bits(self, order: int | None = None) -> float:
        """Return the entropy of the next character given the ``order`` characters before it, in bits per character.

        ``order=0`` is the entropy of single characters (unigram), 1 that of a bigram table, None that of the source
        itself, which knows the whole past: Shannon (1948), theorem 5 and section 7. It is the least that any model
        with that memory can score on average.
        """
        if order is None:
            return float(self._stationary @ _bits(self._chance).sum(axis=1))
        table = np.array(list(self.contexts(order).values()))
        return float(_bits(table).sum() - _bits(table.sum(axis=1)).sum())

    def score_bits(self, codes: Any, order: int) -> float:
        """Return the score on a text (or its codes) of the best model with that memory, in bits per character.

        The first ``order`` characters only serve as a context; inf if a context or a character cannot come.

        Raises:
            ValueError: as ``log_prob``, and for a text that is not longer than ``order``.
        """
        text, table = self.decode(codes), self.contexts(order)
        if len(text) <= order:
            raise refuse("codes", f"to be more than {order} characters", len(text))
        bits = 0.0
        for k in range(order, len(text)):
            row = table.get(text[k - order : k])
            share = 0.0 if row is None else row[self.alphabet.index(text[k])] / row.sum()
            bits += -math.log2(share) if share else math.inf
        return bits / (len(text) - order)

    def _codes(self, codes: Any) -> list[int]:
        if isinstance(codes, str):
            strange = "".join(sorted(set(codes) - set(self.alphabet)))
            if strange or not codes:
                raise refuse("text", f"of characters of {self.alphabet!r}", strange or "none")
            return [self.alphabet.index(character) for character in codes]
        array = np.asarray(codes)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise refuse("codes", "to be whole numbers of shape (n,)", f"{array.dtype} of shape {array.shape}")
        if array.size and not (array.min() >= 0 and array.max() < len(self.alphabet)):
            raise refuse("codes", f"to lie in 0 to {len(self.alphabet) - 1}", f"{array.min()} to {array.max()}")
        return array.tolist()

    def _long_run(self) -> np.ndarray:
        """Return the share of time spent in each state, (states,)."""
        size = len(self._chance)
        flow = np.zeros((size, size))
        np.add.at(flow, (np.arange(size)[:, None], self._next), self._chance)
        system = np.vstack([flow.T - np.eye(size), np.ones(size)])
        share, _, rank, _ = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)
        if rank < size:
            raise refuse("rules", "to lead everywhere in the long run", "parts that are never left")
        return np.where(share > 1e-12, share, 0.0)


def _sums(p: np.ndarray) -> list[list[float]]:
    """Return the cumulative sums of each row, with no gap below 1 left by rounding."""
    sums = np.cumsum(p, axis=1)
    sums[sums > 1 - 1e-12] = 2.0
    return sums.tolist()


def _bits(p: np.ndarray) -> np.ndarray:
    return -p * np.log2(np.where(p > 0, p, 1.0))


def _check(rules: Rules) -> None:
    if not rules:
        raise refuse("rules", "for at least one node", "none")
    for node, words in rules.items():
        total = sum(probability for probability, _, _ in words)
        if not all(probability > 0 for probability, _, _ in words) or not abs(total - 1) < 1e-9:
            raise refuse(f"the probabilities of node {node!r}", "to be positive and to sum to 1", total)
        spelt = sorted(word for _, word, _ in words)
        for word, after in zip(spelt, [*spelt[1:], "\0"], strict=True):
            if not word or after.startswith(word):
                wanted = "to have letters, and none to be the beginning of another"
                raise refuse(f"the words of node {node!r}", wanted, repr(word))
        strange = {following for _, _, following in words} - set(rules)
        if strange:
            raise refuse(f"the next nodes of {node!r}", f"to be among {', '.join(rules)}", ", ".join(sorted(strange)))


def _sentences() -> Rules:
    """Return the rules of sentences such as "the red cats near the dog see the rats. "."""
    rules: dict[str, list[tuple[float, str, str]]] = {"start": [(1.0, "the ", "subject")]}
    places = [("subject", " ", "one", "many"), ("object", ". ", "start", "start")]
    places += [(f"near {number}", " ", f"{number} verb", f"{number} verb") for number in ("one", "many")]
    for place, end, one, many in places:
        numbers = (("", one), ("s", many))
        nouns = [(noun + s + end, goal) for noun in ("cat", "dog", "hen", "rat") for s, goal in numbers]
        bare = place.startswith("near")  # a noun without an adjective: what the verb must remember is long enough
        rules[place if bare else f"{place} noun"] = [(1 / 8, noun, goal) for noun, goal in nouns]
        if not bare:
            rules[place] = [(1 / 4, adjective, f"{place} noun") for adjective in ("old ", "red ")]
            rules[place] += [(1 / 16, noun, goal) for noun, goal in nouns]
    for number, s in (("one", "s"), ("many", "")):
        rules[f"{number} verb"] = [(0.5, f"see{s} the ", "object"), (0.5, f"sleep{s}. ", "start")]
        rules[number] = [(0.5, "near the ", f"near {number}")]
        rules[number] += [(p / 2, word, goal) for p, word, goal in rules[f"{number} verb"]]
    return rules


sentences = Grammar(_sentences())
