"""The record of a learner: real notebooks run again in kernels, one page that says nothing of the person or the machine."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket

import nbformat
import pytest
from training_injected import BOOKS, inject, solution

from ionrt import IonrtError, report, training
from ionrt.__main__ import main
from ionrt.training import verdict
from ionrt.training.exercise import MODULES, TRACKS, exercises

ALL = exercises()


def book(module):
    return next(p for p in BOOKS if p.name.startswith(module))


def answers(module, pick):
    return {name: pick(one) for name, one in ALL.items() if one.module == module}


def slip(one):
    return repr(one.slips[0].value) if one.slips else "-1.0"


def small(*cells):
    made = [nbformat.v4.new_code_cell(c) for c in cells]
    return nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    """A learner's folder: one module right, one wrong, copies with odd answers; and what a second run of the checks finds."""
    folder = tmp_path_factory.mktemp("Kim Minseo")
    nbformat.write(inject(book("T12"), answers("T12", solution)), folder / book("T12").name)
    nbformat.write(inject(book("T13"), answers("T13", slip)), folder / book("T13").name)
    start, odd = "from ionrt.training import check", ("answer = 29 mm\ncheck('T06.1', answer)", "check('T06.2', float('nan'))")
    nbformat.write(small(start, *odd, "check('T06.3')"), folder / "T06_mine.ipynb")
    nbformat.write(small(start, "check('T13.1', 45.9)", "check('T13.2')"), folder / "T13_later copy.ipynb")
    log = folder / "log.jsonl"
    os.environ["IONRT_TRAINING_RECORD"] = str(log)
    try:
        return folder, training.verdicts(folder), log
    finally:
        del os.environ["IONRT_TRAINING_RECORD"]


@pytest.fixture
def found():
    """Verdicts of the engine itself, as a run of the notebooks finds them: T12 right, T13 wrong but for its first."""
    said = {name: verdict(one, one.expected)[0] for name, one in ALL.items() if one.module == "T12"}
    said |= {name: verdict(one, one.slips[0].value)[0] for name, one in ALL.items() if one.module == "T13"}
    return said | {"T13.1": "right"}


@pytest.mark.slow
def test_a_second_run_says_what_the_checks_said(handed_in):
    _, found, log = handed_in
    assert set(found) == {n for n, one in ALL.items() if one.module in ("T12", "T13")} | {"T06.1", "T06.2", "T06.3"}
    assert {state for n, state in found.items() if n.startswith("T12")} == {"right"}
    assert {state for n, state in found.items() if n.startswith("T13") and n != "T13.1"} == {"wrong"}
    assert found["T13.1"] == "right", "of copies the best counts"
    assert found["T06.1"] == found["T06.2"] == "unclear" and found["T06.3"] == "open"
    assert not log.exists(), "the learner's log hears nothing of the second run"


def test_the_page_has_all_and_nothing_of_person_machine_or_answers(found, tmp_path):
    first = training.record(found, tmp_path / "a.html", track="statistician")
    again = training.record(dict(reversed(found.items())), tmp_path / "b.html", track="statistician")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert first == again and first in page and page == (tmp_path / "b.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 60_000 and not report.EXTERNAL.search(page) and "<script" not in page and "http" not in page
    for word in (getpass.getuser(), socket.gethostname(), str(tmp_path), tmp_path.name, os.path.expanduser("~")):
        assert len(word) < 3 or not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", page), word
    assert not re.search(r"[A-Za-z]:\\|(?<![\w<])/[a-z]+/\w", page), "no path"
    for module in MODULES:
        assert (f"{module} {MODULES[module]}" in page) == (module in TRACKS["statistician"])
    for one in ALL.values():
        assert one.why not in page and not [s.says for s in one.slips if len(s.says) > 20 and s.says in page]
    for blank in ("Name, staff number", "Assessor", "Level", "signature of the learner", "signature of the assessor"):
        assert blank in page
    assert "5 of 5" in page and "1 of 7" in page


def test_another_answer_question_or_track_is_another_hash(found, tmp_path, monkeypatch):
    seen = [training.record(found, tmp_path / "r.html", track=track) for track in ("statistician", "oncologist")]
    seen.append(training.record(found | {"T12.1": "wrong"}, tmp_path / "r.html", track="statistician"))
    from dataclasses import replace

    from ionrt.training import sealed

    other = dict(ALL) | {"T12.1": replace(ALL["T12.1"], expected=0.98)}
    monkeypatch.setattr(sealed, "exercises", lambda: other)
    seen.append(training.record(found, tmp_path / "r.html", track="statistician"))
    assert len(set(seen)) == 4


@pytest.mark.parametrize(
    ("found", "track", "says"),
    [
        ({"T99.1": "right"}, "physicist", "exercise: 'T99.1'"),
        ({"T00.1": "Right"}, "physicist", "T00.1: 'Right'"),
        ({}, "surgeon", "track: 'surgeon'"),
    ],
)
def test_what_is_no_verdict_is_refused_and_nothing_written(found, track, says, tmp_path):
    with pytest.raises(IonrtError, match=says):
        training.record(found, tmp_path / "r.html", track=track)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_cell_that_stops_costs_its_exercise_only(tmp_path):
    cells = ("from ionrt import training", "1 / 0", "training.check('T12.1', nothing)", "training.check('T12.5', 'b')")
    nbformat.write(small(*cells), tmp_path / "T12_mine.ipynb")
    assert training.verdicts(tmp_path) == {"T12.1": "unclear", "T12.5": "right"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "T12_bad.ipynb is no notebook"),
        ('{"cells": 3}', "T12_bad.ipynb is no notebook"),
        ("[]", "T12_bad.ipynb is no notebook"),
        ("", "T12_bad.ipynb is no notebook"),
        pytest.param(
            nbformat.writes(small("import no_such_thing", "training.check('T12.1', 1)")),
            "stops before its first check: .*no_such_thing",
            marks=pytest.mark.slow,
        ),
        pytest.param(nbformat.writes(small("import os; os._exit(3)")), "T12_bad.ipynb: .*kernel", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_notebook_is_refused_by_name(text, says, tmp_path):
    (tmp_path / "T12_bad.ipynb").write_text(text)
    with pytest.raises(IonrtError, match=f"(?is){says}"):
        training.verdicts(tmp_path)


def test_the_command_makes_the_page_and_forgets_the_log(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = ("from ionrt.training import check", "check('T12.1', 0.97)", "check('T12.2', 'b')")
    nbformat.write(small(*cells), tmp_path / "T12_mine.ipynb")
    nbformat.write(small("1 / 0"), tmp_path / "T06_not_in_the_track.ipynb")
    monkeypatch.setenv("IONRT_TRAINING_RECORD", str(tmp_path / "log.jsonl"))
    training.check("T12.1", 0.97)
    assert (tmp_path / "log.jsonl").exists()
    assert main(["training", "record", ".", "--track", "statistician", "--out", "mine.html", "--forget"]) == 0
    out = capsys.readouterr().out
    assert "T12  1 of 2 right" in out and "the log is deleted" in out and not (tmp_path / "log.jsonl").exists()
    same = training.record({"T12.1": "right", "T12.2": "wrong"}, tmp_path / "same.html", track="statistician")
    assert same in out and (tmp_path / "mine.html").read_bytes() == (tmp_path / "same.html").read_bytes()
    assert main(["training", "--forget"]) == 0 and "nothing was kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["training"], "expected record, summary or --forget"),
        (["training", "record", "nowhere"], "no training notebook"),
        (["training", "record", "a", "b"], "one folder"),
        (["training", "record", "--track", "surgeon"], "--track: 'surgeon'"),
        (["training", "summary", "nothing.jsonl"], "nothing.jsonl: expected a log"),
    ],
)
def test_a_bad_command_is_one_line(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_a_summary_is_of_exercises_and_hides_the_few(tmp_path, monkeypatch, capsys):
    logs = []
    for k in range(10):
        monkeypatch.setenv("IONRT_TRAINING_RECORD", str(tmp_path / f"{k}.jsonl"))
        training.check("T05.1", 1.47 if k < 2 else 3.6)  # two of ten at the first try
        training.check("T05.1", 1.47)
        training.check("T05.2", 1.09 if k < 6 else 1.37)
        if k < 4:
            training.check("T05.3", 1.63)
        logs.append(tmp_path / f"{k}.jsonl")
    table = training.summary(logs)
    assert list(table.index) == ["T05.1", "T05.2"], "four learners are too few"
    assert table.loc["T05.1"].to_dict() == {"learners": 10, "first_try": 0.2, "tries": 2.0, "look": True}
    assert table.loc["T05.2"].to_dict() == {"learners": 10, "first_try": 0.6, "tries": 1.0, "look": False}
    assert training.summary([]).empty
    assert main(["training", "summary", *map(str, logs)]) == 0 and "first_try" in capsys.readouterr().out
    (tmp_path / "x.jsonl").write_text(json.dumps({"exercise": "T99.1", "state": "right"}))
    with pytest.raises(IonrtError, match=r"x\.jsonl: expected a log"):
        training.summary([tmp_path / "x.jsonl"])


def test_a_log_that_cannot_be_written_is_said_in_words(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IONRT_TRAINING_RECORD", str(tmp_path / "no" / "log.jsonl"))
    training.check("T05.1", 1.47)
    assert "cannot be written" in capsys.readouterr().out
