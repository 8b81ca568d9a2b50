"""What a model's kernels are run with, and the way from fields to kernels and back: at once or block by block, bad voxels by
name, one warning."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from ionrt.parallel import each, slabs
from ionrt.quantities import IonrtError

Axes = tuple[tuple[str, np.ndarray | None], ...]
BIG = 1e12  # Gy, and every numerator: beyond it is no dose, and its square would leave single precision


@dataclass(frozen=True)
class Validity:
    """Where a model was fitted: ions it may be used for (None: every ion), LET [keV/um] and dose per fraction [Gy] up to which.

    `correction` is the largest size of the second-order term of the SMK that still counts as small: in the bracket against 1,
    in the slope at low dose against alpha.
    """

    ions: tuple[str, ...] | None = None
    let: float | None = None
    dose: float = 30.0
    correction: float | None = None

    @property
    def limits(self) -> tuple[float, ...]:
        """The numbers the kernels compare with, in their order."""
        return (*(x for x in (self.let, self.correction) if x is not None), self.dose)

    def __str__(self) -> str:
        parts = [] if self.let is None else [f"LETd <= {self.let:g} keV/um"]
        if self.correction is not None:
            parts.append(f"second-order correction <= {self.correction:g}")
        return ", ".join([*parts, f"dose per fraction <= {self.dose:g} Gy" if math.isfinite(self.dose) else "every dose"])


@dataclass(frozen=True)
class Definition:
    """What the kernels are run with; `ionrt.rbe.model.Model` adds how a user meets it."""

    name: str
    moments: tuple[str, ...]
    resolve: Callable[..., tuple[Any, ...]]
    """Turns the user's parameters into the kernel's constants, in order."""
    value: Callable[..., tuple[int, int]] = dataclass_field(repr=False)
    slopes: Callable[..., None] = dataclass_field(repr=False)
    validity: Validity


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


def prepare(model: Definition, arrays: tuple[Any, ...], constants: tuple[Any, ...]) -> tuple[list[np.ndarray], tuple[Any, ...]]:
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


def evaluate(
    model: Definition,
    arrays: tuple[Any, ...],
    constants: tuple[Any, ...],
    *,
    most: int | None = None,
    where: Callable[[int], str] = str,
) -> tuple[np.ndarray, int]:
    """The kernel on whole arrays; raises on an unusable voxel, counts those outside the declared range."""
    flat, maps = prepare(model, arrays, constants)
    out = np.empty_like(flat[0])
    limits = tuple(out.dtype.type(x) for x in model.validity.limits)
    counts = each(lambda p: model.value(out[p], *(a[p] for a in flat), *cut(maps, p), *limits), slabs(out.size), most)
    if sum(c[0] for c in counts):
        _refuse(model, flat, where)
    return out.reshape(np.shape(arrays[0])), sum(c[1] for c in counts)


def _refuse(model: Definition, flat: list[np.ndarray], where: Callable[[int], str]) -> None:
    """Name the first unusable voxel."""
    for name, a in zip(("dose", *model.moments), flat, strict=True):
        unusable = ~((a >= 0.0) & (a <= a.dtype.type(BIG)))
        if unusable.any():
            i = int(unusable.argmax())
            raise IonrtError(
                f"{model.name}: {name} is {a[i]:g} in voxel {where(i)} ({int(unusable.sum())} such voxels); "
                "NaN, infinite or negative values are not doses: mask or correct them first"
            )


def _voxel(index: int, shape: tuple[int, ...], start: tuple[int, ...], axes: Axes) -> str:
    """Index and coordinate of a voxel, for messages."""
    at = [int(i) + s for i, s in zip(np.unravel_index(index, shape), start, strict=True)] if shape else []
    said = [f"{d}[{i}]" + ("" if c is None else f" = {c[i]}") for i, (d, c) in zip(at, axes, strict=True)]
    return ", ".join(said) or "0"


def _axes(first: xr.DataArray) -> Axes:
    """Names and coordinates of a grid's dimensions, for messages."""
    return tuple((str(d), first[d].values if d in first.coords else None) for d in first.dims)


def _warn(model: Definition, outside: int, size: int, of: str = "") -> None:
    warnings.warn(
        f"{model.name}: {outside} of {size} voxels{of} lie outside the range it was made for ({model.validity}); "
        "their values extrapolate",
        UserWarning,
        stacklevel=2,
    )


def _split(
    model: Definition, values: tuple[np.ndarray, ...], params: dict, given: tuple[str, ...]
) -> tuple[tuple[np.ndarray, ...], tuple[Any, ...]]:
    """Dose and moments, and the kernel's constants with the maps, which come last, in their places."""
    n = len(values) - len(given)
    return values[:n], model.resolve(**{**params, **dict(zip(given, values[n:], strict=True))})


def _at_once(model: Definition, arrays: list[xr.DataArray], params: dict, given: tuple[str, ...]) -> tuple[np.ndarray, int]:
    """Values, and how many voxels lie outside the declared range."""
    first = arrays[0]

    def where(index: int) -> str:  # coordinates cost more than a small field: only when a message needs them
        return _voxel(index, first.shape, (0,) * first.ndim, _axes(first))

    fields, constants = _split(model, tuple(np.asarray(a.values) for a in arrays), params, given)
    return evaluate(model, fields, constants, where=where)


def _block(
    *blocks: np.ndarray,
    model: Definition,
    params: dict,
    given: tuple[str, ...],
    axes: Axes,
    once: Once | None,
    block_info: Any = None,
) -> np.ndarray:
    """One block of a field: the kernel, with bad voxels named by their place in the whole grid; without `once`, the count of
    voxels outside the declared range instead of the values.
    """
    start = tuple(a[0] for a in block_info[0]["array-location"])
    where = partial(_voxel, shape=blocks[0].shape, start=start, axes=axes)
    out, outside = evaluate(model, *_split(model, blocks, params, given), most=1, where=where)
    if once is None:
        return np.full((1,) * out.ndim, outside)
    if outside and once():
        _warn(model, outside, out.size, f" of the block at {where(0)} (voxels_outside counts all blocks)")
    return out


def _by_block(
    model: Definition, arrays: list[xr.DataArray], params: dict, given: tuple[str, ...], once: Once | None
) -> da.Array:
    """`_block` on every block of arrays of which any is chunked."""
    own = {k: v for k, v in params.items() if k not in given}
    call = partial(_block, model=model, params=own, given=given, axes=_axes(arrays[0]), once=once)
    chunked = [a.data for a in xr.unify_chunks(*(a.chunk() for a in arrays))]
    float32 = all(a.dtype == np.float32 for a in chunked[: len(chunked) - len(given)])
    dtype: Any = np.int64 if once is None else (np.float32 if float32 else np.float64)
    ones = tuple((1,) * len(c) for c in chunked[0].chunks) if once is None else None
    return da.map_blocks(call, *chunked, dtype=dtype, chunks=ones, meta=np.empty((0,) * chunked[0].ndim, dtype))


def labelled(model: Definition, arrays: list[xr.DataArray], params: dict, given: tuple[str, ...]) -> xr.DataArray:
    """Apply the model to arrays on one grid: at once, or block by block when any of them is chunked."""
    if any(a.chunks for a in arrays):
        return arrays[0].copy(deep=False, data=_by_block(model, arrays, params, given, Once()))
    out, outside = _at_once(model, arrays, params, given)
    if outside:
        _warn(model, outside, out.size)
    return arrays[0].__array_wrap__(out)  # as arithmetic does: `copy` would copy the coordinates, a tenth of a small model


def outside(model: Definition, arrays: list[xr.DataArray], params: dict, given: tuple[str, ...]) -> xr.DataArray:
    """How many voxels lie outside the declared range; lazy when any of the arrays is chunked."""
    if any(a.chunks for a in arrays):
        return xr.DataArray(_by_block(model, arrays, params, given, None).sum())
    return xr.DataArray(_at_once(model, arrays, params, given)[1])
