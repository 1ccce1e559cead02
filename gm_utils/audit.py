"""The audit: a claim, the evidence that could refute it, and the verdict that follows from the evidence.

>>> claim = Claim(
...     "0a", "All swans are white", right="Most swans are white", evidence={"black swans": 1},
...     refuted_if={"one is black": True}, wording="Most swans are white.",
... )
>>> claim.verdict
'wrong'
"""

import html
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gm_utils.validation import numbers, refuse

_VERDICTS = {"stands": "✔", "incomplete": "◐", "wrong": "✘"}


def _conditions(what: str, given: Mapping[str, Any]) -> dict[str, bool]:
    checked = {}
    for words, condition in given.items():
        array = np.asarray(condition)
        if array.dtype != bool or array.ndim:
            raise refuse(f"{what}[{words!r}]", "to be true or false", repr(condition))
        checked[words] = bool(array)
    return checked


class Claim:
    """One statement of an exam answer, put to experiments that could refute it.

    Args:
        label: such as ``"2b"``.
        words: the statement as people commonly make it.
        right: the statement that is right; shown first.
        evidence: what was measured, name to number.
        refuted_if: what would prove the statement false, name to condition; any true one makes it *wrong*.
        limited_if: the exceptions that it forgets, name to condition; any true one makes it *incomplete*.
        wording: what to write in the exam.

    Attributes:
        verdict: ``"stands"``, ``"incomplete"`` or ``"wrong"``, from the conditions and nothing else.

    Raises:
        ValueError: for evidence that is not numbers, conditions that are not booleans, or no condition at all.
    """

    def __init__(
        self,
        label: str,
        words: str,
        *,
        right: str,
        evidence: Mapping[str, Any],
        refuted_if: Mapping[str, Any],
        limited_if: Mapping[str, Any] | None = None,
        wording: str,
    ) -> None:
        self.label, self.words, self.right, self.wording = label, words, right, wording
        self.evidence = numbers("evidence", "to be a dict of numbers", evidence)
        if not self.evidence:
            raise refuse("evidence", "to hold at least one number", "none")
        self.refuted_if = _conditions("refuted_if", refuted_if)
        self.limited_if = _conditions("limited_if", limited_if or {})
        if not self.refuted_if:
            raise refuse("refuted_if", "to name at least one condition, or no evidence could refute the claim", "none")
        if any(self.refuted_if.values()):
            self.verdict = "wrong"
        else:
            self.verdict = "incomplete" if any(self.limited_if.values()) else "stands"

    def tests(self) -> list[tuple[str, str]]:
        """Return (what was asked, what came out) for every condition."""
        asked = [(f"refuted, if {words}", met) for words, met in self.refuted_if.items()]
        asked += [(f"an exception, if {words}", met) for words, met in self.limited_if.items()]
        return [(words, "yes" if met else "no") for words, met in asked]

    def _told(self) -> tuple[str, str]:
        """Return the verdict and the evidence in words."""
        told = "; ".join(f"{words} = {number:.4g}" for words, number in self.evidence.items())
        return f"{_VERDICTS[self.verdict]} {self.verdict}", told

    def _rows(self) -> list[tuple[str, str]]:
        verdict, evidence = self._told()
        conditions = "; ".join(f"{words}: {met}" for words, met in self.tests())
        return [
            ("Right", self.right),
            ("Common", f"“{self.words}”"),
            ("Evidence", evidence),
            ("Asked", conditions),
            ("Verdict", verdict),
            ("Write", self.wording),
        ]

    def __repr__(self) -> str:
        return "\n".join([f"Claim {self.label}"] + [f"  {name:<9}{words}" for name, words in self._rows()])

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th scope="row" style="text-align:left;vertical-align:top">{name}</th>'
            f'<td style="text-align:left">{html.escape(words)}</td></tr>'
            for name, words in self._rows()
        )
        return f"<table><caption>Claim {html.escape(self.label)}</caption><tbody>{rows}</tbody></table>"


class Summary:
    """The closing table of ``claims``: claim, verdict, evidence in numbers, wording that earns the mark.

    Raises:
        ValueError: for no claims.
    """

    _HEAD = ("Claim", "Verdict", "Evidence", "Wording that earns the mark")

    def __init__(self, claims: Iterable[Claim]) -> None:
        self.claims = sorted(claims, key=lambda claim: claim.label)
        if not self.claims:
            raise refuse("claims", "to be one or more", "none")

    def _rows(self) -> list[tuple[str, ...]]:
        return [(f"{claim.label} “{claim.words}”", *claim._told(), claim.wording) for claim in self.claims]

    def __repr__(self) -> str:
        return "\n".join(" | ".join(row) for row in [self._HEAD, *self._rows()])

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col" style="text-align:left">{name}</th>' for name in self._HEAD)
        body = "".join(
            "<tr>" + "".join(f'<td style="text-align:left">{html.escape(cell)}</td>' for cell in row) + "</tr>"
            for row in self._rows()
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
