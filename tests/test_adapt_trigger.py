"""Rules as data: values, limits and sources stand beside each decision; one bad image is no new plan, an organ limit is."""

from __future__ import annotations

import pytest

from ionrt.adapt import decide
from ionrt.adapt.trigger import DEFAULT_RULES, Rule
from ionrt.quantities import IonrtError

FINE = {"centroid": 1.0, "volume": 2.0, "depth_median": 0.5, "depth_95": 1.0}
DOSE = {"V95": 99.5, "D98_loss": 0.5, "L98_loss": 1.0, "D0.03cc rise Chiasm": 0.5, "D0.03cc Chiasm": 2.1}


def test_a_millimetre_goes_on():
    found = decide(FINE | DOSE)
    assert found.attrs == {"decision": "continue", "reasons": ()}
    assert set(found["result"]) == {"kept"} and found["source"].str.len().min() > 5
    assert list(found.index) == [*FINE, "V95", "D98_loss", "L98_loss", "D0.03cc rise Chiasm"]


def test_target_rules_ask_for_two_images_in_a_row():
    bad = FINE | DOSE | {"V95": 90.0, "D98_loss": 9.0}
    assert decide(bad).attrs["decision"] == "image again"
    assert decide([FINE | DOSE, bad]).attrs["decision"] == "image again"
    assert decide([bad, FINE | DOSE]).attrs["decision"] == "continue"
    found = decide([bad, bad])
    assert found.attrs["decision"] == "replan" and found.attrs["reasons"][0] == "V95 90, limit 95"


def test_organs_ask_at_once():
    assert decide(FINE | DOSE | {"D0.03cc rise Chiasm": 15.0}).attrs["decision"] == "replan"
    assert decide(FINE | DOSE, limits={"D0.03cc Chiasm": 2.0}).attrs["decision"] == "replan"
    assert decide(FINE | DOSE, limits={"D0.03cc Chiasm": 2.5}).attrs["decision"] == "continue"


def test_a_screen_alone_asks_to_look_closer():
    far = FINE | {"depth_95": 9.0}
    assert decide(far).attrs["decision"] == "image again"
    found = decide(far | DOSE)
    assert found.attrs["decision"] == "continue" and found.loc["depth_95", "result"] == "look closer"


def test_an_unknown_value_breaks_its_rule():
    assert decide(FINE | DOSE | {"V95": float("nan")}).attrs["decision"] == "image again"


def test_own_rules_and_bad_input():
    strict = [Rule("V95", 99.9, False, "dose", 1, "our protocol")]
    assert decide(DOSE, rules=strict).attrs["decision"] == "replan"
    own = [
        Rule("gamma 3 %/3 mm", 90.0, False, "dose", 1, "our protocol"),
        Rule("beam loss *", 3.0, True, "dose", 1, "our protocol"),
    ]
    found = decide({"gamma 3 %/3 mm": 95.0, "beam loss 1 C gantry 90": 4.0, "beam loss 2 C gantry 180": 1.0}, rules=own)
    assert found.attrs == {"decision": "replan", "reasons": ("beam loss 1 C gantry 90 4, limit 3",)} and len(found) == 3
    with pytest.raises(IonrtError, match="at least one image"):
        decide([])
    with pytest.raises(IonrtError, match="no rule fits"):
        decide({"colour": 3.0})
    with pytest.raises(IonrtError, match="rule: kind"):
        Rule("V95", 95.0, False, "feeling", 1, "us")
    with pytest.raises(IonrtError, match="a source"):
        Rule("V95", 95.0, False, "dose", 1, "")
    assert all("ionrt" in r.source or "doi" in r.source for r in DEFAULT_RULES)
