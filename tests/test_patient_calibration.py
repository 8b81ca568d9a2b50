"""HU to stopping-power ratio: the shipped table derived again from tissue compositions, and the user's own tables."""

from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from ionrt.patient import stopping_power_ratio
from ionrt.patient.calibration import calibration_table
from ionrt.quantities import IonrtError

ELEMENTS = {  # Z, atomic mass, mean excitation energy in eV for condensed compounds (ICRU Report 49)
    "H": (1, 1.008, 19.2), "C": (6, 12.011, 81.0), "N": (7, 14.007, 82.0), "O": (8, 15.999, 106.0), "Na": (11, 22.990, 168.4),
    "Mg": (12, 24.305, 176.3), "P": (15, 30.974, 195.5), "S": (16, 32.06, 203.4), "Cl": (17, 35.45, 180.0),
    "Ar": (18, 39.948, 210.8), "K": (19, 39.098, 214.7), "Ca": (20, 40.078, 215.8), "Fe": (26, 55.845, 323.2),
}  # fmt: skip
TISSUES = pd.read_csv(Path(__file__).parent / "reference/tissues_icru46.csv", comment="#", index_col="tissue")


def attenuation(row):
    shares = ((row[e] / a) * (z + z**2.86 * 1.24e-3 + z**4.62 * 3.06e-5) for e, (z, a, _) in ELEMENTS.items())
    return row["density"] * sum(shares)


def stopping(row, energy=200.0):
    """Electron density times the Bethe logarithm."""
    electrons = {e: row[e] * z / a for e, (z, a, _) in ELEMENTS.items()}
    total = sum(electrons.values())
    ln_i = sum(n * np.log(ELEMENTS[e][2]) for e, n in electrons.items()) / total
    gamma = 1 + energy / 931.494
    beta2 = 1 - gamma**-2
    return row["density"] * total * (np.log(2 * 510998.95 * beta2 * gamma**2) - beta2 - ln_i)


@pytest.mark.parametrize("tissue", list(TISSUES.index))
def test_shipped_row_follows_from_the_composition(tissue):
    table = calibration_table().set_index("tissue")
    row, water = TISSUES.loc[tissue], TISSUES.loc["water"]
    hu = 1000 * (attenuation(row) / attenuation(water) - 1)
    assert stopping(row) / stopping(water) == pytest.approx(table.loc[tissue, "spr"], abs=1e-4)
    assert hu == pytest.approx(table.loc[tissue, "hu"], abs=1.2 if tissue == "air" else 0.1)
    if np.isfinite(row["ct_number"]):
        assert hu == pytest.approx(row["ct_number"], abs=0.6)


def test_last_row_continues_the_line_to_cortical_bone():
    hu, spr = calibration_table()["hu"].to_numpy(), calibration_table()["spr"].to_numpy()
    slope = (spr[-2] - spr[-3]) / (hu[-2] - hu[-3])
    assert spr[-1] == pytest.approx(spr[-2] + slope * (hu[-1] - hu[-2]), abs=2e-4)


def test_ratio_of_water_air_and_beyond():
    ct = xr.DataArray(np.array([-3000, -1000, 0, 4000], np.float32), dims="x", name="ct", attrs={"units": "HU"})
    spr = stopping_power_ratio(ct)
    np.testing.assert_allclose(spr, [0.0011, 0.0011, 1.0, 2.3796], rtol=1e-6)
    assert spr.dtype == np.float32 and spr.attrs["units"] == "1" and spr.attrs["calibration"] == "generic_ion"


def test_monotone_everywhere():
    ct = xr.DataArray(np.arange(-1100, 3200, 0.5), dims="x", name="ct")
    assert (np.diff(stopping_power_ratio(ct)) >= 0).all()


def test_lazy_stays_lazy():
    ct = xr.DataArray(np.zeros((4, 4), np.float32), dims=("y", "x"), name="ct").chunk(y=2)

    def refuse(*args, **kwargs):
        raise AssertionError("computed")

    with dask.config.set(scheduler=refuse):
        spr = stopping_power_ratio(ct)
    assert spr.chunks == ct.chunks
    np.testing.assert_allclose(spr.values, 1.0)


def test_user_table_from_file_and_frame(tmp_path):
    own = pd.DataFrame({"hu": [-1000, 0, 1000], "spr": [0.0, 1.0, 1.5]})
    own.to_csv(tmp_path / "scanner.csv", index=False)
    ct = xr.DataArray([-500.0, 500.0], dims="x", name="ct")
    for table in (own, tmp_path / "scanner.csv", str(tmp_path / "scanner.csv")):
        np.testing.assert_allclose(stopping_power_ratio(ct, table=table), [0.5, 1.25])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"hu": [0, 1, 1], "spr": [0, 1, 2]}, "hu must rise.*1 follows 1 \\(row 3\\)"),
        ({"hu": [0, 1, 2], "spr": [0, 2, 1]}, "spr must rise"),
        ({"hu": [0, 1], "rsp": [0, 1]}, "expected columns hu and spr, got hu, rsp"),
        ({"hu": [0, 1], "spr": [0, np.nan]}, "finite"),
        ({"hu": [0, 1], "spr": ["a", "b"]}, "expected numbers"),
        ({"hu": [0], "spr": [1]}, "two rows"),
    ],
)
def test_bad_table(table, message):
    with pytest.raises(IonrtError, match=message):
        calibration_table(pd.DataFrame(table))


def test_missing_or_unreadable_file(tmp_path):
    with pytest.raises(IonrtError, match="no table or file"):
        calibration_table("no_such")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(IonrtError, match="cannot be read"):
        calibration_table(tmp_path / "empty.csv")
    with pytest.raises(IonrtError, match="units='Gy'"):
        stopping_power_ratio(xr.DataArray([0.0], dims="x", name="ct", attrs={"units": "Gy"}))
