"""From fields to kernels and back: slabs on threads, blocks of a chunked field, bad voxels by name, one warning."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

from ionrt.quantities import IonrtError
from ionrt.rbe.kernels import BIG

if TYPE_CHECKING:
    from ionrt.rbe.model import Model

SLAB = 1 << 18  # voxels per piece of work: enough pieces to share, few enough to cost nothing


class Once:
    """Lets the first of many blocks speak; of several processes, the first block in each."""

    def __init__(self) -> None:
        self._said, self._lock = False, threading.Lock()

    def __call__(self) -> bool:
        with self._lock:
            first, self._said = not self._said, True
        return first

    def __reduce__(self) -> tuple[type, tuple]:
        return Once, ()

    def __dask_tokenize__(self) -> str:
        return "once"


def thread_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare(model: Model, arrays: tuple[Any, ...], constants: tuple[Any, ...]) -> tuple[list[np.ndarray], tuple[Any, ...]]:
    """Flat contiguous arrays of one float type, and constants of that type with maps flattened."""
    if len(arrays) != 1 + len(model.moments):
        raise IonrtError(
            f"{model.name}: expected dose and {len(model.moments)} moments {model.moments}, got {len(arrays)} arrays"
        )
    raw = [np.asarray(a) for a in arrays]
    dtype: Any = np.float32 if all(a.dtype == np.float32 for a in raw) else np.float64
    shape = raw[0].shape
    if any(a.shape != shape for a in raw):
        raise IonrtError(f"{model.name}: arrays of different shapes {[a.shape for a in raw]}")
    flat = [np.ascontiguousarray(a, dtype=dtype).reshape(-1) for a in raw]
    maps = tuple(
        np.ascontiguousarray(np.broadcast_to(c, shape), dtype=dtype).reshape(-1) if np.ndim(c) else dtype(c) for c in constants
    )
    return flat, maps


def cut(constants: tuple[Any, ...], piece: slice) -> tuple[Any, ...]:
    """Constants of a piece of the voxels."""
    return tuple(c[piece] if isinstance(c, np.ndarray) else c for c in constants)


def in_slabs(work: Callable[[slice], Any], size: int, threads: int = 1) -> list[Any]:
    """`work` on every piece of the flat arrays, on `threads` threads (the kernels release the interpreter lock)."""
    pieces = [slice(i, min(i + SLAB, size)) for i in range(0, size, SLAB)]
    if threads == 1 or len(pieces) < 2:
        return [work(p) for p in pieces]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, pieces))


def evaluate(
    model: Model, arrays: tuple[Any, ...], constants: tuple[Any, ...], *, threads: int = 1, where: Callable[[int], str] = str
) -> tuple[np.ndarray, int]:
    """The kernel on whole arrays; raises on an unusable voxel, counts those outside the declared range."""
    flat, maps = prepare(model, arrays, constants)
    out = np.empty_like(flat[0])
    limits = tuple(out.dtype.type(x) for x in model.validity.limits)
    counts = in_slabs(lambda p: model.value(out[p], *(a[p] for a in flat), *cut(maps, p), *limits), out.size, threads)
    if sum(c[0] for c in counts):
        _refuse(model, flat, where)
    return out.reshape(np.shape(arrays[0])), sum(c[1] for c in counts)


def _refuse(model: Model, flat: list[np.ndarray], where: Callable[[int], str]) -> None:
    """Name the first unusable voxel."""
    for name, a in zip(("dose", *model.moments), flat, strict=True):
        unusable = ~((a >= 0.0) & (a <= a.dtype.type(BIG)))
        if unusable.any():
            i = int(unusable.argmax())
            raise IonrtError(
                f"{model.name}: {name} is {a[i]:g} in voxel {where(i)} ({int(unusable.sum())} such voxels); "
                "NaN, infinite or negative values are not doses: mask or correct them first"
            )


def _voxel(index: int, shape: tuple[int, ...], start: tuple[int, ...], axes: tuple[tuple[str, np.ndarray | None], ...]) -> str:
    """Index and coordinate of a voxel, for messages."""
    at = [int(i) + s for i, s in zip(np.unravel_index(index, shape), start, strict=True)] if shape else []
    said = [f"{d}[{i}]" + ("" if c is None else f" = {c[i]}") for i, (d, c) in zip(at, axes, strict=True)]
    return ", ".join(said) or "0"


def _block(
    *blocks: np.ndarray,
    model: Model,
    params: dict,
    given: tuple[str, ...],
    axes: tuple,
    once: Once | None = None,
    block_info: Any = None,
) -> np.ndarray:
    """One block of a field: the kernel, with bad voxels named by their place in the whole grid; without `once`, the count of
    voxels outside the declared range instead of the values.
    """
    info = (block_info or {}).get(0)
    start = tuple(a[0] for a in info["array-location"]) if info else (0,) * blocks[0].ndim
    fields = blocks[: len(blocks) - len(given)]
    constants = model.resolve(**{**params, **dict(zip(given, blocks[len(fields) :], strict=True))})
    where = partial(_voxel, shape=blocks[0].shape, start=start, axes=axes)
    out, outside = evaluate(model, fields, constants, threads=1 if info else thread_count(), where=where)
    if once is None:
        return np.full((1,) * out.ndim, outside)
    if outside and once():
        of = f" of the block at {where(0)} (voxels_outside counts all blocks)" if info else ""
        warnings.warn(
            f"{model.name}: {outside} of {out.size} voxels{of} lie outside the range it was made for ({model.validity}); "
            "their values extrapolate",
            UserWarning,
            stacklevel=2,
        )
    return out


def _bound(model: Model, arrays: list[xr.DataArray], params: dict, given: tuple[str, ...], once: Once | None) -> Callable:
    """`_block` for these arrays."""
    first = arrays[0]
    axes = tuple((str(d), first[d].values if d in first.coords else None) for d in first.dims)
    own = {k: v for k, v in params.items() if k not in given}
    return partial(_block, model=model, params=own, given=given, axes=axes, once=once)


def labelled(model: Model, arrays: list[xr.DataArray], params: dict, given: tuple[str, ...]) -> xr.DataArray:
    """Apply the model to arrays on one grid: at once, or block by block when any of them is chunked."""
    first, call = arrays[0], _bound(model, arrays, params, given, Once())
    if not any(a.chunks for a in arrays):
        return first.copy(deep=False, data=call(*(np.asarray(a.values) for a in arrays)))
    chunked = xr.unify_chunks(*(a.chunk() for a in arrays))
    fields = chunked[: len(chunked) - len(given)]
    dtype = np.float32 if all(a.dtype == np.float32 for a in fields) else np.float64
    data = da.map_blocks(call, *(a.data for a in chunked), dtype=dtype, meta=np.empty((0,) * first.ndim, dtype))
    return first.copy(deep=False, data=data)


def outside(model: Model, arrays: list[xr.DataArray], params: dict, given: tuple[str, ...]) -> xr.DataArray:
    """How many voxels lie outside the declared range; lazy when any of the arrays is chunked."""
    first, call = arrays[0], _bound(model, arrays, params, given, None)
    if not any(a.chunks for a in arrays):
        return xr.DataArray(call(*(np.asarray(a.values) for a in arrays)).sum())
    chunked = xr.unify_chunks(*(a.chunk() for a in arrays))
    ones = tuple((1,) * len(c) for c in chunked[0].data.chunks)
    meta = np.empty((0,) * first.ndim, np.int64)
    return xr.DataArray(da.map_blocks(call, *(a.data for a in chunked), dtype=np.int64, chunks=ones, meta=meta).sum())
