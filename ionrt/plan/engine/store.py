"""Finished blocks of an influence: in memory, or in a folder from which an interrupted run goes on."""

from __future__ import annotations

import os
import re
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal
from uuid import uuid4

import numpy as np

from ionrt.files import DiskError, atomic
from ionrt.quantities import IonrtError

STALE = 3600.0  # s without a write, after which a half-written block is taken for one whose writer was killed
_SEAL = "seal"  # file of checksums beside a chunk's arrays
_HALF_WRITTEN = re.compile(r"\.[0-9a-f]{16}-\d+-\d+\.[0-9a-f]{32}")  # hidden names that `atomic` gives to keys, and no others


@dataclass(frozen=True)
class Chunk:
    """Some blocks of a beam. Per block `first`, `count` (energies), `spot` (index in the beam); entries in CSR fashion:
    `rows` (int32) are rows of the beam, `dose` (float32) is Gy per 1e6 particles, (row, energy) with energy fastest."""

    first: np.ndarray
    count: np.ndarray
    spot: np.ndarray
    row_start: np.ndarray
    entry_start: np.ndarray
    rows: np.ndarray
    dose: np.ndarray

    def arrays(self) -> tuple[np.ndarray, ...]:
        """In the order the kernels take them."""
        return self.first, self.count, self.spot, self.row_start, self.entry_start, self.rows, self.dose


def starts(counts: np.ndarray) -> np.ndarray:
    """Where each block begins, and the total at the end."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@dataclass(frozen=True)
class Keeper:
    """Where chunks go: `folder` (None: nowhere but memory), and the bytes that they may take in `memory` (None: no limit).

    Chunks that do not fit stay in the folder and are mapped into memory, which the system fills and empties as needed.
    """

    folder: Path | None = None
    memory: float | None = None
    mapped: bool = False

    def __post_init__(self) -> None:
        if self.memory is not None and not self.memory > 0.0:
            raise IonrtError(f"memory: expected a positive number of bytes, got {self.memory!r}")

    def for_sizes(self, sizes: Sequence[float], besides: float, at_once: int) -> Keeper:
        """The same for an influence in chunks of these bytes, of which `at_once` are made at a time, and `besides` bytes that
        always stay."""
        chunks = sum(sizes)
        if self.memory is None or chunks + besides <= self.memory:
            return self
        least, alone = (besides + sum(sorted(sizes)[-n:]) for n in (at_once, 1))
        if self.folder is None:
            raise IonrtError(
                f"memory: the influence takes {_size(chunks + besides)}, more than the {_size(self.memory)} given; a folder for"
                f" it (store=) makes do with {_size(least)}; or take a coarser grid, fewer beams, wider spot spacing"
            )
        if least > self.memory:
            fewer = f" fewer threads (one makes do with {_size(alone)})," if alone < least else ""
            raise IonrtError(
                f"memory: {_size(self.memory)} are not enough even with a folder: rows, interpolation and {at_once} blocks at a"
                f" time take {_size(least)}; give that much,{fewer} a coarser grid or fewer beams"
            )
        return Keeper(self.folder, self.memory, mapped=True)

    def find(self, key: str) -> Chunk | None:
        """A finished chunk; one that is not as it was written (power gone, a bit flipped) is thrown away and made again."""
        if self.folder is None or not (self.folder / key).is_dir():
            return None
        path = self.folder / key
        try:
            regular = all(p.is_file() for p in path.iterdir())  # a pipe would wait for its other end
            if not regular or (path / _SEAL).read_text(encoding="ascii") != _seal(path):
                raise OSError("not as it was written")
            return Chunk(*(np.asarray(np.load(path / f"{f.name}.npy", mmap_mode=self._mode)) for f in fields(Chunk)))
        except (OSError, ValueError, EOFError):
            _remove(path, self.folder / f".{key}.{uuid4().hex}")
            return None

    def keep(self, key: str, chunk: Chunk) -> Chunk | None:
        """The chunk itself; None once it is in the folder, complete or not at all."""
        if self.folder is None:
            return chunk
        try:
            with atomic(self.folder / key, folder=True) as place:
                for f in fields(Chunk):
                    np.save(place / f"{f.name}.npy", getattr(chunk, f.name))
                (place / _SEAL).write_text(_seal(place), encoding="ascii")
        except DiskError:
            if not (self.folder / key).is_dir():  # unless another worker was faster
                raise
        return None

    def clear_stale(self) -> None:
        """Remove what writers that were killed left half-written. Other processes may be writing: only what nobody has touched
        for `STALE` seconds by the file system's own clock goes."""
        if self.folder is None or not self.folder.is_dir():
            return
        left = [p for p in self.folder.iterdir() if _HALF_WRITTEN.fullmatch(p.name)]
        if not left or not os.access(self.folder, os.W_OK):
            return
        os.utime(self.folder)
        for path in left:
            if self.folder.stat().st_mtime - _last_write(path) > STALE:
                _remove(path, path.with_name(f"{path.name[:-32]}{uuid4().hex}"))

    @property
    def _mode(self) -> Literal["c"] | None:
        return "c" if self.mapped else None


def _seal(path: Path) -> str:
    """Checksums of a chunk's files, by name; read piece by piece, so that mapped chunks need no memory for it."""
    sums = []
    for f in fields(Chunk):
        total = 0
        with (path / f"{f.name}.npy").open("rb") as file:
            while piece := file.read(1 << 22):
                total = zlib.crc32(piece, total)
        sums.append(f"{f.name} {total:08x}")
    return "\n".join(sums)


def _remove(path: Path, taken: Path) -> None:
    """Under a name of ours first, so that no other process finishes or reads it meanwhile."""
    try:
        os.replace(path, taken)
    except OSError:  # finished or taken by another process
        return
    shutil.rmtree(taken, ignore_errors=True)


def _last_write(path: Path) -> float:
    """Latest change of a folder or a file in it, seconds; endlessly late where it is gone meanwhile."""
    try:
        return max(p.stat().st_mtime for p in (path, *path.iterdir()))
    except OSError:
        return float("inf")


def _size(n: float) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e8 else f"{n / 1e6:.2f} MB"
