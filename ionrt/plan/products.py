"""Products of the influence with spot weights and with voxel gradients, on a few threads (the kernels release the lock)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.sparse import csr_array

from ionrt.plan import kernels
from ionrt.plan.engine import BeamInfluence
from ionrt.plan.moments import beam_table
from ionrt.plan.store import Chunk, starts

MILLION = 1e6  # the dose of an entry is that of 1e6 particles


@dataclass(frozen=True)
class Columns:
    """One part of a beam against rows: chunks over the part's own rows with their depth bins, the table (bin, moment, energy)
    of the moments; `lift` from the part's own rows and `share` to its own spots (None: they are the same)."""

    chunks: tuple[Chunk, ...]
    bins: np.ndarray
    lowest: np.ndarray
    table: np.ndarray
    n_spots: int
    lift: csr_array | None = None
    share: csr_array | None = None

    def forward(self, weights: np.ndarray) -> np.ndarray:
        """Dose and moments (rows, 1 + moments), float64, for weights in particles."""
        shape = (self.bins.size, 1 + self.table.shape[1])
        millions = np.asarray(weights, dtype=np.float64) / MILLION
        millions = (millions if self.share is None else self.share @ millions).astype(np.float32)

        def work(chunks: Sequence[Chunk]) -> np.ndarray:
            out = np.zeros(shape)
            for chunk in chunks:
                kernels.forward(*chunk.arrays(), self.bins, self.lowest, self.table, millions, out)  # type: ignore[call-arg]
            return out

        own = _sum(work, self.chunks)
        return own if self.lift is None else self.lift @ own

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Slope by each weight (particles), from slopes (rows, 1 + moments)."""
        own = gradient if self.lift is None else self.lift.T @ gradient
        own = np.ascontiguousarray(own, dtype=np.float32)

        def work(chunks: Sequence[Chunk]) -> np.ndarray:
            out = np.zeros(self.n_spots if self.share is None else self.share.shape[0])
            for chunk in chunks:
                kernels.backward(*chunk.arrays(), self.bins, self.lowest, self.table, own, out)  # type: ignore[call-arg]
            return out

        slope = _sum(work, self.chunks) / MILLION
        return slope if self.share is None else self.share.T @ slope


def _threads() -> int:
    return max(1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8))


@cache
def _pool() -> ThreadPoolExecutor:
    """One pool for all products: starting threads for each of them would cost more than the product."""
    return ThreadPoolExecutor(_threads(), thread_name_prefix="ionrt-plan")


def _sum(work: Callable[[Sequence[Chunk]], np.ndarray], chunks: Sequence[Chunk]) -> np.ndarray:
    """Sum of `work` over groups of chunks of similar size, one group per thread; the order is always the same."""
    groups: list[list[Chunk]] = [[] for _ in range(min(_threads(), len(chunks)))]
    load = [0] * len(groups)
    for chunk in sorted(chunks, key=lambda c: -c.dose.size):
        lightest = load.index(min(load))
        groups[lightest].append(chunk)
        load[lightest] += chunk.dose.size
    if len(groups) == 1:
        return work(groups[0])
    return np.sum(list(_pool().map(work, groups)), axis=0)


def whole(beam: BeamInfluence, values: Sequence[np.ndarray]) -> list[Columns]:
    """All rows of the beam; `values` (depth, energy) of the moments over all energies of the base data."""
    n = beam.spots.size
    return [
        Columns(p.chunks, p.bins, p.lowest, beam_table(beam.machine, p.taps, values), n, p.lift, p.share) for p in beam.parts
    ]


def compact(beam: BeamInfluence, values: Sequence[np.ndarray], position: np.ndarray, n_rows: int) -> list[Columns]:
    """Only the voxels that matter: `position` (flat grid) gives the new row of each voxel or -1, of `n_rows` altogether."""
    new_row = position[beam.voxel]
    out = []
    for part, columns in zip(beam.parts, whole(beam, values), strict=True):
        if part.lift is None:
            out.append(_cut(columns, new_row, n_rows, None))
            continue
        kept = np.flatnonzero(new_row >= 0)
        place = csr_array((np.ones(kept.size, np.float32), (new_row[kept], kept)), shape=(n_rows, new_row.size))
        lift = csr_array(place @ part.lift)
        nodes = np.unique(lift.indices)
        new_node = np.full(part.bins.size, -1, dtype=np.int64)
        new_node[nodes] = np.arange(nodes.size)
        out.append(_cut(columns, new_node, nodes.size, csr_array(lift[:, nodes])))
    return out


def _cut(columns: Columns, new_row: np.ndarray, n_rows: int, lift: csr_array | None) -> Columns:
    """Columns with only the rows for which `new_row` is not negative."""
    kept = new_row >= 0
    bins = np.zeros(n_rows, dtype=np.uint16)
    bins[new_row[kept]] = columns.bins[kept]
    index = new_row.astype(np.int32)
    chunks = tuple(_pool().map(lambda c: _keep(c, columns, index), columns.chunks))
    return Columns(chunks, bins, columns.lowest, columns.table, columns.n_spots, lift, columns.share)


def _keep(chunk: Chunk, columns: Columns, new_row: np.ndarray) -> Chunk:
    first, count, old = chunk.first, chunk.count, (columns.bins, columns.lowest, new_row)
    n_rows, n_entries = np.zeros(count.size, np.int64), np.zeros(count.size, np.int64)
    kernels.count_kept(first, count, chunk.row_start, chunk.rows, *old, n_rows, n_entries)
    row_start, entry_start = starts(n_rows), starts(n_entries)
    rows, dose = np.empty(row_start[-1], np.int32), np.empty(entry_start[-1], np.float32)
    given = (first, count, chunk.row_start, chunk.entry_start, chunk.rows, chunk.dose)
    kernels.keep_rows(*given, *old, row_start, entry_start, rows, dose)
    return Chunk(first, count, chunk.spot, row_start, entry_start, rows, dose)
