"""Every notebook with other parameters, a patient of one's own, tables of one's own: what a reader is told to set can be set.

The cells run in this process on the smallest grids; how a notebook becomes a page is tested elsewhere.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from ionrt import cohort, trial
from ionrt.made import parameters_of
from ionrt.patient import write_phantom
from ionrt.plot.style import Figure

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
COARSE = {"spacing": 8.0, "target": "CTV"}
ROUGH = {**COARSE, "spot_spacing": 10.0, "iterations": 3}
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def run(name: str, monkeypatch, capsys, **chosen) -> tuple[list[Figure], str]:
    """Figures and tables that a notebook shows, each drawn, and all that it prints."""
    source = next(FOLDER.glob(f"{name}_*.ipynb"))
    assert set(chosen) <= set(parameters_of(source)), "a parameter that does not exist"
    shown: list[Figure] = []
    space = {"display": shown.append, "__name__": "notebook"}
    monkeypatch.chdir(FOLDER)
    monkeypatch.setitem(os.environ, "TQDM_DISABLE", "1")
    for cell in nbformat.read(source, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        body = ast.parse(cell.source).body
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), name, "exec"), space)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), name, "eval"), space))
        if "parameters" in cell.metadata.get("tags", ()):
            space |= chosen
    figures = [one for one in shown if isinstance(one, Figure)]
    for figure in figures:
        assert figure.whole_html()
        assert figure.caption
    return figures, capsys.readouterr().out


@pytest.fixture(scope="module")
def pelvis(tmp_path_factory) -> str:
    return str(write_phantom(tmp_path_factory.mktemp("own") / "pelvis", anatomy="pelvis"))


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> str:
    return str(write_phantom(tmp_path_factory.mktemp("own") / "head", anatomy="head"))


@pytest.fixture(scope="module")
def one_contact(tmp_path_factory) -> str:
    """120 patients, one contact each, nobody's ECOG status known: valid, and as small as a first cohort is."""
    tables = cohort.load(FOLDER.parent / "datasets" / "exchange_cohort")
    pids = tables["patient"]["pid"].iloc[:120]
    cids = tables["course"].loc[tables["course"]["pid"].isin(pids), "cid"]
    own = {
        name: (t[t["pid"].isin(pids)] if "pid" in t else t[t["cid"].isin(cids)])
        .assign(origin="clinical")
        .reset_index(drop=True)
        for name, t in tables.items()
    }
    own["followup"] = own["followup"].sort_values("day").groupby("pid").tail(1).reset_index(drop=True)
    own["patient"] = own["patient"].assign(ecog=pd.array([None] * len(pids), dtype="Int64"))
    folder = tmp_path_factory.mktemp("own") / "cohort"
    cohort.save(own, folder)
    return str(folder)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("00", {"ion": "He", "energy": 150.0}),
        ("02", {"ions": ["He"]}),
        ("03", {"ions": ["O"], "interval": [80.0, 120.0], "prescription": 3.0}),
        ("16", {"ions": ["O"], "interval": [80.0, 120.0], "hypoxic": [90.0, 100.0], "po2": 2.0, "prescription": 3.0}),
        ("04", {"ions": ["He", "C"], "interval": [80.0, 120.0], "dose": 3.0}),
        ("11", {"n_sim": 50, "seed": 3}),
    ],
)
def test_other_parameters(name, chosen, monkeypatch, capsys):
    figures, _ = run(name, monkeypatch, capsys, **chosen)
    assert figures or name == "00"


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("01", {**COARSE, "ions": ["C"], "gantry_angles": [90], "prescription": 3.0, "organs": ["Bladder"]}),
        ("06", {**COARSE, "ions": ["C"], "gantry_angles": [90], "robust": "worst", "range_error": 0.03}),
        ("07", {**ROUGH, "ions": ["C"], "planned": "C", "organs": ["Bladder", "Rectum"]}),
    ],
)
def test_own_patient(name, chosen, pelvis, monkeypatch, capsys):
    figures, _ = run(name, monkeypatch, capsys, patient=pelvis, **chosen)
    assert len(figures) >= 3


def test_own_patients_and_mixes(head, pelvis, monkeypatch, capsys):
    mixes = {"carbon only": "C", "both": ["He", "C"]}
    beams = {"gantry_angles": [80], "large_gantry_angles": [140], "mixes": mixes, "shown": "both"}
    own = {"patient": head, "large_patient": pelvis, "large_target": "CTV", "large_gtv": "CTV"}
    figures, printed = run("05", monkeypatch, capsys, **ROUGH, **own, **beams)
    assert len(figures) >= 10 and "both" in printed


@pytest.mark.parametrize("name", ["08", "09"])
def test_own_small_cohort(name, one_contact, monkeypatch, capsys):
    figures, printed = run(name, monkeypatch, capsys, cohort=one_contact)
    assert figures and not [f.caption for f in figures if "SYNTHETIC" in f.caption]
    if name == "09":
        assert "Left out" in printed
        assert "planted" not in printed and not [f for f in figures if "planted" in f.caption]


def test_ntcp_of_a_small_cohort_says_what_is_missing(one_contact, monkeypatch, capsys):
    with pytest.raises(ValueError, match="too small for a model"):
        run("10", monkeypatch, capsys, cohort=one_contact)


@pytest.mark.parametrize("protocol", sorted(trial.protocols()))
def test_design_with_every_protocol(protocol, monkeypatch, capsys):
    _, printed = run("12", monkeypatch, capsys, randomised=protocol, n_sim=50)
    assert ("Left out" in printed) == (trial.load(protocol).design != "two_arm_survival")


def test_own_trial(tmp_path, monkeypatch, capsys):
    """The same participants as a table of the least columns, and as ADTTE in days: the same hazard ratio."""
    protocol = trial.load("pancreas_randomised")
    made = trial.synthetic_participants(protocol, 5)
    inside = made[made["arm"].notna()]
    least = inside[["pid", "arm", "time", "event", *protocol.strata]]
    least.to_csv(tmp_path / "least.csv", index=False)
    days = inside["time"] * 365.25 / 12
    adtte = inside[["arm", *protocol.strata]].rename(columns={"arm": "TRTP"}).assign(
        USUBJID=inside["pid"], PARAMCD="OS", AVAL=days, AVALU="DAYS", CNSR=1 - inside["event"].astype(int)
    )  # fmt: skip
    adtte.to_csv(tmp_path / "adtte.csv", index=False)
    european = least.assign(time=least["time"].round(2), event=least["event"].eq(1).map({True: "TRUE", False: "FALSE"}))
    european.assign(비고="남자").to_csv(tmp_path / "ko.csv", index=False, sep=";", decimal=",", encoding="cp949")
    with pytest.warns(UserWarning, match="read as cp949"):
        read = trial.read_participants(tmp_path / "ko.csv", protocol)
    assert read["time"].tolist() == european["time"].tolist() and read["event"].sum() == least["event"].sum()
    expected = trial.analyse(protocol, inside).iloc[0].estimate
    for name in ("least.csv", "adtte.csv"):
        figures, printed = run("13", monkeypatch, capsys, participants=str(tmp_path / name))
        assert f"hazard ratio {expected:.2f}" in printed
        assert [f for f in figures if f.caption.startswith("clinical.")]
        assert not [f for f in figures if "SYNTHETIC" in f.caption]


def test_participants_that_do_not_fit_the_protocol_are_refused(tmp_path):
    protocol = trial.load("pancreas_randomised")
    rows = pd.DataFrame({"pid": ["a", "a"], "arm": ["carbon", "proton"], "time": [3.0, -1.0], "event": [0, 2]})
    rows.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="columns centre, head_of_pancreas are missing"):
        trial.read_participants(tmp_path / "t.csv", protocol)
    rows.assign(centre="A", head_of_pancreas="yes").to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"arm: 1 rows hold 'proton'.*event: 1 rows hold 2.*time: 1 rows.*pid: 1 rows repeat"):
        trial.read_participants(tmp_path / "t.csv", protocol)
    with pytest.raises(ValueError, match=r"none\.csv"):
        trial.read_participants(tmp_path / "none.csv", protocol)
