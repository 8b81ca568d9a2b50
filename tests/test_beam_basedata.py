"""Base data: contents, cache that never serves stale or damaged numbers, the door for a user's own tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import ionrt
from ionrt.beam import base_data, basedata, check_base_data, clear, store, transport
from ionrt.beam.physics.water.machine import machine_energies
from ionrt.ions import IONS
from ionrt.plan.setup import room

ENERGY = [100.0, 120.0]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IONRT_CACHE", str(cache))


@pytest.fixture
def base() -> xr.Dataset:
    return base_data("C", energy=ENERGY, progress=False).copy(deep=True)


@pytest.mark.parametrize("ion", IONS)
def test_machine_energies_are_close_in_range(ion: str) -> None:
    energy = machine_energies(ion)
    assert energy[0] == 50 and energy.size >= 60 and np.all(np.diff(energy) > 0)
    assert np.diff(ionrt.beam.csda_range(ion, energy).values).max() <= 2.0


def test_rooms_offer_what_base_data_hold() -> None:
    assert {ion: high for ion, (_, high) in room.ENERGY_RANGE} == {ion: machine_energies(ion)[-1] for ion in IONS}
    assert float(ionrt.beam.csda_range("He", 250.0)[0]) == pytest.approx(float(ionrt.beam.csda_range("p", 250.0)[0]), abs=2)


def test_contents(base: xr.Dataset) -> None:
    assert check_base_data(base) is base
    assert base.depth.values[0] == 0 and np.allclose(np.diff(base.depth), 0.1)
    assert base.dose.dtype == np.float32 and base.dose.dims == ("energy", "depth")
    assert list(base.charge.values) == list(range(1, 11))
    np.testing.assert_allclose(base.dose_spectrum.sum(("charge", "kinetic_energy")), 1, rtol=1e-5)
    assert bool((base.spectrum_depth.diff("node") > 0).all())
    assert base.attrs["ion"] == "C" and base.let_d.attrs["units"] == "keV/um"


def test_agrees_with_transport(base: xr.Dataset) -> None:
    depth = np.array([0.0, 10.0, 20.0, 40.0])
    one = transport("C", 120.0, depth=depth, energy_spread=basedata.ENERGY_SPREAD)
    np.testing.assert_allclose(base.dose.sel(energy=120.0).interp(depth=depth), one.dose, rtol=2e-3)


def test_second_call_reads_the_cache(base: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basedata, "build", lambda *a, **k: pytest.fail("computed again"))
    xr.testing.assert_identical(base_data("C", energy=ENERGY), base)


def test_other_physics_or_options_are_other_files(monkeypatch: pytest.MonkeyPatch, base: xr.Dataset) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("built")

    monkeypatch.setattr(basedata, "build", refuse)
    with pytest.raises(RuntimeError, match="built"):
        base_data("C", energy=ENERGY, ripple_sigma=1.0)
    monkeypatch.setattr(store, "physics_hash", lambda: "changed sources")
    with pytest.raises(RuntimeError, match="built"):
        base_data("C", energy=ENERGY)


def test_no_flipped_bit_is_used(base: xr.Dataset, cache: Path) -> None:
    """Whatever bit of the file flips, the cache says that it has nothing."""
    path = cache / "basedata" / f"C-{base.attrs['content_key']}.nc"
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    for at in (*range(0, 400, 3), *rng.integers(len(whole), size=60), len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]) + whole[at + 1 :])
        assert store.load("C", base.attrs["content_key"]) is None
    path.write_bytes(whole)
    xr.testing.assert_identical(store.load("C", base.attrs["content_key"]), base)


@pytest.mark.parametrize("damage", [b"", b"no netCDF", "cut", "renamed"])
def test_damaged_cache_is_rebuilt(damage: bytes | str, base: xr.Dataset, cache: Path) -> None:
    path = cache / "basedata" / f"C-{base.attrs['content_key']}.nc"
    whole = path.read_bytes()
    if damage == "renamed":  # right name, other contents
        store.save(base.assign_attrs(content_key="other"), path, sealed=True)
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else damage)  # type: ignore[arg-type]
    xr.testing.assert_identical(base_data("C", energy=ENERGY, progress=False), base)
    assert not [p for p in path.parent.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.drop_vars("sigma"), "sigma"),
        (lambda d: d.assign(let_d=d.let_d.where(d.depth > 5)), "not finite"),
        (lambda d: d.assign(dose=d.dose.assign_attrs(units="Gy")), "units"),
        (lambda d: d.assign(dose=-d.dose), "negative"),
        (lambda d: d.assign_coords(energy=d.energy.assign_attrs(units="MeV")), "MeV"),
        (lambda d: d.isel(depth=slice(5, None)), "depth"),
        (lambda d: d.isel(energy=[1, 0]), "ascending"),
        (lambda d: d.assign(halo_weight=d.halo_weight + 1), "halo_weight"),
        (lambda d: d.assign(dose_spectrum=2 * d.dose_spectrum), "sum to 1"),
        (lambda d: d.drop_vars("spectrum_depth"), "partner"),
        (lambda d: d.assign_attrs(ion="Fe"), "Fe"),
        (lambda d: d.dose, "Dataset"),
        (lambda d: d.assign_coords(let_definition=["primary", "charged", "mine"]), "mine"),
    ],
)
def test_own_tables_with_defects(change: object, says: str, base: xr.Dataset) -> None:
    with xr.set_options(keep_attrs=True), pytest.raises(ionrt.IonrtError, match=says):
        check_base_data(change(base))  # type: ignore[operator]


def test_own_tables_without_spectra_are_accepted(base: xr.Dataset) -> None:
    check_base_data(base.drop_vars(["dose_spectrum", "spectrum_depth"]))


@pytest.mark.parametrize(
    "options", [{"energy": [5.0]}, {"energy": [200.0, 100.0]}, {"ripple_sigma": -1.0}, {"range_shifter": np.nan}]
)
def test_bad_request(options: dict[str, object]) -> None:
    with pytest.raises(ionrt.IonrtError):
        base_data("C", **options)  # type: ignore[arg-type]


def test_unknown_ion() -> None:
    with pytest.raises(ionrt.IonrtError, match="Fe"):
        base_data("Fe")


def test_clear_takes_only_what_other_physics_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IONRT_CACHE", str(tmp_path))
    folder = tmp_path / "basedata"
    now = base_data("p", energy=[60.0], progress=False)
    keep = folder / f"p-{now.attrs['content_key']}.nc"
    old = folder / f"C-{'0' * 16}.nc"
    store.save(now.assign_attrs(ion="C", content_key="0" * 16, physics="another"), old, sealed=True)
    damaged = folder / f"He-{'1' * 16}.nc"
    damaged.write_bytes(keep.read_bytes()[:40] + b"\xff" * 40 + keep.read_bytes()[80:])  # a header that no reader survives
    foreign = [folder / "mine.nc", folder / f"Fe-{'1' * 16}.nc", folder / "notes.txt"]
    for path in foreign:
        path.write_bytes(b"not ours")
    size = old.stat().st_size + damaged.stat().st_size
    assert clear() == ([old, damaged], size) and keep.exists()
    assert clear(everything=True)[0] == [keep]
    assert all(path.exists() for path in foreign) and clear() == ([], 0)
