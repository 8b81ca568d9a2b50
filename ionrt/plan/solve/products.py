"""Products of the influence with spot weights and with voxel gradients, on a few threads (the kernels release the lock)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from ionrt.parallel import each, thread_count
from ionrt.plan.engine.influence import BeamInfluence
from ionrt.plan.engine.store import Chunk, starts
from ionrt.plan.setup.moments import beam_table
from ionrt.plan.solve import kernels

MILLION = 1e6  # the dose of an entry is that of 1e6 particles
MOST_SUMS = 8  # side by side, each of the size of the result


@dataclass(frozen=True)
class Packed(Chunk):
    """A chunk made for the products: `runs` of rows whose entries are a matrix, and where those of each block begin
    (`kernels.runs_of`)."""

    runs: np.ndarray
    run_start: np.ndarray


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

    @property
    def entries(self) -> int:
        """Of all chunks."""
        return sum(c.dose.size for c in self.chunks)

    def forward(self, weights: np.ndarray) -> np.ndarray:
        """Dose and moments (rows, 1 + moments), float64, for weights in particles."""
        shape = (self.bins.size, 1 + self.table.shape[1])
        millions = np.asarray(weights, dtype=np.float64) / MILLION
        millions = (millions if self.share is None else self.share @ millions).astype(np.float32)

        def work(chunks: Sequence[Chunk]) -> np.ndarray:
            out = np.zeros(shape)
            for chunk in chunks:
                kernels.forward(*chunk.arrays(), *_runs(chunk), self.bins, self.lowest, self.table, millions, out)  # type: ignore[call-arg]
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
                kernels.backward(*chunk.arrays(), *_runs(chunk), self.bins, self.lowest, self.table, own, out)  # type: ignore[call-arg]
            return out

        slope = _sum(work, self.chunks) / MILLION
        return slope if self.share is None else self.share.T @ slope


def largest_first(work: Callable[..., np.ndarray], parts: Sequence[tuple]) -> list[Any]:
    """What `work` makes of every part (columns, ...), in order; the largest begins first: who is done helps with it."""
    order = sorted(range(len(parts)), key=lambda k: -parts[k][0].entries)
    made = dict(zip(order, each(lambda k: work(*parts[k]), order), strict=True))
    return [made[k] for k in range(len(parts))]


def _runs(chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
    """Those of a packed chunk; none where each row stands for itself, with the energies that follow from its depth bin."""
    return (chunk.runs, chunk.run_start) if isinstance(chunk, Packed) else (np.empty((0, 4), np.uint16), chunk.row_start)


def _sum(work: Callable[[Sequence[Chunk]], np.ndarray], chunks: Sequence[Chunk]) -> np.ndarray:
    """Sum of `work` over groups of chunks of similar size, one group per thread; the order is always the same."""
    groups: list[list[Chunk]] = [[] for _ in range(min(thread_count(), MOST_SUMS, len(chunks)))]
    load = [0] * len(groups)
    for chunk in sorted(chunks, key=lambda c: -c.dose.size):
        lightest = load.index(min(load))
        groups[lightest].append(chunk)
        load[lightest] += chunk.dose.size
    if len(groups) == 1:
        return work(groups[0])
    return np.sum(each(work, groups), axis=0)


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
        place = csr_array((np.ones(kept.size), (new_row[kept], kept)), shape=(n_rows, new_row.size))
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
    chunks = tuple(each(lambda c: _packed(c, columns, index, bins), columns.chunks))
    return Columns(chunks, bins, columns.lowest, columns.table, columns.n_spots, lift, columns.share)


def _packed(chunk: Chunk, columns: Columns, new_row: np.ndarray, new_bins: np.ndarray) -> Packed:
    """A chunk with the rows that stay, the spots of a ray in one block even where they were stored one by one."""
    begin = _groups(chunk)
    n_rows, n_entries = np.zeros(begin.size - 1, np.int64), np.zeros(begin.size - 1, np.int64)
    given = (begin, *(getattr(chunk, k) for k in ("first", "count", "row_start", "entry_start", "rows", "dose")))
    old = (columns.bins, columns.lowest, new_row, new_bins)
    kernels.extents(*given, *old, n_rows, n_entries)  # type: ignore[call-arg]
    row_start, entry_start = starts(n_rows), starts(n_entries)
    rows, spans = np.empty(row_start[-1], np.int32), np.empty((row_start[-1], 2), np.uint16)
    dose = np.zeros(entry_start[-1], np.float32)
    kernels.pack(*given, *old, row_start, entry_start, rows, spans, dose)  # type: ignore[call-arg]
    count = np.add.reduceat(chunk.count, begin[:-1])
    runs = kernels.runs_of(row_start, rows, new_bins, spans)
    return Packed(chunk.first[begin[:-1]], count, chunk.spot[begin[:-1]], row_start, entry_start, rows, dose, *runs)


def _groups(chunk: Chunk) -> np.ndarray:
    """Where blocks begin that are not simply the next energy of the one before, and the end; no group has too many energies."""
    first, count, spot = chunk.first, chunk.count, chunk.spot
    follows = (count[:-1] == 1) & (count[1:] == 1) & (np.diff(first) == 1) & (np.diff(spot) == 1)
    follows &= first[1:] % kernels.MOST_ENERGIES != 0
    return np.r_[0, 1 + np.flatnonzero(~follows), first.size]
