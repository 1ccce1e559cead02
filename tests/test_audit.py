"""A verdict follows from the conditions, and from nothing else."""

import jax.numpy as jnp
import numpy as np
import pytest

from gm_utils.audit import Claim, Summary


def claim(refuted=False, limited=False, label="2b", **changes):
    given = {
        "right": "The mean of n draws errs by about 1/sqrt(n).",
        "evidence": {"error at n = 100": 0.1},
        "refuted_if": {"the error does not shrink": refuted},
        "limited_if": {"draws are dependent": limited},
        "wording": "The error falls as 1/sqrt(n) for independent draws.",
    }
    return Claim(label, "More draws <help>", **(given | changes))


@pytest.mark.parametrize(
    ("refuted", "limited", "verdict"),
    [
        (False, False, "stands"),
        (False, True, "incomplete"),
        (True, False, "wrong"),
        (True, True, "wrong"),
        (np.bool_(True), False, "wrong"),
        (jnp.array(True), jnp.array(False), "wrong"),
    ],
)
def test_verdict_from_conditions(refuted, limited, verdict):
    made = claim(refuted, limited)
    assert made.verdict == verdict
    assert verdict in repr(made)
    assert verdict in made._repr_html_()


def test_the_case_in_which_a_claim_fails_is_named():
    assert ("an exception, if draws are dependent", "yes") in claim(limited=True).tests()
    assert "draws are dependent: yes" in repr(claim(limited=True))


def test_html_shows_everything_and_escapes_it():
    page = claim()._repr_html_()
    for part in ("The mean of n draws", "More draws &lt;help&gt;", "error at n = 100 = 0.1", "independent draws"):
        assert part in page
    assert "<help>" not in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"refuted_if": {"x": 0.3}}, r"expected refuted_if\['x'\] to be true or false, got 0.3"),
        ({"refuted_if": {"x": np.array([True, False])}}, "to be true or false"),
        ({"limited_if": {"x": "yes"}}, "expected limited_if"),
        ({"refuted_if": {}}, "to name at least one condition"),
        ({"evidence": {"x": "much"}}, "expected evidence to be a dict of numbers"),
        ({"evidence": {}}, "to hold at least one number"),
        ({"evidence": 3.0}, "expected evidence to be a dict of numbers"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        claim(**change)


def test_summary_lists_claims_in_order_as_text_and_html():
    summary = Summary([claim(label="2d", limited=True), claim(label="2b")])
    text = repr(summary).splitlines()
    assert text[0].startswith("Claim | Verdict | Evidence")
    assert [line[:2] for line in text[1:]] == ["2b", "2d"]
    assert "✔ stands" in text[1]
    assert "◐ incomplete" in text[2]
    assert summary._repr_html_().count("<tr>") == 3
    with pytest.raises(ValueError, match="expected claims"):
        Summary([])
