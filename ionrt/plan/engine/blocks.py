"""From tables and rows to entries: blocks of rays are filled as tasks of whichever dask scheduler is active."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import dask
import numpy as np
from dask.system import CPU_COUNT
from tqdm.dask import TqdmCallback

from ionrt import __version__
from ionrt.files import content_hash
from ionrt.parallel import each, thread_count, whole_cluster
from ionrt.plan.engine import kernels
from ionrt.plan.engine.components import Component
from ionrt.plan.engine.points import Point, count_points, fill_points
from ionrt.plan.engine.rows import Rows
from ionrt.plan.engine.store import Chunk, Keeper, starts
from ionrt.plan.setup.machine import Machine
from ionrt.plan.setup.spots import Spots, View
from ionrt.quantities import IonrtError

ENTRIES_PER_CHUNK = 2_000_000
LEAST_CHUNKS = 8  # of a part: enough to share
FORMAT = 3  # of stored blocks: raise by hand when kernels or layout change what a block holds, else old folders give old doses


@dataclass(frozen=True)
class Work:
    """What a worker needs for the entries of one part of a beam, in slices of its blocks of spots; `counts` of rows and entries
    per block, by slice, where they are known."""

    tables: Component | Point
    air: np.ndarray
    rows: Rows
    source: np.ndarray
    spots: Spots
    slices: tuple[slice, ...] = ()
    counts: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    @property
    def nbytes(self) -> list[int]:
        """Bytes of entries and their rows, by slice."""
        return [4 * int(rows.sum() + entries.sum()) for rows, entries in self.counts]

    def key(self) -> str:
        """Hash of everything that the entries depend on."""
        parts = [v for o in (self.tables, self.rows, self.spots) for v in vars(o).values()]
        return content_hash(FORMAT, __version__, type(self.tables).__name__, self.air, self.source, *parts)


def divided(tables: Component | Point, machine: Machine, spots: Spots, rows: Rows, view: View) -> Work:
    """The work cut into slices of similar size."""
    slices = _slices(spots, rows, tables.cut2 if tables.cut2.ndim == 1 else tables.cut2.mean(axis=1))
    return Work(tables, kernels.single(machine.air.T), rows, view.source, spots, tuple(slices))


def counted(works: Sequence[Work]) -> list[Work]:
    """With the exact numbers of rows and entries, for a budget of memory."""
    places = [(work, part) for work in works for part in work.slices]
    counts = iter(each(lambda place: _count(*place), places))
    return [replace(work, counts=tuple(next(counts) for _ in work.slices)) for work in works]


def filled(works: Sequence[Work], keeper: Keeper) -> list[tuple[Chunk, ...]]:
    """The chunks of each work, all of them together as dask tasks; those that the keeper has are not computed again."""
    names = [work.key() if keeper.folder is not None else "" for work in works]
    keys = {(w, i): f"{names[w]}-{s.start}-{s.stop}" for w, work in enumerate(works) for i, s in enumerate(work.slices)}
    todo = [place for place, key in keys.items() if keeper.find(key) is None]
    if keeper.folder is not None:  # works that are alike are done once
        todo = list({keys[place]: place for place in todo}.values())
    # shared and sent once; of a work only what is still to be made
    held = {w: dask.delayed(replace(works[w], counts=()), pure=False, traverse=False) for w in {w for w, _ in todo}}
    tasks = []
    for w, i in todo:
        counts = works[w].counts[i] if works[w].counts else None
        block = partial(_fill, part=works[w].slices[i], counts=counts, keeper=keeper, key=keys[w, i])
        tasks.append(dask.delayed(block, pure=False, traverse=False)(held[w]))
    kept = "" if keeper.folder is None else "finished blocks are kept"
    with whole_cluster(kept), TqdmCallback(desc="entries", unit="block", disable=None, leave=False):  # of schedulers in here
        made = dict(zip(todo, dask.compute(*tasks), strict=True))
    found = {place: _present(made.get(place) or keeper.find(key), key) for place, key in keys.items()}
    return [tuple(found[w, i] for i in range(len(work.slices))) for w, work in enumerate(works)]


def at_once() -> int:
    """How many blocks dask makes at the same time, on the machine that makes most of them; of a pool of one's own it cannot
    be known: say its size by `num_workers` as well."""
    if dask.config.get("scheduler", None) in (None, "distributed", "dask.distributed") and "distributed" in sys.modules:
        from distributed import get_client
        from distributed.comm.addressing import get_address_host

        with suppress(ValueError):  # no client
            hosts: Counter[str] = Counter()
            for address, threads in get_client().nthreads().items():
                hosts[get_address_host(address)] += threads
            return max(hosts.values(), default=CPU_COUNT)
    return thread_count()


def _present(chunk: Chunk | None, key: str) -> Chunk:
    if chunk is None:
        raise IonrtError(
            f"store: block {key} was written and is gone; give a folder that all workers share, and do not clear it meanwhile"
        )
    return chunk


def _slices(spots: Spots, rows: Rows, cut2: np.ndarray) -> Sequence[slice]:
    """Cut the blocks into slices of similar work; several per worker, none too large for one message."""
    if rows.voxel.size == 0:
        return [slice(0, spots.u.size)]
    per_area = rows.voxel.size / max(float(np.ptp(rows.bev[:, 0]) * np.ptp(rows.bev[:, 1])), 1.0)
    entries = spots.count * max(per_area * np.pi * float(np.mean(cut2[rows.bins])), 1.0)
    parts = int(np.clip(np.ceil(entries.sum() / ENTRIES_PER_CHUNK), min(LEAST_CHUNKS, spots.u.size), spots.u.size))
    edges = np.searchsorted(np.cumsum(entries), np.linspace(0.0, entries.sum(), parts + 1)[1:-1])
    edges = np.unique(np.concatenate([[0], edges, [spots.u.size]]))
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def _where(work: Work, part: slice) -> tuple:
    """Blocks of the slice and rows in the order the kernels take them."""
    rows, spots = work.rows, work.spots
    blocks = (spots.u[part], spots.v[part], spots.first[part], spots.count[part])
    near = (rows.bucket, rows.n_bucket, rows.origin, rows.size, rows.reach, work.source)
    tables = work.tables
    widest = tables.widest if isinstance(tables, Point) else tables.cut2
    return *blocks, tables.lowest, rows.bev, rows.bins, widest, *near


def _count(work: Work, part: slice) -> tuple[np.ndarray, np.ndarray]:
    """Rows and entries per block; spot by spot where every spot has its own cut-off."""
    if isinstance(work.tables, Point):
        n = count_points(work.tables, _where(work, part), part)
        return n, n
    n_rows, n_entries = np.zeros((2, work.spots.u[part].size), np.int64)
    kernels.count_rows(*_where(work, part), n_rows, n_entries)  # type: ignore[call-arg]
    return n_rows, n_entries


def _fill(work: Work, part: slice, counts: tuple[np.ndarray, np.ndarray] | None, keeper: Keeper, key: str) -> Chunk | None:
    """Allocate exactly, fill, keep."""
    row_start, entry_start = (starts(n) for n in counts or _count(work, part))
    index, dose = np.empty(row_start[-1], np.int32), np.empty(entry_start[-1], np.float32)
    where, spots = _where(work, part), work.spots
    first, count, spot = spots.first[part], spots.count[part], spots.start()[:-1][part]
    if isinstance(work.tables, Point):
        fill_points(work.tables, work.air, where, part, row_start, index, dose)
        within = np.arange(count.sum()) - np.repeat(starts(count)[:-1], count)
        first, spot, count = np.repeat(first, count) + within, np.repeat(spot, count) + within, np.ones(within.size, np.int64)
    else:
        tables = (work.tables.amplitude, work.tables.variance, work.air)
        kernels.fill(*where, *tables, row_start, entry_start, index, dose)  # type: ignore[call-arg]
    return keeper.keep(key, Chunk(first, count, spot, row_start, entry_start, index, dose))
