"""Machine files that are damaged, hostile or too large: one clear error, and the process lives."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import fuzz
import numpy as np
import pytest
from plan_fixtures import synthetic_base
from scipy.io import loadmat, savemat

import ionrt
from ionrt.beam import read_matrad, store

DEPTH = np.linspace(0, 60, 31)
DOSE = 10 + 40 * np.exp(-(((DEPTH - 50) / 4) ** 2))


def machine() -> dict[str, object]:
    """A SYNTHETIC machine of two energies."""

    def entry(energy: float) -> dict[str, object]:
        columns = {
            "depths": DEPTH,
            "Z": DOSE,
            "LET": 10 + DEPTH,
            "sigma1": 3 + 0 * DEPTH,
            "sigma2": 9 + 0 * DEPTH,
            "weight": 0.1 + 0 * DEPTH,
        }
        return {"energy": energy, "range": 51.0, "peakPos": 50.0, "offset": 0.0, **{k: v[:, None] for k, v in columns.items()}}

    data = np.array([tuple(entry(e).values()) for e in (100.0, 102.0)], dtype=[(k, object) for k in entry(1.0)])
    return {"meta": {"radiationMode": "carbon", "machine": "SYNTHETIC"}, "data": data}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mat") / "SYNTHETIC.mat"
    savemat(path, {"machine": machine()}, do_compression=False)
    return path


def test_damaged_machine_files_are_refused_or_read(whole: Path, tmp_path: Path) -> None:
    """Bytes of the file: anything may happen inside the library, nothing to us."""

    def attempt(rng: np.random.Generator) -> str:
        (tmp_path / "x.mat").write_bytes(fuzz.mutate_bytes(rng, whole.read_bytes())[0])
        return fuzz.complaint(read_matrad(tmp_path / "x.mat"))

    fuzz.hold(attempt, n=fuzz.tries(12))


def test_odd_fields_of_a_machine(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contents that the library reads well: every field becomes something else (read in this process, for speed)."""
    from ionrt.beam import interchange

    content = loadmat(whole, simplify_cells=True)["machine"]
    tree = {"meta": content["meta"], "data": [dict(e) for e in content["data"]]}

    def attempt(rng: np.random.Generator) -> str:
        changed = fuzz.mutate_tree(rng, tree)[0]
        monkeypatch.setattr(interchange, "read_mat", lambda file: {"machine": changed})
        return fuzz.complaint(read_matrad(whole))

    fuzz.hold(attempt, n=fuzz.tries(300))


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_before(tmp_path: Path) -> None:
    packed = zlib.compress(bytes(300 << 20), 9)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    (tmp_path / "bomb.mat").write_bytes(header + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(ionrt.IonrtError, match="unpacks to more than"):
        read_matrad(tmp_path / "bomb.mat")


def test_a_reader_that_dies_is_an_error_not_an_end(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ionrt.beam import mat_file

    monkeypatch.setattr(mat_file, "_READER", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(ionrt.IonrtError, match="came to its end"):
        read_matrad(whole)


@pytest.mark.parametrize(
    ("field", "value"),
    [("depths", DEPTH * 1e7), ("offset", np.inf), ("offset", 1e9), ("Z", "text"), ("depths", {}), ("energy", [[]])],
)
def test_absurd_fields(field: str, value: object, tmp_path: Path) -> None:
    changed = machine()
    changed["data"][field][0] = value  # type: ignore[index]
    savemat(tmp_path / "x.mat", {"machine": changed})
    with pytest.raises(ionrt.IonrtError):
        read_matrad(tmp_path / "x.mat")


def test_hostile_files(shared) -> None:
    files = [p for kind in ("mat", "bombs") for p in sorted(shared(f"hostile/{kind}").rglob("*.mat"))]
    assert files
    for file in files:
        with pytest.raises(ionrt.IonrtError):
            read_matrad(file)


def test_no_damaged_base_data_of_the_cache_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of the file: it is the same to the last number, or the cache has nothing."""
    monkeypatch.setenv("IONRT_CACHE", str(tmp_path))
    path = store.path_of("C", "0" * 16)
    store.save(synthetic_base("C").assign_attrs(ion="C", content_key="0" * 16), path, sealed=True)
    whole, kept = path.read_bytes(), store.read_sealed(path)

    def attempt(rng: np.random.Generator) -> str:
        mutant = fuzz.mutate_bytes(rng, whole)[0]
        path.write_bytes(mutant)
        return "" if store.read_sealed(path) == (kept if mutant == whole else None) else "damaged content was read"

    fuzz.hold(attempt, seeds=(1, 2), n=fuzz.tries(40))
