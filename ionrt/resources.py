"""Notebooks, trial protocols and data sets: in a checkout they lie beside the package, in a wheel within it."""

from __future__ import annotations

import shutil
from pathlib import Path

from ionrt.lazy import IonrtError

FOLDERS = ("notebooks", "trials", "datasets")


def shipped(folder: str) -> Path:
    """The folder of this name that came with the package."""
    inside = Path(__file__).with_name("shipped") / folder
    return inside if inside.is_dir() else Path(__file__).resolve().parents[1] / folder


def files(folder: str, pattern: str, *places: Path) -> dict[str, Path]:
    """Files by name without ending, from the first of `places` that has them, else those that came with the package."""
    for root in (*(place / folder for place in places), shipped(folder)):
        if found := {p.stem: p for p in sorted(root.glob(pattern))}:
            return found
    raise IonrtError(f"no {folder} here or with the package: the installation is incomplete, install ionrt again")


def copy_to(target: str | Path) -> Path:
    """A folder to work in: notebooks, protocols and data sets of one's own, as they came; the start notebook.

    Where one of the folders is there already it raises: nothing of the user's is overwritten.
    """
    target = Path(target)
    there = [name for name in FOLDERS if (target / name).exists()]
    if there:
        raise IonrtError(f"{target} has {', '.join(there)} already; give a folder without, or move them away first")
    for name in FOLDERS:
        shutil.copytree(shipped(name), target / name, ignore=shutil.ignore_patterns(".*", "*.cfg", "__pycache__"))
    return target / "notebooks" / "00_start_here.ipynb"
