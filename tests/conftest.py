"""Shared fixtures: the folder of reference data, and no network outside loopback."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis  # noqa: F401  now: its hook in trio warns when pytest loads it at the very end, where warnings are errors
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("IONRT_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Path of a file of the shared data folder; skips with a reason where the folder is absent, fails in CI."""

    def find(name: str) -> Path:
        path = SHARED / name
        if path.exists():
            return path
        reason = f"{name} not found: set IONRT_SHARED to the folder with the reference data (looked in {SHARED})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)

    return find
