"""Finished blocks of an influence: in memory, or in a folder from which an interrupted run goes on."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal
from uuid import uuid4

import numpy as np

from ionrt.quantities import IonrtError


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

    def for_size(self, chunks: float, besides: float, largest: float) -> Keeper:
        """The same for an influence of `chunks` bytes in chunks of at most `largest`, and `besides` bytes that always stay."""
        if self.memory is None or chunks + besides <= self.memory:
            return self
        least = besides + 2.0 * largest
        if self.folder is None:
            raise IonrtError(
                f"memory: the influence takes {_size(chunks + besides)}, more than the {_size(self.memory)} given; a folder for"
                f" it (store=) makes do with {_size(least)}; or take a coarser grid, fewer beams, wider spot spacing"
            )
        if least > self.memory:
            raise IonrtError(
                f"memory: {_size(self.memory)} are not enough even with a folder: rows, interpolation and two blocks at a time"
                f" take {_size(least)}; give that much, a coarser grid or fewer beams"
            )
        return Keeper(self.folder, self.memory, mapped=True)

    def find(self, key: str) -> Chunk | None:
        """A finished chunk."""
        if self.folder is None or not (self.folder / key).is_dir():
            return None
        return Chunk(*(np.asarray(np.load(self.folder / key / f"{f.name}.npy", mmap_mode=self._mode)) for f in fields(Chunk)))

    def keep(self, key: str, chunk: Chunk) -> Chunk | None:
        """The chunk itself; None once it is in the folder, complete or not at all."""
        if self.folder is None:
            return chunk
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{key}.{uuid4().hex}"
        temporary.mkdir()
        try:
            for f in fields(Chunk):
                np.save(temporary / f"{f.name}.npy", getattr(chunk, f.name))
            os.replace(temporary, self.folder / key)
        except OSError:
            if not (self.folder / key).is_dir():  # unless another worker was faster
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return None

    @property
    def _mode(self) -> Literal["c"] | None:
        return "c" if self.mapped else None


def _size(n: float) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e8 else f"{n / 1e6:.2f} MB"
