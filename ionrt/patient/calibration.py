"""CT numbers to stopping-power ratio: piecewise linear, from a table that is data."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.files import content_hash
from ionrt.parallel import each, slabs
from ionrt.quantities import IonrtError, check, stamp

GENERIC = "generic_ion"
MOST_ROWS, MOST_COLUMNS = 10_000, 50


def stopping_power_ratio(ct: xr.DataArray, *, table: str | Path | pd.DataFrame = GENERIC) -> xr.DataArray:
    """Stopping-power ratio to water of every voxel.

    Linear between the rows (hu, spr) of the table; below the first and above the last row the end values hold.

    Parameters
    ----------
    ct : DataArray of CT numbers in HU, any shape.
    table : "generic_ion" (adult tissue, 120 kV, derived from ICRU Report 46 compositions), a CSV file or a DataFrame with
        columns `hu` and `spr`, both strictly ascending.

    Returns
    -------
    DataArray of the same shape, unit "1", lazy where `ct` was; attributes `calibration` and `calibration_hash`.

    Raises
    ------
    IonrtError for a table that is missing, unreadable or not ascending.

    Valid where the table belongs to the scanner that made the CT: the generic one is for research and phantoms, some per cent
    off a real curve in bone and lung, and knows no metal.
    Reference: Schneider, Pedroni and Lomax 1996, doi 10.1088/0031-9155/41/1/009.
    """
    check(ct, "ct")
    rows = calibration_table(table)
    hu, spr = rows["hu"].to_numpy(float), rows["spr"].to_numpy(float)

    def calibrated(values: np.ndarray) -> np.ndarray:
        made = np.empty(values.shape, values.dtype if values.dtype.kind == "f" else np.float64)
        flat, given = made.reshape(-1), values.reshape(-1)

        def work(part: slice) -> None:
            flat[part] = np.interp(given[part], hu, spr)

        each(work, slabs(flat.size))
        return made

    out = xr.apply_ufunc(
        calibrated, ct, dask="parallelized", output_dtypes=[ct.dtype if ct.dtype.kind == "f" else np.float64], keep_attrs=False
    )
    name = "DataFrame given by the user" if isinstance(table, pd.DataFrame) else Path(table).name
    frame = ct.attrs.get("frame_of_reference_uid")
    return stamp(out, "spr", calibration=name, calibration_hash=content_hash(hu, spr), frame_of_reference_uid=frame)


def calibration_table(table: str | Path | pd.DataFrame = GENERIC) -> pd.DataFrame:
    """The rows (hu [HU], spr [1]; ascending) of a calibration, checked: "generic_ion", a CSV file (# comments) or a frame."""
    rows = table.copy() if isinstance(table, pd.DataFrame) else _from_file(table)
    if not {"hu", "spr"} <= set(rows.columns):
        raise IonrtError(f"calibration: expected columns hu and spr, got {', '.join(map(str, rows.columns[:MOST_COLUMNS]))}")
    if len(rows) > MOST_ROWS or len(rows.columns) > MOST_COLUMNS:
        raise IonrtError(f"calibration: expected at most {MOST_ROWS} rows and {MOST_COLUMNS} columns, got {rows.shape}")
    try:
        numbers = rows[["hu", "spr"]].astype(float)
    except (TypeError, ValueError, OverflowError) as error:
        raise IonrtError(f"calibration: expected numbers in hu and spr ({error})") from error
    hu, spr = numbers["hu"].to_numpy(), numbers["spr"].to_numpy()
    if len(hu) < 2 or not ((hu >= -5000.0) & (hu <= 1e5)).all() or not ((spr >= 0.0) & (spr <= 25.0)).all():
        raise IonrtError(
            "calibration: expected at least two rows of finite numbers, hu from -5000 to 100000, spr from 0 to 25 (gold: 11)"
        )
    for name, values in (("hu", hu), ("spr", spr)):
        fall = np.nonzero(np.diff(values) <= 0.0)[0]
        if fall.size:
            i = int(fall[0])
            raise IonrtError(
                f"calibration: {name} must rise from row to row, but {values[i + 1]:g} follows {values[i]:g} (row {i + 2});"
                " sort the rows or remove the double one"
            )
    return numbers.assign(**{c: rows[c] for c in rows.columns if c not in ("hu", "spr")})


def _from_file(table: str | Path) -> pd.DataFrame:
    """Read a named table of the package or the user's file."""
    inside = resources.files("ionrt.patient") / "tables" / f"{table}.csv"
    if isinstance(table, str) and "/" not in table and os.path.isfile(str(inside)):
        with inside.open() as file:
            return pd.read_csv(file, comment="#")
    if not os.path.isfile(table):
        raise IonrtError(
            f"calibration: no table or file {str(table)!r}; expected {GENERIC!r} or a CSV file with columns hu,spr"
        )
    try:
        return pd.read_csv(table, comment="#", nrows=MOST_ROWS + 1)
    except (OSError, ValueError) as error:
        raise IonrtError(f"calibration: {table} cannot be read as CSV ({error}); expected columns hu,spr") from error
