"""An influence that goes on where it was killed, stays within its memory, and takes given spots."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from plan_fixtures import POINT_ROOM, simple_plan, synthetic_base, water_box

from ionrt.plan import Beam, blocks, field, influence
from ionrt.quantities import IonrtError

BASE = {"C": synthetic_base("C")}
KILLED = """
import os, signal, sys
from plan_fixtures import simple_plan, synthetic_base, water_box
from ionrt.plan import influence, store
keep, kept = store.Keeper.keep, []
def counting(self, key, chunk):
    out = keep(self, key, chunk)
    kept.append(key)
    if len(kept) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return out
store.Keeper.keep = counting
influence(water_box((15, 41, 15), target_radius=8.0), simple_plan(), base={"C": synthetic_base("C")}, store=sys.argv[1])
"""


@pytest.fixture(scope="module")
def case():
    patient, plan = water_box((15, 41, 15), target_radius=8.0), simple_plan()
    return patient, plan, influence(patient, plan, base=BASE)


def same(one, other) -> None:
    for a, b in zip(one.beams, other.beams, strict=True):
        for p, q in zip(a.parts, b.parts, strict=True):
            for c, d in zip(p.chunks, q.chunks, strict=True):
                for x, y in zip(c.arrays(), d.arrays(), strict=True):
                    np.testing.assert_array_equal(x, y)


def fills(monkeypatch) -> list[str]:
    """Keys of the blocks that are computed from now on."""
    computed, fill = [], blocks._fill

    def counting(work, part, counts, keeper, key):
        computed.append(key)
        return fill(work, part, counts, keeper, key)

    monkeypatch.setattr(blocks, "_fill", counting)
    return computed


def test_killed_process_goes_on_from_finished_blocks(case, tmp_path, monkeypatch):
    patient, plan, expected = case
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "store")], env=os.environ | {"PYTHONPATH": paths}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    finished = {p.name for p in (tmp_path / "store").iterdir() if not p.name.startswith(".")}
    assert len(finished) >= 3
    computed = fills(monkeypatch)
    again = influence(patient, plan, base=BASE, store=tmp_path / "store")
    same(again, expected)
    n_blocks = sum(len(p.chunks) for b in expected.beams for p in b.parts)
    assert len(computed) == n_blocks - len(finished) and not finished & set(computed)
    computed.clear()
    same(influence(patient, plan, base=BASE, store=tmp_path / "store"), expected)
    assert computed == []
    influence(patient, replace(plan, lateral_loss=0.004), base=BASE, store=tmp_path / "store")
    assert len(computed) == n_blocks  # other settings are other blocks


def test_killed_worker_leaves_the_result_the_same(case, tmp_path):
    from distributed import Client, LocalCluster

    patient, plan, expected = case
    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": None, "host": "127.0.0.1", "protocol": "tcp"}
    here, marker = os.getpid(), tmp_path / "killed"
    with LocalCluster(n_workers=2, **options) as cluster, Client(cluster):

        def kill_once(work, part, counts, keeper, key, fill=blocks._fill):
            """Whichever worker comes first dies, and no other: only one process can create the file."""
            try:
                marker.touch(exist_ok=False)
            except FileExistsError:
                return fill(work, part, counts, keeper, key)
            assert os.getpid() != here
            os.kill(os.getpid(), signal.SIGKILL)

        original, blocks._fill = blocks._fill, kill_once
        try:
            got = influence(patient, plan, base=BASE, store=tmp_path / "store")
        finally:
            blocks._fill = original
    assert marker.exists()
    same(got, expected)


def test_memory_budget_maps_blocks_or_says_what_is_needed(case, tmp_path):
    patient, plan, expected = case
    with pytest.raises(IonrtError, match=r"takes [\d.]+ MB, more than the 0.10 MB given.*store="):
        influence(patient, plan, base=BASE, memory=1e5)
    with pytest.raises(IonrtError, match="not enough even with a folder"):
        influence(patient, plan, base=BASE, memory=1e5, store=tmp_path)
    with pytest.raises(IonrtError, match="positive number of bytes"):
        influence(patient, plan, base=BASE, memory=0.0)
    assert not list(tmp_path.iterdir())
    needed = expected.nbytes
    mapped = influence(patient, plan, base=BASE, memory=0.97 * needed, store=tmp_path)
    assert isinstance(mapped.beams[0].parts[0].chunks[0].dose.base, np.memmap)
    same(mapped, expected)
    weights = np.random.default_rng(2).uniform(0.0, 1e6, expected.n_spots)
    xr.testing.assert_identical(field(mapped, weights, models=("constant",)), field(expected, weights, models=("constant",)))


def test_blocks_of_another_format_are_computed_again(case, tmp_path, monkeypatch):
    patient, plan, expected = case
    influence(patient, plan, base=BASE, store=tmp_path)
    computed = fills(monkeypatch)
    influence(patient, plan, base=BASE, store=tmp_path)
    assert not computed
    monkeypatch.setattr(blocks, "FORMAT", blocks.FORMAT + 1)
    same(influence(patient, plan, base=BASE, store=tmp_path), expected)
    assert computed


def test_given_spots_are_those_of_the_plan(case):
    patient, plan, expected = case
    table = expected.spots()
    shuffled = table.isel(spot=np.random.default_rng(4).permutation(table.sizes["spot"]))
    again = influence(patient, plan, base=BASE, spots=shuffled)
    for name in ("beam_index", "energy", "u", "v"):
        np.testing.assert_allclose(again.spots()[name], table[name], atol=1e-9)
    w = np.full(expected.n_spots, 1e6)
    one, two = (field(i, w, models=("constant",))["dose"] for i in (expected, again))
    np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-9)
    few = influence(patient, plan, base=BASE, spots=table.isel(spot=[0, 5, 7]))
    assert few.n_spots == 3


def test_points_and_split_give_the_same_dose(case):
    patient, plan, expected = case
    points = influence(patient, replace(plan, lateral_loss=1e-4), base=BASE, kernel="point")
    w = np.full(expected.n_spots, 1e6)
    split, point = (field(i, w, models=("constant",)) for i in (expected, points))
    assert points.entries > 2 * expected.entries
    # 2 mm voxels: the split takes the mean over two slabs, the points the middle
    difference = np.abs(split["dose"] - point["dose"]).values
    inner = (slice(3, -3), slice(1, -1), slice(3, -3))
    assert difference[inner].max() < 0.03 * float(point["dose"].max())
    assert float(split["dose"].sum()) == pytest.approx(float(point["dose"].sum()), rel=0.004)
    assert points.nbytes / points.entries < 12.0


def test_spots_that_cannot_be_delivered(case):
    patient, plan, expected = case
    table = expected.spots()
    other = table.assign_coords(energy=table["energy"] + 0.7)
    for spots, message in (
        (table.isel(spot=slice(0, 0)), "at least one spot along `spot`; there is none"),
        (table.drop_vars("u"), "'u' is missing"),
        (table.assign_coords(beam_index=table["beam_index"] + 1), "none for beam C gantry 0"),
        (other, "no base data of C at .* MeV/u; the nearest"),
        (table.assign_coords(v=table["v"] * np.nan), "must be finite"),
        (xr.concat([table, table], "spot"), "add their weights"),
    ):
        with pytest.raises(IonrtError, match=message):
            influence(patient, plan, base=BASE, spots=spots)
    with pytest.raises(IonrtError, match="'full' does not exist"):
        influence(patient, plan, base=BASE, kernel="full")
    aside = replace(plan, beams=(Beam("C", 0.0, isocentre=(500.0, 0.0, 0.0), room=POINT_ROOM),))
    with pytest.raises(IonrtError, match="misses the patient"):
        influence(patient, aside, base=BASE, spots=table)
