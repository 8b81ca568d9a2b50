"""Doors beside those of `test_fuzz_dicom`: stores, parameters, tables, volumes, folders of other hands (IONRT_FUZZ=N)."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
from argparse import Namespace
from pathlib import Path

import fuzz
import numpy as np
import pydicom
import pytest
import xarray as xr
from adapt_fixtures import bumps
from plan_fixtures import POINT_ROOM, simple_plan, synthetic_base, water_box
from test_adapt_dicom import ON, make_ct, rotation
from test_plan_store import same
from test_trial_conduct import survival_data

from ionrt import adapt, beam, cohort, evaluate, indications, report, training, trial
from ionrt.__main__ import _parameters, main
from ionrt.compare import open_machine, receive
from ionrt.made import like, plain_value
from ionrt.patient import read_days, read_dicom, read_ion_plan, read_registration, write_registration
from ionrt.patient.calibration import calibration_table
from ionrt.patient.images import read_image, write_image
from ionrt.patient.registration import matrix_transform
from ionrt.plan import influence
from ionrt.quantities import IonrtError
from ionrt.resources import shipped
from ionrt.training.exercise import exercises

SEEDS = (31, 32)


READERS = {
    "read_dicom": read_dicom,
    "read_ion_plan": read_ion_plan,
    "read_image": read_image,
    "read_days": read_days,
    "read_matrad": beam.read_matrad,
    "load": cohort.load,
    "calibration_table": calibration_table,
    "indications": indications.load,
    "report": report.report,
    "open_machine": lambda path: open_machine({"C": path}, ["C"]),
}


@pytest.mark.parametrize("path", ["A" * 5000, "/x/" + "\u00e9" * 300, "a\0b", "\ud800x"])
@pytest.mark.parametrize("door", READERS)
def test_a_text_that_no_file_can_be_called(door, path):
    """The content of a file given instead of its name, for instance."""
    with pytest.raises(IonrtError):
        READERS[door](path)


@pytest.mark.parametrize("seed", SEEDS)
def test_damaged_store_of_an_influence(tmp_path, seed):
    """What does not fit its checksum is made again, to the last bit."""
    case, plan, base = water_box((7, 15, 7), target_radius=4.0), simple_plan(), {"C": synthetic_base("C")}
    expected = influence(case, plan, base=base, store=tmp_path)
    files = sorted(p for p in tmp_path.rglob("*") if p.is_file())

    def attempt(rng):
        path = files[rng.integers(len(files))]
        if rng.integers(8):
            path.write_bytes(fuzz.mutate_bytes(rng, path.read_bytes() or b"0")[0])
        else:
            odd_place(path, rng)
        same(influence(case, plan, base=base, store=tmp_path), expected)
        return ""

    fuzz.hold(attempt, seeds=(seed,), n=fuzz.tries(8))


def odd_place(path, rng):
    """A folder, a pipe, a link in a circle, nothing, or no right to read, instead of a file."""
    kind = rng.integers(5)
    path.unlink()
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to(path)
    elif kind == 3:
        path.write_bytes(b"")
        path.chmod(0)


DEFAULTS = {"n": 3, "x": 1.5, "flag": True, "name": "CTV", "ions": ["p", "C"], "weights": {"CTV": 1.0}, "any": None}


def test_parameters_of_reports():
    """Whatever is typed behind -p is a value that a literal gives back, or refused in one line."""
    whole = [
        "n=4",
        "x=2.5e-3",
        "flag=false",
        "name=CTV 60/66Gy",
        "ions=[p, He]",
        "weights={CTV: 1, 'a b': 2}",
        "any=[[1, x], {a: 1}]",
    ]
    odd = [
        "!!python/object/apply:os.system [x]",
        "&a [*a]",
        "<<: {a: 1}",
        "'",
        '"\x1b[31m"',
        "'''\n",
        "\u202e{x}",
        "[" * 3000,
        "1e999",
    ]
    odd += [
        ".nan",
        "{a: 1, a: 2}",
        "? [a]\n: b",
        "<script>",
        "{0.__class__}",
        "a\x00b",
        "\ud800",
        "1_000",
        "0x10",
        "2024-01-01",
        "#",
    ]

    def attempt(rng):
        text = whole[rng.integers(len(whole))]
        key, _, value = text.partition("=")
        value = fuzz.mutate_text(rng, value)[0] if rng.integers(2) else odd[rng.integers(len(odd))]
        if not rng.integers(3):
            at = int(rng.integers(len(value) + 1))
            value = value[:at] + odd[rng.integers(len(odd))] + value[at:]
        chosen = Namespace(parameters=[f"{key}={value}"], patient=None, cohort=None, days=[], target=None)
        given = {k: like(plain_value(v, k), DEFAULTS[k], k) for k, v in _parameters(chosen).items()}
        code = "\n".join(f"{k} = {v!r}" for k, v in given.items())
        back = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(code).body}
        return "" if repr(back) == repr(given) else f"{given} came back as {back}"

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(40))


def test_participants_of_a_trial(tmp_path):
    """A table of participants is read as it is, or refused in one line."""
    protocol = next(p for p in (trial.load(n) for n in sorted((shipped("trials")).glob("*.yaml"))) if len(p.arms) == 2)
    rng = np.random.default_rng(1)
    arms = [a["name"] for a in protocol.arms]
    strata = {k: [v[i % len(v)] for i in range(30)] for k, v in protocol.strata.items()}
    lines = [",".join(["pid", "arm", "time", "event", *strata])]
    for i in range(30):
        lines.append(
            ",".join(
                map(str, [f"P{i}", arms[i % 2], round(float(rng.uniform(1, 60)), 2), i % 2, *(s[i] for s in strata.values())])
            )
        )
    whole = ("\n".join(lines) + "\n").encode()

    def attempt(rng):
        path = tmp_path / "participants.csv"
        path.write_bytes(fuzz.mutate_table(rng, whole))
        rows = trial.read_participants(path, protocol)
        kept = rows[rows["arm"].notna()]
        return fuzz.complaint(kept[["time", "event"]].astype(float).dropna(), largest=1e6)

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(30))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    for day in range(2):
        make_ct(folder / f"ct{day}", day=day)
    return tuple(read_dicom(folder / f"ct{day}") for day in range(2))


@pytest.mark.parametrize("kind", ["matrix", "displacement"])
def test_damaged_registrations(tmp_path, pair, kind):
    fixed, moving = pair
    transform = matrix_transform(rotation()) if kind == "matrix" else bumps(3, ON, amplitude=2.0, n=3)
    path = write_registration(transform, tmp_path / "reg.dcm", fixed=fixed, moving=moving)
    original, data = path.read_bytes(), pydicom.dcmread(path)

    def attempt(rng):
        if rng.integers(3):
            mutant, what, _ = fuzz.mutate_dicom(rng, data)
            path.write_bytes(original)
            with contextlib.suppress(Exception):
                mutant.save_as(path)
        else:
            mutant, what, _ = fuzz.mutate_bytes(rng, original)
            path.write_bytes(mutant)
        wrong = fuzz.complaint(read_registration(path, fixed=fixed, moving=moving), largest=1e6, nan=("displacement",))
        return wrong and f"{what}: {wrong}"

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(15))


@pytest.mark.parametrize("name", ["x.mha", "x.nrrd", "x.mhd", "x.nhdr"])
def test_damaged_volumes(tmp_path, name):
    values = np.random.default_rng(1).uniform(0, 2, (3, 4, 5)).astype("f4")
    grid = {"z": [0.0, 3.0, 6.0], "y": np.arange(4) * 2.0, "x": np.arange(5) * 2.0}
    in_one = {"x.mhd": "x.mha", "x.nhdr": "x.nrrd"}.get(name, name)
    whole = write_image(xr.DataArray(values, dims=("z", "y", "x"), coords=grid), tmp_path / in_one).read_bytes()
    head, path = whole[: -values.nbytes], tmp_path / name
    if in_one != name:  # the numbers lie beside their header
        (tmp_path / "x.raw").write_bytes(whole[-values.nbytes :])
        head = head.replace(b"LOCAL", b"x.raw").replace(b"\n\n", b"\ndata file: x.raw\n")
        whole = head
    path.write_bytes(whole)
    assert read_image(path).shape == values.shape

    def attempt(rng):
        if rng.integers(2):
            path.write_bytes(fuzz.mutate_text(rng, head.decode())[0].encode() + whole[len(head) :])
        else:
            path.write_bytes(fuzz.mutate_bytes(rng, whole)[0])
        return fuzz.complaint(read_image(path).to_dataset(name="dose"))

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(40))


class Odd:
    """Something that cannot be shown, compared or turned into a number."""

    def __repr__(self):
        raise RuntimeError("no")

    __str__ = __float__ = __len__ = __repr__


def test_answers_of_learners():
    """Whatever is answered gets one of four verdicts and a sentence."""
    known = list(exercises().values())
    odd = [
        Odd(),
        Odd,
        object(),
        10**400,
        -0.0,
        float("nan"),
        np.float64("inf"),
        np.zeros((0, 3)),
        np.array(3.5),
        xr.DataArray(2.0),
        1j,
    ]
    odd += [
        lambda: 1 / 0,
        lambda x: x,
        "3,5 mm",
        "A" * 10**5,
        "\u202e",
        "{x}",
        "%s%n",
        b"7",
        [],
        [1.0],
        {"a": 1},
        ...,
        True,
        np.True_,
    ]

    def attempt(rng):
        one = known[rng.integers(len(known))]
        pick = (*odd, *fuzz.BAD_VALUES, *fuzz.BAD_NUMBERS, float(rng.normal()), one.expected)
        given = pick[rng.integers(len(pick))]
        state, sentence = training.verdict(one, given)
        right = state in ("open", "right", "wrong", "unclear") and isinstance(sentence, str) and sentence
        return "" if right else f"{one.name}: {state}"

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(80))


def test_logs_of_learners(tmp_path):
    whole = "".join(
        json.dumps({"exercise": n, "state": "right", "at": "2026-01-01T10:00"}) + "\n" for n in list(exercises())[:20]
    ).encode()

    def attempt(rng):
        path = tmp_path / "log.jsonl"
        path.write_bytes(fuzz.mutate_json(rng, whole))
        training.summary([path] * 6)
        return ""

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(30))


def test_facts_of_indications(tmp_path):
    facts = Path(shutil.copytree(shipped("datasets") / "indications", tmp_path / "facts"))
    files = {p: p.read_bytes() for p in sorted(facts.iterdir()) if p.suffix in (".csv", ".yaml")}

    def attempt(rng):
        path = list(files)[rng.integers(len(files))]
        path.write_bytes(fuzz.mutate_table(rng, files[path]) if rng.integers(2) else fuzz.mutate_bytes(rng, files[path])[0])
        try:
            loaded = indications.load(facts)
        finally:
            path.write_bytes(files[path])
        tables = {n: getattr(loaded, n) for n in ("schedules", "constraints", "toxicity", "outcomes")}
        for name, table in tables.items():
            for column in table.select_dtypes("number"):
                if np.isinf(table[column]).any() or (table[column].abs() > 1e15).any():
                    return f"{name}.{column} is absurd"
        return ""

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(15))


def test_received_plans_and_doses(tmp_path):
    """A folder of another centre: the checklist, or one error; never a library's."""
    import ionrt
    from ionrt.plan import Beam, Plan

    folder = ionrt.patient.write_phantom(tmp_path / "dicom", anatomy="head", pixel=10.0, slice_distance=10.0)
    patient = read_dicom(folder)
    plan = Plan((Beam("C", 90.0, room=POINT_ROOM),), "CTV", 3.0, fractions=16, spacing=12.0, spot_spacing=12.0)
    base = {"C": synthetic_base("C", energies=np.linspace(80.0, 330.0, 26))}
    dij = influence(patient, plan, base=base)
    weights = np.full(dij.n_spots, 1e6)
    ionrt.write_ion_plan(plan, dij, weights, patient, folder / "RN.dcm")
    ionrt.patient.write_rtdose(ionrt.field(dij, weights, models=())["dose"], patient, folder / "physical.dcm")
    files = {name: ((folder / name).read_bytes(), pydicom.dcmread(folder / name)) for name in ("RN.dcm", "physical.dcm")}
    stated = {"calibration": "generic_ion", "machine": "SYNTHETIC", "dose_scope": "fraction"}

    def attempt(rng):
        name = list(files)[rng.integers(2)]
        original, data = files[name]
        path = folder / name
        mutant, what, _ = fuzz.mutate_dicom(rng, data)
        try:
            with contextlib.suppress(Exception):
                mutant.save_as(path)
            if not rng.integers(3):
                path.write_bytes(fuzz.mutate_bytes(rng, original)[0])
            received = receive(folder, **stated)
            wrong = fuzz.complaint(received.beams_table(), nan=("MU", "snout_position"))
            for kind in ("dose", "rbe_dose"):
                for one in received.theirs(kind).values():
                    wrong = wrong or fuzz.complaint(one.to_dataset(name=kind))
            return wrong and f"{name} {what}: {wrong}"
        finally:
            path.write_bytes(original)

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(8))


def test_damaged_calibrations(tmp_path):
    whole = b"hu,spr,note\n-1000,0.001,air\n0,1.0,water\n60,1.05,soft\n1500,1.8,bone\n"
    path = tmp_path / "ct.csv"

    def attempt(rng):
        path.write_bytes(fuzz.mutate_table(rng, whole))
        rows = calibration_table(path)
        if not rows["hu"].between(-5000, 1e5).all() or not rows["spr"].between(0, 25).all():
            return f"{rows[['hu', 'spr']].values.tolist()} was taken"
        return ""

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(20))


def test_damaged_machine_files_of_ours(tmp_path):
    """netCDF that was exported: as it was written, or refused."""
    path = beam.export(synthetic_base("C", energies=[100.0, 200.0], depth_end=20.0), tmp_path / "C.nc")
    whole, expected = path.read_bytes(), open_machine({"C": str(path)}, ["C"])["C"]

    def attempt(rng):
        path.write_bytes(fuzz.mutate_bytes(rng, whole)[0])
        return fuzz.difference(expected, open_machine({"C": str(path)}, ["C"])["C"], rtol=0.0)

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(20))


def test_damaged_notebooks(tmp_path, monkeypatch):
    """A notebook of somebody else's: everything of `report` but the kernel, which does what the notebook says."""
    cells = [
        ("code", ["parameters"], "n = 3  # voxels\nname = 'CTV'"),
        ("markdown", [], "# A page\n$x^2$"),
        ("code", [], "n + 1"),
    ]
    book = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "x"}},
        "cells": [],
    }
    for i, (kind, tags, text) in enumerate(cells):
        cell = {"cell_type": kind, "id": f"c{i}", "metadata": {"tags": tags}, "source": text}
        book["cells"].append(cell | ({"outputs": [], "execution_count": None} if kind == "code" else {}))
    monkeypatch.setattr(report.papermill, "execute_notebook", lambda *a, **k: None)
    path = tmp_path / "page.ipynb"

    def attempt(rng):
        mutant = json.dumps(fuzz.mutate_tree(rng, book)[0]).encode()
        path.write_bytes(mutant if rng.integers(3) else fuzz.mutate_json(rng, json.dumps(book).encode()))
        made = report.report(path, tmp_path / "out" / "page.html", {"n": 4} if rng.integers(2) else None)
        return "" if "<html" in made.html.read_text(encoding="utf-8") else "no page"

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(8))


def test_mutated_command_lines(tmp_path, monkeypatch, capsys):
    """Whatever is typed: 0, or 2 with one line; the work itself is left out."""

    def stop(*_, **__):
        raise IonrtError("would compute now")

    for place, name in ((report, "report"), (beam, "base_data"), (training, "verdicts"), (trial, "load")):
        monkeypatch.setattr(place, name, stop)
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    monkeypatch.setenv("IONRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IONRT_TRAINING_RECORD", raising=False)
    (inside / "log.jsonl").write_text("{}\n")
    (inside / "환자 山田").mkdir()
    whole = [
        ["report", "compare_ions", "--patient", ".", "--days", ".", "--target", "CTV", "-p", "n=3", "--out", "out"],
        ["report", "03_dose", "--cohort", "환자 山田", "-p", "ions=[p, C]"],
        ["basedata", "info", "p", "C"], ["basedata", "export", "He", "--out", "x.nc"], ["basedata", "clear", "--all"],
        ["training", "summary", "log.jsonl", "log.jsonl"], ["training", "--forget"], ["init", "new"], ["--version"],
        ["training", "record", ".", "--track", "physicist", "--out", "r.html"],
    ]  # fmt: skip
    odd = [str(v) for v in (*fuzz.BAD_VALUES, *fuzz.BAD_NUMBERS)]

    def attempt(rng):
        words = list(whole[rng.integers(len(whole))])
        at = int(rng.integers(1, len(words) + 1))
        other = whole[rng.integers(len(whole))]
        more = (
            odd[rng.integers(len(odd))] if rng.integers(2) else other[rng.integers(1, len(other))] if len(other) > 1 else "-p"
        )
        kind = ("word", "more", "lost", "double", "turned")[rng.integers(5)]
        if kind == "more":
            words.insert(at, more)
        elif kind == "turned":
            words[1:] = [words[1 + i] for i in rng.permutation(len(words) - 1)]
        elif at < len(words):
            words[at : at + 1] = {"word": [more], "lost": [], "double": [words[at]] * 2}[kind]
        shutil.rmtree(inside / "new", ignore_errors=True)
        try:
            code = main(words)
        except SystemExit as end:  # of argparse
            code = end.code
        said = capsys.readouterr().err
        if code not in (0, 2) or (code and not said.strip()) or "Traceback" in said:
            return f"{words}: {code} {said[-200:]}"
        return ""

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(25))


def test_damaged_registers_of_exports(tmp_path):
    """The same answer as before, or none."""
    tables, folder = cohort.synthetic(60, 3, indication="lung"), tmp_path / "register"
    first = cohort.summary(tables, site="s", register=folder)
    files = {p: p.read_bytes() for p in folder.iterdir()}
    assert len(files) > 1

    def attempt(rng):
        path = list(files)[rng.integers(len(files))]
        try:
            if path.name == "0001.export" or rng.integers(8):  # with the last export gone there is nothing to compare with
                path.write_bytes(fuzz.mutate_bytes(rng, files[path])[0])
            else:
                odd_place(path, rng)
            second = cohort.summary(tables, site="s", register=folder)
        finally:
            shutil.rmtree(folder)
            folder.mkdir()
            for place, content in files.items():
                place.write_bytes(content)
                place.chmod(0o600)
        return "" if second == first else "another answer"

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(6))


BOX = xr.DataArray(
    np.linspace(1.0, 4.0, 60).reshape(3, 4, 5),
    {"z": [0.0, 3.0, 6.0], "y": np.arange(4) * 3.0, "x": np.arange(5) * 3.0}, ("z", "y", "x"), "rbe_dose",
    {"units": "Gy (RBE)", "rbe_model": "smk"},
)  # fmt: skip
ORGAN = xr.ones_like(BOX).rename("structures").drop_attrs().expand_dims(structure=["CTV"])
GOALS = ["CTV D95% >= 95 %", "CTV D2% <= 107 %", "CTV Dmean <= 3 Gy (RBE)", "CTV V20 <= 30 %", "CTV D0.03cc <= 4 Gy"]
MEASURES = {
    "V95": 98.0,
    "D98_loss": 0.5,
    "L98_loss": 1.0,
    "D0.03cc rise Chiasm": 0.5,
    "D0.03cc Chiasm": 2.1,
    "range_change": 1.0,
}
ARMS = {"photon": 1, "carbon": 2}
PROOF = trial.permuted_blocks(ARMS, seed=2**127 + 12345, n_per_stratum=8, strata={"centre": ["A", "B"]})
PROTOCOL = trial.load(shipped("trials") / "pancreas_randomised.yaml")
SURVIVAL = survival_data(n=60)
PEOPLE = trial.synthetic_participants(PROTOCOL, seed=3).head(60)
TABLES = cohort.synthetic(20, 5, indication="lung")
MAPPINGS = {  # arguments as a person writes them; who takes them
    "goals": ({"goals": GOALS, "prescription": 3.0, "fractions": 16}, lambda a: evaluate.judge(BOX, ORGAN, **a)),
    "measures": ({"measures": [MEASURES] * 2, "limits": {"D0.03cc Chiasm": 2.5}}, lambda a: adapt.decide(**a)),
    "proof": (
        {"commitment": PROOF.commitment, "proof": PROOF.proof()}, lambda a: {"same": trial.verify_randomisation(**a)}
    ),
    "blocks": (
        {"arms": ARMS, "seed": 5, "n_per_stratum": 6, "strata": {"centre": ["A", "B"]}, "block_sizes": [3, 6]},
        lambda a: trial.permuted_blocks(**a).reveal(),
    ),
    "machine": ({"files": {"C": "no.nc"}, "ions": ["C"]}, lambda a: open_machine(**a)),
}  # fmt: skip
FRAMES = {
    "minimise": (PEOPLE[PEOPLE["arm"].notna()], lambda d: trial.minimise(d, arms=ARMS, factors=["centre"], seed=1)[["arm"]]),
    "consort": (PEOPLE, trial.consort_from),
    "analyse": (SURVIVAL, lambda d: trial.analyse(PROTOCOL, d)),
    "interim": (SURVIVAL, lambda d: dict(trial.interim(PROTOCOL, d)[["events", "z", "p"]])),
    "validate": (None, cohort.validate),
}


@pytest.mark.parametrize("name", MAPPINGS)
def test_mutated_arguments(name):
    whole, call = MAPPINGS[name]

    def attempt(rng):
        given, what, _ = fuzz.mutate_tree(rng, whole)
        if given.keys() != whole.keys():
            return ""  # another call, not another value
        result = call(given)
        if name == "proof":
            return f"{what}: believed" if result["same"] and given["proof"] != whole["proof"] else ""
        if name == "measures" and (result["value"].isna() & (result["result"] == "kept")).any():
            return f"{what}: what is not known was kept"
        return fuzz.complaint(result, nan=("reached", "value"))

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(20))


@pytest.mark.parametrize("name", FRAMES)
def test_mutated_frames(name):
    """A table from anywhere, in memory: an answer that is finite where it has to be, or one clear error."""
    whole, call = FRAMES[name]

    def attempt(rng):
        if whole is not None:
            return fuzz.complaint(call(fuzz.mutate_frame(rng, whole)), largest=1e6)
        which = [n for n in TABLES if len(TABLES[n])][rng.integers(sum(len(t) > 0 for t in TABLES.values()))]
        return fuzz.complaint(call(TABLES | {which: fuzz.mutate_frame(rng, TABLES[which])}), nan=None)

    fuzz.hold(attempt, seeds=SEEDS, n=fuzz.tries(5))
