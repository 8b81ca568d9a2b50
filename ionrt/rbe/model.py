"""What an RBE model is: names of moments, one kernel, its slopes, its declared validity; called on a field."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from ionrt.let import ions_of
from ionrt.quantities import IonrtError, check, check_same_grid, content_hash, stamp

Arrays = tuple[np.ndarray, ...]
GRID = ("z", "y", "x")
SLAB = 1 << 18  # voxels per piece of work: inputs and output of a piece stay in the cache


@dataclass(frozen=True)
class Validity:
    """Where a model was fitted: ions it may be used for (None: every ion), LET [keV/um] and dose per fraction [Gy] up to which.

    `correction` is the largest size of the second-order term of the SMK that still counts as small.
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
        return ", ".join([*parts, f"dose per fraction <= {self.dose:g} Gy"])


@dataclass(frozen=True)
class Model:
    """An RBE model: a pure function of dose and additive moments, voxel by voxel. Doses are per fraction.

    ``model(field, **params)`` returns the labelled RBE-weighted dose; ``model.kernel(dose, *moments, **params)`` and
    ``model.partials(dose, *moments, **params)`` work on plain arrays and serve the optimiser.
    """

    name: str
    moments: tuple[str, ...]
    resolve: Callable[..., tuple[Any, ...]]
    """Turns the user's parameters into the kernel's constants, in order."""
    value: Callable[..., tuple[int, int]] = dataclass_field(repr=False)
    slopes: Callable[..., None] = dataclass_field(repr=False)
    validity: Validity
    citation: str
    confidence: str = "2+"
    defaults: Mapping[str, Any] = dataclass_field(default_factory=dict)
    maps: tuple[str, ...] = ()
    """Parameters that may be a map (one value per voxel) instead of a number."""
    parameter_set: Callable[..., str] | None = None
    let_definition: str | None = None

    def parameters(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The given parameters with the defaults filled in; unknown or missing names raise."""
        merged = {**self.defaults, **params}
        unknown = [k for k in params if k not in self.defaults]
        if unknown:
            raise IonrtError(f"{self.name}: no parameter {unknown[0]!r}; it takes {', '.join(self.defaults) or 'none'}")
        missing = [k for k, v in merged.items() if v is None and k not in ("reference",)]
        if missing:
            raise IonrtError(f"{self.name}: the parameter {missing[0]!r} must be given, it has no default")
        return merged

    def kernel(self, dose: np.ndarray, *moments: np.ndarray, **params: Any) -> np.ndarray:
        """RBE-weighted dose [Gy (RBE)] of plain arrays of one shape; float32 in, float32 out. Bad values raise."""
        constants = self.resolve(**self.parameters(params))
        return _evaluate(self, (dose, *moments), constants, threads=_threads())[0]

    def partials(self, dose: np.ndarray, *moments: np.ndarray, **params: Any) -> Arrays:
        """Slopes of the RBE-weighted dose by dose and by each moment, each of the shape of `dose`; finite at zero dose."""
        constants = self.resolve(**self.parameters(params))
        arrays, maps = _prepare(self, (dose, *moments), constants)
        outs = tuple(np.empty_like(arrays[0]) for _ in arrays)
        _in_slabs(lambda cut: self.slopes(*(o[cut] for o in outs), *(a[cut] for a in arrays), *_cut(maps, cut)), arrays[0].size)
        return tuple(o.reshape(np.shape(dose)) for o in outs)

    def __call__(self, field: xr.Dataset, **params: Any) -> xr.DataArray:
        """RBE-weighted dose of a field; see the module functions of `ionrt.rbe`."""
        merged = self.parameters(params)
        self._check_ions(field)
        label = self.parameter_set(**merged) if self.parameter_set else None
        arrays = [self._variable(field, name, label) for name in ("dose", *self.moments)]
        for name in self.maps:
            if isinstance(merged[name], xr.DataArray):
                check_same_grid(arrays[0], merged[name], what=f"{self.name}, {name}")
        given = {k: v for k, v in merged.items() if isinstance(v, xr.DataArray)}
        arrays = list(xr.broadcast(*xr.align(*arrays, *given.values(), join="exact")))
        out = _labelled(self, arrays, merged, tuple(given))
        shown = {k: ("map" if k in given else getattr(v, "name", v)) for k, v in merged.items() if v is not None}
        return stamp(
            out,
            "rbe_dose",
            rbe_model=self.name,
            parameter_set=label,
            parameters=", ".join(f"{k}={v}" for k, v in shown.items()) or None,
            parameters_hash=content_hash(self.name, sorted((k, str(v)) for k, v in shown.items())),
            let_definition=field[self.moments[0]].attrs.get("let_definition", self.let_definition)
            if self.let_definition
            else None,
            citation=self.citation,
            confidence=self.confidence,
            validity=str(self.validity),
            dose_per="fraction",
        )

    def _variable(self, field: xr.Dataset, name: str, label: str | None) -> xr.DataArray:
        if not isinstance(field, xr.Dataset):
            raise IonrtError(
                f"{self.name}: expected a field (xarray.Dataset with dose and moments), got {type(field).__name__}"
            )
        if name not in field:
            has = ", ".join(map(str, field.data_vars)) or "nothing"
            raise IonrtError(f"{self.name} needs the field variable {name!r}; the field has {has}. Compute it with this model")
        if name == "dose":
            return check(field[name], name)
        if name == "let_x_dose":
            return check(field[name], name, let_definition=self.let_definition)
        return check(field[name], name, parameter_set=label)

    def _check_ions(self, field: xr.Dataset) -> None:
        """Refuse ions that the model was not made for, where the field says which ions it holds."""
        if self.validity.ions is None or not isinstance(field, xr.Dataset):
            return
        wrong = [i for i in ions_of(field) if i not in self.validity.ions]
        if wrong:
            raise IonrtError(
                f"{self.name}: made for {', '.join(self.validity.ions)}, the field holds {wrong[0]!r}; LET alone does not "
                "determine the RBE across ions. Use a model with a table over charge and energy (nirs_mkm, smk, lem1)"
            )


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare(model: Model, arrays: tuple[Any, ...], constants: tuple[Any, ...]) -> tuple[list[np.ndarray], tuple[Any, ...]]:
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
        np.ascontiguousarray(np.broadcast_to(c, shape), dtype=dtype).reshape(-1) if np.ndim(c) else dtype(c)
        for c in constants
    )
    return flat, maps


def _cut(constants: tuple[Any, ...], piece: slice) -> tuple[Any, ...]:
    return tuple(c[piece] if isinstance(c, np.ndarray) else c for c in constants)


def _in_slabs(work: Callable[[slice], Any], size: int, threads: int = 1) -> list[Any]:
    """`work` on every piece of the flat arrays, on `threads` threads (the kernels release the interpreter lock)."""
    pieces = [slice(i, min(i + SLAB, size)) for i in range(0, size, SLAB)]
    if threads == 1 or len(pieces) < 2:
        return [work(p) for p in pieces]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, pieces))


def _evaluate(
    model: Model, arrays: tuple[Any, ...], constants: tuple[Any, ...], *, threads: int = 1, where: Callable[[int], str] = str
) -> tuple[np.ndarray, int]:
    """The kernel on whole arrays; raises on an unusable voxel, counts those outside the declared range."""
    flat, maps = _prepare(model, arrays, constants)
    out = np.empty_like(flat[0])
    limits = tuple(out.dtype.type(x) for x in model.validity.limits)
    counts = _in_slabs(lambda cut: model.value(out[cut], *(a[cut] for a in flat), *_cut(maps, cut), *limits), out.size, threads)
    if sum(c[0] for c in counts):
        for name, a in zip(("dose", *model.moments), flat, strict=True):
            unusable = ~((a >= 0.0) & (a <= 1e30))
            if unusable.any():
                i = int(unusable.argmax())
                raise IonrtError(
                    f"{model.name}: {name} is {a[i]:g} in voxel {where(i)} ({int(unusable.sum())} such voxels); "
                    "NaN, infinite or negative values are not doses: mask or correct them first"
                )
    return out.reshape(np.shape(arrays[0])), sum(c[1] for c in counts)


def _voxel(index: int, shape: tuple[int, ...], start: tuple[int, ...], axes: tuple[tuple[str, np.ndarray | None], ...]) -> str:
    """Index and coordinate of a voxel, for messages."""
    at = [int(i) + s for i, s in zip(np.unravel_index(index, shape), start, strict=True)] if shape else []
    said = [f"{d}[{i}]" + ("" if c is None else f" = {c[i]}") for i, (d, c) in zip(at, axes, strict=True)]
    return ", ".join(said) or "0"


def _block(
    *blocks: np.ndarray, model: Model, params: dict, given: tuple[str, ...], axes: tuple, block_info: Any = None
) -> np.ndarray:
    """One block of a field: the kernel, with bad voxels named by their place in the whole grid."""
    info = (block_info or {}).get(0)
    start = tuple(a[0] for a in info["array-location"]) if info else (0,) * blocks[0].ndim
    fields = blocks[: len(blocks) - len(given)]
    constants = model.resolve(**{**params, **dict(zip(given, blocks[len(fields) :], strict=True))})
    where = partial(_voxel, shape=blocks[0].shape, start=start, axes=axes)
    out, outside = _evaluate(model, fields, constants, threads=1 if info else _threads(), where=where)
    if outside:
        count = "some" if info else f"{outside} of {out.size}"
        warnings.warn(
            f"{model.name}: {count} voxels lie outside the range it was made for ({model.validity}); their values extrapolate",
            UserWarning,
            stacklevel=2,
        )
    return out


def _labelled(model: Model, arrays: list[xr.DataArray], params: dict, given: tuple[str, ...]) -> xr.DataArray:
    """Apply the model to arrays on one grid: at once, or block by block when any of them is chunked."""
    first = arrays[0]
    axes = tuple((str(d), first[d].values if d in first.coords else None) for d in first.dims)
    call = partial(_block, model=model, params={k: v for k, v in params.items() if k not in given}, given=given, axes=axes)
    if not any(a.chunks for a in arrays):
        return first.copy(deep=False, data=call(*(np.asarray(a.values) for a in arrays)))
    chunked = xr.unify_chunks(*(a.chunk() for a in arrays))
    fields = chunked[: len(chunked) - len(given)]
    dtype = np.float32 if all(a.dtype == np.float32 for a in fields) else np.float64
    data = da.map_blocks(call, *(a.data for a in chunked), dtype=dtype, meta=np.empty((0,) * first.ndim, dtype))
    return first.copy(deep=False, data=data)
