"""environment.yml, pyproject.toml and the lock say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_ONLY = {"python", "pip", "hatchling"}
CONDA_NAMES = {"pandera-pandas": "pandera"}  # conda splits the extra into a package of its own


def pip_bounds() -> dict[str, str]:
    requirements = [Requirement(r) for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]
    return {canonicalize_name(r.name): str(r.specifier) for r in requirements}


def conda_bounds() -> dict[str, str]:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert all(isinstance(e, str) for e in entries), "no pip section: the package is installed with --no-deps afterwards"
    parsed = [Requirement(e) for e in entries]
    names = {r: canonicalize_name(CONDA_NAMES.get(r.name, r.name)) for r in parsed}
    return {names[r]: str(r.specifier) for r in parsed if names[r] not in CONDA_ONLY}


def test_conda_environment_states_the_same_bounds_as_pyproject():
    assert conda_bounds() == pip_bounds()


def test_bounds_are_lower_bounds_only():
    capped = {name: spec for name, spec in pip_bounds().items() if not re.fullmatch(r">=[\d.]+", spec)}
    assert not capped


def test_python_floor_agrees():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert f"python{PROJECT['requires-python']}" in entries


def test_lock_pins_every_dependency_at_or_above_its_floor_with_hashes_and_without_hosts():
    lock = (ROOT / "constraints.txt").read_text()
    assert "://" not in lock and "--index" not in lock and "--find-links" not in lock
    blocks = [b for b in re.split(r"\n(?=\S)", lock.strip()) if b and not b.startswith("#")]
    assert all("--hash=sha256:" in b for b in blocks)
    pins: dict[str, list[str]] = {}
    for block in blocks:
        pin = Requirement(block.split("\\")[0].split("--hash")[0].strip())
        pins.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier).removeprefix("=="))
    every = PROJECT["dependencies"] + [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    for requirement in map(Requirement, every):
        found = pins.get(canonicalize_name(requirement.name))
        assert found, f"{requirement.name} is not in constraints.txt: run `make lock`"
        assert all(requirement.specifier.contains(v) for v in found), f"{requirement}: the lock has {found}; run `make lock`"


def test_version_is_stated_once():
    import ionrt

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert ionrt.__version__ == PROJECT["version"] == citation["version"]
