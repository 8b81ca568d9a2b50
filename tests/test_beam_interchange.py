"""Base data in other people's formats: round trips, the defects that are about, files that are none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.io import loadmat, savemat

import ionrt
from ionrt.__main__ import main
from ionrt.beam import base_data, basedata, check_base_data, export, read_matrad, store
from ionrt.beam.writing import export_matrad


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IONRT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return base_data("C", energy=[100.0, 150.0], progress=False)


@pytest.fixture
def machine(base: xr.Dataset, tmp_path: Path) -> dict[str, Any]:
    """The exported machine as nested dictionaries, to be damaged."""
    return loadmat(export_matrad(base, tmp_path / "whole.mat"), simplify_cells=True)["machine"]


def stored(machine: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "changed.mat"
    savemat(path, {"machine": machine})
    return path


def test_machine_file_and_back(base: xr.Dataset, tmp_path: Path) -> None:
    back = read_matrad(export_matrad(base, tmp_path / "C.mat"))
    assert check_base_data(back) is back and back.attrs["ion"] == "C"
    same = base.sel(let_definition="charged").reindex(depth=back.depth, method="nearest")
    for i, peak in enumerate(base.depth.values[base.dose.values.argmax(1)]):
        before = back.depth.values < peak + 2
        for name in ("dose", "sigma", "halo_weight", "halo_sigma"):
            theirs = back[name].values[i, before]
            np.testing.assert_allclose(theirs, same[name].values[i, before], rtol=3e-3, atol=1e-3)
        np.testing.assert_allclose(back.let_d.values[0, i, before], same.let_d.values[i, before], rtol=3e-3)
    width = float(base.depth[1] - base.depth[0])
    np.testing.assert_allclose(back.dose.sum("depth") * width, base.dose.sum("depth") * width, rtol=1e-3)  # energy


def test_units_of_the_machine_file(base: xr.Dataset, machine: dict[str, Any]) -> None:
    """Entrance: Z is the stopping power of carbon in MeV cm2/g, LET a tenth of it in keV/um."""
    first = machine["data"][0]
    power = float(ionrt.beam.stopping_power("C", 100.0)[0])
    assert first["Z"][0] == pytest.approx(power, rel=0.02)
    assert first["LET"][0] == pytest.approx(power / 10, rel=0.02)
    assert machine["meta"]["radiationMode"] == "carbon" and first["depths"][0] == 0


def test_netcdf_and_back(base: xr.Dataset, tmp_path: Path) -> None:
    from ionrt.beam.store import read

    xr.testing.assert_allclose(read(export(base, tmp_path / "C.nc")), base)


def test_unknown_ending_and_nothing_half_written(base: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ionrt.IonrtError, match=r"\.mat"):
        export(base, tmp_path / "C.csv")
    with pytest.raises(ionrt.IonrtError, match="missing"):
        export(base.drop_vars("sigma"), tmp_path / "C.mat")
    assert not list(tmp_path.iterdir())


def test_halo_without_weight_and_effect_tables_with_gaps(machine: dict[str, Any], tmp_path: Path) -> None:
    """Helium files have sigma2 of metres where weight is 0; oxygen files alpha and beta NaN at depth 0."""
    for entry in machine["data"]:
        entry["weight"][:50], entry["sigma2"][:50] = 0.0, 2800.0
        entry["alpha"] = np.full((entry["depths"].size, 2), np.nan)
    back = read_matrad(stored(machine, tmp_path))
    assert "sigma2" in back.attrs["repaired"]
    assert float(back.halo_sigma.max()) < 200


def test_machine_without_let(machine: dict[str, Any], base: xr.Dataset, tmp_path: Path) -> None:
    for entry in machine["data"]:
        del entry["LET"]
    path = stored(machine, tmp_path)
    with pytest.raises(ionrt.IonrtError, match="LET is missing"):
        read_matrad(path)
    back = read_matrad(path, missing_let="primary")
    assert list(back.let_definition.values) == ["primary"] and "LET" in back.attrs["repaired"]
    ours = base.let_d.sel(let_definition="primary").interp(depth=10.0)
    np.testing.assert_allclose(back.let_d.isel(let_definition=0).interp(depth=10.0), ours, rtol=0.01)


def test_single_and_several_gaussians(machine: dict[str, Any], tmp_path: Path) -> None:
    """0.7 of sigma 2, 0.2 of 10 and 0.1 of 20 mm: halo weight 0.3, variance (0.2 100 + 0.1 400) / 0.3."""
    one, two = machine["data"]
    n = two["depths"].size
    two["sigmaMulti"], two["weightMulti"] = np.tile([2.0, 10.0, 20.0], (n, 1)), np.tile([0.2, 0.1], (n, 1))
    one["sigma"] = one["sigma1"]
    one["sigma1"] = np.array([])
    back = read_matrad(stored(machine, tmp_path))
    assert float(back.halo_weight[0].max()) == 0
    np.testing.assert_allclose(back.halo_weight[1], 0.3, rtol=1e-6)
    np.testing.assert_allclose(back.halo_sigma[1], np.sqrt(200.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "change", "says"),
    [
        ("Z", lambda v: v * np.nan, "not numbers"),
        ("Z", lambda v: -v, "negative"),
        ("Z", lambda v: v[:-1], "values for"),
        ("depths", lambda v: v / 10, "mm"),
        ("depths", lambda v: v[::-1], "ascending"),
        ("sigma1", lambda v: np.where(v > 0, np.nan, v), "not numbers"),
        ("energy", lambda v: -1.0, "energy"),
    ],
)
def test_defects_are_named(field: str, change: Any, says: str, machine: dict[str, Any], tmp_path: Path) -> None:
    machine["data"][1][field] = change(machine["data"][1][field])
    with pytest.raises(ionrt.IonrtError, match=says):
        read_matrad(stored(machine, tmp_path))


def test_step_of_the_depths(machine: dict[str, Any], tmp_path: Path) -> None:
    path = stored(machine, tmp_path)
    coarse, fine = read_matrad(path), read_matrad(path, depth_step=0.05)
    np.testing.assert_allclose(np.diff(fine.depth), 0.05, rtol=1e-9)
    assert fine.sizes["depth"] == 2 * coarse.sizes["depth"] - 1
    np.testing.assert_array_equal(fine.dose[:, ::2], coarse.dose)
    with pytest.raises(ionrt.IonrtError, match="depth_step: expected mm greater than 0"):
        read_matrad(path, depth_step=0.0)


def test_files_that_are_no_machine(machine: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ionrt.IonrtError, match="no such file"):
        read_matrad(tmp_path / "absent.mat")
    (tmp_path / "text.mat").write_text("energy 100")
    with pytest.raises(ionrt.IonrtError, match=r"not a \.mat file of version"):
        read_matrad(tmp_path / "text.mat")
    savemat(tmp_path / "other.mat", {"ct": 1.0})
    with pytest.raises(ionrt.IonrtError, match="machine"):
        read_matrad(tmp_path / "other.mat")
    machine["meta"]["radiationMode"] = "photons"
    with pytest.raises(ionrt.IonrtError, match="photons"):
        read_matrad(stored(machine, tmp_path))


@pytest.fixture
def few_energies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command on machines of three energies, in a cache of its own."""
    monkeypatch.setenv("IONRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(basedata, "machine_energies", lambda ion: np.array([60.0, 70.0, 80.0]))


@pytest.mark.usefixtures("few_energies")
def test_commands_build_tell_export_and_clear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["basedata", "build", "C", "p"]) == 0
    built = capsys.readouterr().out
    assert [line.split()[:2] for line in built.splitlines()] == [["C", "3"], ["p", "3"]] and "60-80 MeV/u" in built
    assert main(["basedata", "info", "C", "p"]) == 0 and capsys.readouterr().out == built
    assert main(["basedata", "export", "C", "p", "--out", str(tmp_path)]) == 0
    for ion, line in zip("Cp", capsys.readouterr().out.splitlines(), strict=True):
        assert check_base_data(store.read(Path(line))).attrs["ion"] == ion
    assert main(["basedata", "export", "C", "--out", str(tmp_path / "c.mat")]) == 0
    assert read_matrad(tmp_path / "c.mat").sizes["energy"] == 3
    assert main(["basedata", "clear"]) == 0 and main(["basedata", "clear", "--all"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["0", "2"]
    assert main(["basedata", "clear", "C"]) == 2 and "no ions" in capsys.readouterr().err


def test_command_refuses_bad_requests(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["basedata", "info", "Fe"]) == 2 and "Fe" in capsys.readouterr().err
    assert main(["basedata", "export", "p", "C", "--out", "both.mat"]) == 2 and "one ion" in capsys.readouterr().err


def test_pyradplan_gives_our_dose_in_water(base: xr.Dataset, tmp_path: Path) -> None:
    """The pencil beam that pyRadPlan makes of the exported file against the base data themselves, voxel by voxel."""
    python = os.environ.get("IONRT_PYRADPLAN")
    if not python:
        pytest.skip("IONRT_PYRADPLAN names no Python that has pyRadPlan 0.5.0 (optional comparison)")
    machine, result = export_matrad(base, tmp_path / "carbon.mat", spot_sigma=3.0), tmp_path / "dose.npz"
    side = Path(__file__).parents[1] / "benchmarks" / "pyradplan_water.py"
    alone = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([python, side, machine, "150", result], check=True, env=alone, capture_output=True, timeout=300)
    theirs = np.load(result)["dose"]
    across = np.arange(theirs.shape[0]) - theirs.shape[0] // 2
    radius2 = (across[:, None] ** 2 + across**2)[:, None, :]
    one = base.isel(energy=1).interp(depth=np.arange(theirs.shape[1]) + 0.5)
    parts = ((1 - one.halo_weight, one.sigma), (one.halo_weight, one.halo_sigma))
    ours = np.zeros(theirs.shape)
    for share, sigma in parts:
        variance = (sigma.values**2 + 3.0**2)[:, None]
        ours += share.values[:, None] * np.exp(-radius2 / (2 * variance)) / (2 * np.pi * variance)
    ours *= 0.16021766 * one.dose.values[:, None]  # MeV/mm in 1 mm2 of water to Gy, 1e6 primaries
    seen = ours > 0.001 * ours.max()
    assert np.abs(theirs / ours - 1)[seen].max() < 0.02  # the target; 0.2 % is what is found
    assert theirs.sum() == pytest.approx(ours.sum(), rel=2e-3)


def test_an_exported_file_is_a_machine_of_its_own_ion_and_as_it_was_written(base: xr.Dataset, tmp_path: Path) -> None:
    from ionrt.compare import open_machine

    path = export(base, tmp_path / "carbon.nc")
    machine = open_machine({"C": str(path)}, ["C"])
    assert machine is not None
    xr.testing.assert_allclose(machine["C"], base)
    with pytest.raises(ionrt.IonrtError, match=r"carbon\.nc holds base data of carbon"):
        open_machine({"p": str(path)}, ["p"])
    with xr.open_dataset(path, engine="scipy") as there:
        other = there.load()
    other["dose"][0, 0] *= 1.01
    other.to_netcdf(path, engine="scipy", format="NETCDF3_64BIT")
    with pytest.raises(ionrt.IonrtError, match="not as ionrt wrote it"):
        open_machine({"C": str(path)}, ["C"])
    del other.attrs["content_hash"]  # somebody else's base data
    other.to_netcdf(path, engine="scipy", format="NETCDF3_64BIT")
    assert float(open_machine({"C": str(path)}, ["C"])["C"]["dose"][0, 0]) == pytest.approx(float(base["dose"][0, 0]) * 1.01)
