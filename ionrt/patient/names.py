"""What a structure is: by the type that the structure set gives it, and by its name."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources

import xarray as xr

EXTERNAL_NAMES = ("body", "external", "skin", "outline", "patient")
TARGET_NAMES = ("gtv", "ctv", "itv", "ptv")
TARGET_TYPES = tuple(name.upper() for name in TARGET_NAMES)
SUBTRACTED = ("bladder", "bowel", "brain", "heart", "kidney", "liver", "lung", "pancreas", "rectum", "stomach", *EXTERNAL_NAMES)


def kinds_of(structures: xr.Dataset | xr.DataArray | Iterable[str]) -> dict[str, str]:
    """Name to interpreted type (``roi_type``; "" where none is said), of what has a coordinate `structure` or of bare names."""
    if not isinstance(structures, (xr.Dataset, xr.DataArray)):
        return dict.fromkeys(map(str, structures), "")
    if "structure" not in structures.coords:
        return {}
    names = [str(s) for s in structures["structure"].values]
    types = map(str, structures["roi_type"].values) if "roi_type" in structures.coords else [""] * len(names)
    return dict(zip(names, types, strict=True))


def outline_of(structures: xr.Dataset | xr.DataArray) -> str | None:
    """The patient's outline: what the structure set calls so, else what has one of its usual names."""
    kinds = kinds_of(structures)
    return next((n for n, kind in kinds.items() if kind == "EXTERNAL"), next(filter(is_external, kinds), None))


def organs_of(kinds: Mapping[str, str], target: str) -> list[str]:
    """Of `kinds_of`, what is neither the target, nor it with a margin, nor another target volume, nor the outline."""
    margin = f"{target.strip().lower()} +"  # as in Tumour_1 + 5.0 mm
    mine = [s for s in kinds if s == target or s.strip().lower().startswith(margin)]
    return [s for s, k in kinds.items() if s not in mine and not (is_external(s, k) or is_target(s, k))]


def is_external(name: str, kind: str = "") -> bool:
    """Whether a structure is the patient's outline, by its type or its usual names."""
    return kind == "EXTERNAL" or name.strip().lower() in EXTERNAL_NAMES


def is_target(name: str, kind: str = "") -> bool:
    """Whether a structure is a target volume (GTV, CTV, ITV, PTV), by its type or its name; an organ less the target
    (``Lungs-GTV``, as TG-263 writes it) is none."""
    if kind in TARGET_TYPES:
        return True
    before, minus, _ = name.lower().partition("-")
    if minus and any(organ in before for organ in SUBTRACTED) and not any(volume in before for volume in TARGET_NAMES):
        return False
    return any(volume in name.lower() for volume in TARGET_NAMES)


def nomenclature(name: str) -> str:
    """The name of TG-263 that a spelling stands for (``tables/roi_names.csv``), without regard to case, blanks, underscores and
    hyphens; empty where it is none."""
    return _nomenclature().get(_plain(name), "")


@cache
def _nomenclature() -> dict[str, str]:
    """Plain spelling to name of the nomenclature."""
    with (resources.files("ionrt.patient") / "tables" / "roi_names.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(line for line in file if not line.startswith("#")))[1:]
    return {_plain(spelling): name for name, also in rows for spelling in (name, *also.split(";")) if spelling}


def _plain(name: str) -> str:
    return re.sub(r"[\s_\0-]+", "", name).casefold()
