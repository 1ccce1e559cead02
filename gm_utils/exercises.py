"""Exercises that answer: a reader's function against the package's, on inputs that the reader has not seen.

>>> check(lambda x: x + 1, lambda x: 2 * x, inputs=[(1.0,), (3.0,)], hint="Double it.")
<lambda>: not yet. First failing input: 3.
expected 6., got 4.
Hint: Double it.
"""

import html
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from gm_utils.validation import refuse


class Check:
    """What came of a check: ``.status`` is ``"not attempted"``, ``"not yet"`` or ``"right"``; ``.message`` says why."""

    def __init__(self, name: str, status: str, message: str) -> None:
        self.name, self.status, self.message = name, status, message

    def __repr__(self) -> str:
        return f"{self.name}: {self.status}. {self.message}"

    def _repr_html_(self) -> str:
        mark = {"not attempted": "○", "not yet": "✘", "right": "✔"}[self.status]
        head = f"<b>{mark} {html.escape(self.name)}: {self.status}.</b>"
        return f'<div role="status">{head}<pre style="white-space:pre-wrap">{html.escape(self.message)}</pre></div>'


def _short(value: Any) -> str:
    text = np.array2string(np.asarray(value), precision=4, threshold=8, edgeitems=3)
    return " ".join(text.split())


def _difference(got: Any, wanted: Any, rtol: float) -> str | None:
    """Return what is wrong with ``got``, or None; both are numbers, arrays, words, or pytrees of these."""
    if any(part is None for part in jax.tree.leaves(got, is_leaf=lambda part: part is None)):
        return f"expected {_structure(wanted)}, got None in it"
    mine_tree: Any = jax.tree.structure(got)
    if mine_tree != jax.tree.structure(wanted):
        return f"expected {_structure(wanted)}, got {_structure(got)}"
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        if isinstance(theirs, str):
            if not isinstance(mine, str):
                return f"expected a word in quotation marks, got {mine!r}"
            if mine.casefold() != theirs.casefold():
                return f"{mine!r} is not the word looked for"  # nor is that told, as there are few
            continue
        mine, theirs = np.asarray(mine), np.asarray(theirs)
        if mine.dtype.kind not in "biuf":  # booleans, whole numbers with and without a sign, floats
            return f"expected numbers, got {mine.tolist()!r}"
        if mine.shape != theirs.shape:
            return f"expected shape {theirs.shape}, got {mine.shape}"
        finite = np.abs(theirs[np.isfinite(theirs)])
        scale = float(finite.max()) if finite.size else 0.0
        if not np.allclose(mine, theirs, rtol=rtol, atol=rtol * scale, equal_nan=True):
            return f"expected {_short(theirs)}, got {_short(mine)}"
    return None


def _structure(value: Any, *, inside: bool = True) -> str:
    if isinstance(value, tuple | list | dict):
        parts = [_structure(part, inside=False) for part in (value.values() if isinstance(value, dict) else value)]
        return f"a {type(value).__name__} of {len(parts)}" + f" ({', '.join(parts)})" * (inside and 0 < len(parts) < 4)
    return "one word" if isinstance(value, str) else "one array"


def check(
    answer: Callable[..., Any],
    reference: Callable[..., Any],
    *,
    inputs: Iterable[tuple[Any, ...]],
    hint: str,
    rtol: float = 1e-4,
) -> Check:
    """Compare a reader's function with the reference on each of ``inputs``; what the reader's code raises is told.

    Args:
        answer: the reader's function. One that returns None or ``...`` counts as not attempted.
        reference: the function that is right, called with the same arguments; it returns numbers, arrays, words, or
            tuples, lists and dicts of these. Words count whatever their capitals.
        inputs: tuples of arguments, for example drawn at random.
        hint: one sentence, shown with the first input on which the two differ.
        rtol: relative tolerance, elementwise and against the largest entry.

    Raises:
        ValueError: if ``inputs`` is empty, or if the reference itself gives nothing to compare with.
    """
    name = getattr(answer, "__name__", "answer")
    inputs = list(inputs)
    if not inputs:
        raise refuse("inputs", "to be one or more tuples of arguments", "none")
    for arguments in inputs:
        wanted = reference(*arguments)
        if wanted is None:
            raise refuse("reference", "to return numbers", "None")
        try:
            got = answer(*arguments)
        except Exception as error:
            fault: str | None = f"raised {type(error).__name__}: {error}"
        else:
            if got is None or got is ...:
                return Check(name, "not attempted", "Fill in the function above and run both cells.")
            fault = _difference(got, wanted, rtol)
        if fault:
            shown = ", ".join(_short(argument) for argument in jax.tree.leaves(arguments))
            return Check(name, "not yet", f"First failing input: {shown}\n{fault}\nHint: {hint}")
    return Check(name, "right", f"Agrees with the package on {len(inputs)} inputs.")
