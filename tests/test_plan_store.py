"""An influence that goes on where it was killed, stays within its memory, and takes given spots."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from plan_fixtures import POINT_ROOM, simple_plan, synthetic_base, water_box

from ionrt.plan import Beam, field, influence
from ionrt.plan.engine import blocks, store
from ionrt.plan.solve.products import whole
from ionrt.quantities import IonrtError

BASE = {"C": synthetic_base("C")}
KILLED = """
import os, signal, sys
from plan_fixtures import simple_plan, synthetic_base, water_box
from ionrt.plan import influence
from ionrt.plan.engine import store
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


HALF = """
import os, signal, sys
import numpy as np
from ionrt.plan.engine import store
save, written = np.save, []
def dying(path, array):
    save(path, array)
    written.append(path)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
np.save = dying
store.Keeper(store.Path(sys.argv[1])).keep("0123456789abcdef-0-4", store.Chunk(*(np.ones(2) for _ in range(7))))
"""


def test_half_written_blocks_go_unless_somebody_writes(case, tmp_path):
    patient, plan, _ = case
    folder = tmp_path / "store"
    folder.mkdir()
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", HALF, str(folder)],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            check=False,
        )
        assert done.returncode == -signal.SIGKILL
    old, young = sorted(folder.iterdir())
    (folder / ".notes").write_text("the user's own")
    (folder / "0123456789abcdef-0-8").mkdir()
    long_ago = time.time() - 2.0 * store.STALE
    for path in (*old.iterdir(), old, *list(young.iterdir())[1:], young, folder / ".notes", folder / "0123456789abcdef-0-8"):
        os.utime(path, (long_ago, long_ago))  # one file of `young` has been written just now
    influence(patient, plan, base=BASE, store=folder)
    left = {p.name for p in folder.iterdir()}
    assert old.name not in left
    assert {young.name, ".notes", "0123456789abcdef-0-8"} <= left
    assert sum(name.startswith(".") for name in left) == 2


def seen_at_once(n: int = 8) -> int:
    """How many of some tasks the active scheduler really runs at a time."""
    lock, running, most = threading.Lock(), [0], [0]

    def task(_):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1

    dask.compute(*(dask.delayed(task, pure=False)(i) for i in range(n)))
    return most[0]


@pytest.mark.parametrize("how", ["sync", "workers", "pool", "executor", "client"])
def test_blocks_at_a_time_are_those_of_the_scheduler(how):
    from distributed import Client, LocalCluster

    expected = {"sync": 1, "workers": 3, "pool": 2, "executor": 5, "client": 4}[how]
    with ExitStack() as stack:
        if how == "client":
            options = {"processes": False, "dashboard_address": None, "host": "127.0.0.1", "protocol": "tcp"}
            cluster = stack.enter_context(LocalCluster(n_workers=2, threads_per_worker=2, **options))
            stack.enter_context(Client(cluster))
            assert blocks.at_once() == expected  # tasks are sent by pickle: what they count stays there
            return
        pool = stack.enter_context(ThreadPoolExecutor(expected))
        given = {
            "sync": {"scheduler": "sync"},
            "workers": {"num_workers": 3},
            "pool": {"pool": pool, "num_workers": 2},
            "executor": {"scheduler": pool, "num_workers": 5},
        }
        stack.enter_context(dask.config.set(given[how]))
        assert blocks.at_once() == seen_at_once() == expected


def needs(made) -> tuple[list[int], int]:
    """Bytes of the entries, block by block, and of what stays beside them."""
    chunks = [c for b in made.beams for p in b.parts for c in p.chunks]
    sizes = [4 * (c.rows.size + c.dose.size) for c in chunks]
    return sizes, made.nbytes - sum(a.nbytes for c in chunks for a in c.arrays())


def test_memory_counts_the_blocks_that_are_made_at_a_time(case, tmp_path):
    patient, plan, expected = case
    sizes, besides = needs(expected)
    two = besides + sum(sorted(sizes)[-2:])
    with dask.config.set(num_workers=2):
        same(influence(patient, plan, base=BASE, memory=two + 1.0, store=tmp_path), expected)
        with pytest.raises(IonrtError, match="2 blocks at a time"):
            influence(patient, plan, base=BASE, memory=two - 1.0, store=tmp_path)
    with dask.config.set(num_workers=4), pytest.raises(IonrtError, match=r"4 blocks at a time take .* fewer threads"):
        influence(patient, plan, base=BASE, memory=two + 1.0, store=tmp_path)
    with dask.config.set(scheduler="sync"):
        same(influence(patient, plan, base=BASE, memory=two - 1.0, store=tmp_path), expected)


def test_mapped_blocks_without_entries(case, tmp_path):
    """Rays that pass the patient, most of them in blocks of their own."""
    patient, plan, expected = case
    spots = expected.spots().isel(spot=[3] * 6).assign_coords(u=("spot", [0.0, *(400.0 + 60.0 * k for k in range(5))]))
    settings = {"base": BASE, "spots": spots}
    sizes, besides = needs(influence(patient, plan, **settings))
    with dask.config.set(scheduler="sync"):
        mapped = influence(patient, plan, store=tmp_path, memory=besides + sum(sizes) - 1.0, **settings)
    chunks = [c for p in mapped.beams[0].parts for c in p.chunks]
    assert [c for c in chunks if c.dose.size == 0] and [c for c in chunks if c.dose.size]
    assert all(isinstance(a.base, np.memmap) for c in chunks for a in c.arrays())
    weights = np.full(6, 1e6)
    alone = influence(patient, plan, base=BASE, spots=spots.isel(spot=[0]))
    got = field(mapped, weights, models=("constant",))["dose"]
    np.testing.assert_allclose(got, field(alone, weights[:1], models=("constant",))["dose"], rtol=1e-5, atol=1e-9)
    (core, *_) = whole(mapped.beams[0], [])
    slope = core.backward(np.ones((core.bins.size, 1)))
    assert slope[0] > 0.0 and not slope[1:].any()


@pytest.mark.parametrize("mapped", [False, True])
def test_blocks_that_cannot_be_read_are_computed_again(case, tmp_path, monkeypatch, mapped):
    patient, plan, expected = case
    memory = sum(needs(expected)[0]) + needs(expected)[1] - 1.0 if mapped else None
    influence(patient, plan, base=BASE, store=tmp_path)
    empty, short, *_ = sorted(p.name for p in tmp_path.iterdir())
    (tmp_path / empty / "dose.npy").write_bytes(b"")
    (tmp_path / short / "rows.npy").write_bytes((tmp_path / short / "rows.npy").read_bytes()[:200])
    computed = fills(monkeypatch)
    same(influence(patient, plan, base=BASE, store=tmp_path, memory=memory), expected)
    assert sorted(computed) == [empty, short]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("mapped", [False, True])
def test_no_flipped_bit_of_a_block_is_used(case, tmp_path, monkeypatch, mapped):
    patient, plan, expected = case
    memory = sum(needs(expected)[0]) + needs(expected)[1] - 1.0 if mapped else None
    influence(patient, plan, base=BASE, store=tmp_path)
    names, rng, spoilt = sorted(p.name for p in tmp_path.iterdir()), np.random.default_rng(3), []
    for name, file in zip(names, ("dose", "rows", "entry_start", "spot"), strict=False):
        path = tmp_path / name / f"{file}.npy"
        whole = bytearray(path.read_bytes())
        whole[rng.integers(128, len(whole))] ^= 1 << int(rng.integers(8))
        path.write_bytes(whole)
        spoilt.append(name)
    computed = fills(monkeypatch)
    same(influence(patient, plan, base=BASE, store=tmp_path, memory=memory), expected)
    assert sorted(computed) == sorted(spoilt)


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


def test_a_machine_without_halo_has_one_part_and_the_same_dose(case):
    patient, plan, _ = case
    bare = BASE["C"].assign(halo_weight=0.0 * BASE["C"]["halo_weight"])
    plan = replace(plan, lateral_loss=1e-4)
    whole, points = (influence(patient, plan, base={"C": bare}, kernel=k) for k in ("split", "point"))
    assert [len(b.parts) for b in whole.beams] == [1] * len(whole.beams)
    assert whole.nbytes < points.nbytes
    w = np.full(whole.n_spots, 1e6)
    split, point = (field(i, w, models=("constant",))["dose"] for i in (whole, points))
    inner = (slice(3, -3), slice(1, -1), slice(3, -3))  # 2 mm voxels: the mean over two slabs against the middle
    assert np.abs(split - point).values[inner].max() < 0.03 * float(point.max())
    assert float(split.sum()) == pytest.approx(float(point.sum()), rel=0.004)


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
