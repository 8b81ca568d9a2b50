"""The course: expected answers computed anew, each slip with its own sentence, anything typed in answered in words."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import training_answers

import ionrt
from ionrt import training
from ionrt.training import TRACKS, exercises, verdict
from ionrt.training.exercise import CORE, ROLES

ALL = exercises()
NUMBERS = [e for e in ALL.values() if e.kind == "number"]
BY_HAND = {"T07.3", "T10.1"}  # read off the question
REFUSALS = {
    "T00.3": lambda: ionrt.rbe.wedenberg(_carbon(), alpha_beta=2.0),
    "T04.6": lambda: ionrt.rbe.mcnamara(_carbon(), alpha_beta=2.0),
    "T05.6": lambda: ionrt.rbe.convert_prescription(4.6, source="NIRS-mMKM", target="LEM-I"),
    "T10.5": lambda: ionrt.deidentify(Path(__file__).parent, Path(__file__).parent / "nowhere", key="12345678"),
}


def _carbon():
    base, weights = training_answers._bases("C")
    return ionrt.sobp.depth_field(base, weights, moments=("let_x_dose",))


def test_there_are_enough_and_each_has_a_role_a_goal_and_a_reason():
    assert len(ALL) >= 70 and {e.module for e in ALL.values()} == {f"T{k:02d}" for k in range(15)}
    for e in ALL.values():
        assert e.why and e.competency and set(e.roles) <= set(ROLES)
    assert all(set(CORE) <= set(modules) <= {f"T{k:02d}" for k in range(15)} for modules in TRACKS.values())
    assert np.mean([len(e.slips) for e in NUMBERS]) >= 1.5


@pytest.mark.parametrize("name", training_answers.ANSWERS)
def test_expected_is_what_ionrt_computes(name):
    one = ALL[name]
    computed = training_answers.ANSWERS[name]()
    assert abs(computed - one.expected) <= one.tolerance / 2, (
        f"{name}: {computed:.5g} computed, {one.expected:g} in the exercise"
    )
    assert verdict(one, computed)[0] == "right"


def test_every_number_is_computed_or_named():
    assert {e.name for e in NUMBERS} == set(training_answers.ANSWERS) | BY_HAND


@pytest.mark.parametrize("one", ALL.values(), ids=list(ALL))
def test_slips_are_wrong_and_each_has_its_own_sentence(one):
    said = [verdict(one, slip.value) for slip in one.slips]
    assert [state for state, _ in said] == ["wrong"] * len(said)
    assert [sentence for _, sentence in said] == [slip.says for slip in one.slips]
    if one.kind != "choice":
        assert all(a.says != b.says for a, b in combinations(one.slips, 2))
        assert all(abs(s.value - one.expected) > one.tolerance for s in one.slips)
    if one.kind == "choice":
        assert one.expected in one.choices and {s.value for s in one.slips} == set(one.choices) - {one.expected}
        assert verdict(one, one.expected.upper()) == ("right", one.why)


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_are_refused_for_the_reason_looked_for(name):
    assert verdict(ALL[name], REFUSALS[name])[0] == "right"
    assert verdict(ALL[name], lambda: 1)[0] == "wrong"
    assert verdict(ALL[name], lambda: 1 / 0)[0] == "wrong"
    assert verdict(ALL[name], 3.0)[0] == "unclear"


def test_a_changed_constant_makes_an_exercise_fail_that_names_it(monkeypatch):
    from ionrt.biology import oxygen

    real = oxygen.oer_antonovic
    monkeypatch.setattr(ionrt.biology, "oer_antonovic", lambda let, **given: real(let, oer_low=3.2, **given))
    with pytest.raises(AssertionError, match=r"T04\.5"):
        test_expected_is_what_ionrt_computes("T04.5")


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("T03.1", "50.7 keV/um", "50.7 without quotes"),
        ("T03.1", "about fifty", "not with text"),
        ("T03.1", "50,7", "50.7 without quotes"),
        ("T03.1", float("nan"), "not a number"),
        ("T03.1", float("inf"), "not a number"),
        ("T03.1", np.array([1.0, 2.0]), "one number"),
        ("T03.1", [50.7], "one number"),
        ("T03.1", {"a": 1}, "one number"),
        ("T03.1", True, "true or false"),
        ("T03.1", 1 + 2j, "one number"),
        ("T03.5", 1, "letters"),
        ("T03.5", "e", "letters"),
    ],
)
def test_odd_answers_get_a_sentence(name, given, says):
    state, sentence = verdict(ALL[name], given)
    assert state == "unclear" and says in sentence


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("T03.1", 507.0, "factor of 10"),
        ("T03.1", 0.0507, "factor of 1000"),
        ("T03.1", -50.7, "sign"),
        ("T03.4", 1 / 1.49, "carbon over oxygen"),
        ("T01.3", 1 / 3.0, "carbon over helium"),
        ("T06.2", 1 / 8, "inverse"),
        ("T11.1", 0.265, "per cent"),
        ("T01.2", 12 * 275.8, "per nucleon"),
        ("T05.5", 2.19 * 16, "number of fractions"),
        ("T03.1", 60.0, "18 % away"),
        ("T03.1", 4000.0, "not near"),
    ],
)
def test_usual_slips_are_known_to_all_questions(name, given, says):
    state, sentence = verdict(ALL[name], given)
    assert state == "wrong" and says in sentence


def test_zero_dimensional_arrays_are_numbers(capsys):
    one = ALL["T03.1"]
    assert verdict(one, np.float32(50.7))[0] == verdict(one, np.array(50.7))[0] == "right"
    training.check("T03.1")
    training.check("T03.1", ...)
    training.check("T3.1", 1)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == out[1] == "T03.1: open - not answered yet" and "no such exercise" in out[2]


@pytest.mark.parametrize("language", ["ko", "ja"])
def test_translations_have_the_core_modules_and_the_same_numbers(language):
    other = exercises(language)
    for name, one in ALL.items():
        same = other[name]
        assert (same.expected, same.tolerance, same.unit) == (one.expected, one.tolerance, one.unit)
        assert [s.value for s in same.slips] == [s.value for s in one.slips] and set(same.choices) == set(one.choices)
        if one.module in CORE:
            assert (
                same.ask != one.ask
                and same.why != one.why
                and all(a.says != b.says for a, b in zip(same.slips, one.slips, strict=True))
            )


def test_nothing_is_written_unless_asked_and_then_nothing_of_the_person(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("IONRT_TRAINING_RECORD", raising=False)
    training.check("T03.1", 1.0)
    log = tmp_path / "log.jsonl"
    monkeypatch.setenv("IONRT_TRAINING_RECORD", str(log))
    training.check("T03.1", 1.0)
    training.check("T03.1")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [set(r) for r in rows] == [{"exercise", "state", "minute"}]
    training.forget()
    assert not log.exists()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"name": "T99.1"}, "missing"),
        ({"name": "T99.1", "ask": "?", "kind": "essay", "expected": 1, "why": "x"}, "kind"),
        ({"name": "T99.1", "ask": "?", "kind": "number", "expected": 1, "why": "x", "tolerence": 1}, "tolerence"),
    ],
)
def test_a_bad_exercise_is_refused_by_name(row, says):
    from ionrt.training.exercise import _exercise

    with pytest.raises(ionrt.IonrtError, match=says):
        _exercise(row, "file: T99.1")
