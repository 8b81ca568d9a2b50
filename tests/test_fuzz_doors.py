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

from ionrt import indications, training, trial
from ionrt.__main__ import _parameters
from ionrt.compare import receive
from ionrt.made import like, plain_value
from ionrt.patient import read_dicom, read_registration, write_registration
from ionrt.patient.images import read_image, write_image
from ionrt.patient.registration import matrix_transform
from ionrt.plan import influence
from ionrt.resources import shipped
from ionrt.training.exercise import exercises

SEEDS = (31, 32)


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


@pytest.mark.parametrize("name", ["x.mha", "x.nrrd"])
def test_damaged_volumes(tmp_path, name):
    values = np.random.default_rng(1).uniform(0, 2, (3, 4, 5)).astype("f4")
    grid = {"z": [0.0, 3.0, 6.0], "y": np.arange(4) * 2.0, "x": np.arange(5) * 2.0}
    path = write_image(xr.DataArray(values, dims=("z", "y", "x"), coords=grid), tmp_path / name)
    whole = path.read_bytes()
    head = whole[: -values.nbytes]

    def attempt(rng):
        if rng.integers(2):
            path.write_bytes(fuzz.mutate_text(rng, head.decode())[0].encode() + whole[-values.nbytes :])
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
