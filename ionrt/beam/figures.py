"""What the validation book shows: depth tables of one beam, the references that lie over them, the verdicts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.beam import validation as val
from ionrt.beam.broad_beam import transport
from ionrt.beam.nuclear import charge_changing, reaction
from ionrt.beam.stopping import csda_range
from ionrt.ions import IONS

EXAMPLES = {"p": 150.0, "He": 150.0, "C": 400.0, "O": 300.0, "Ne": 350.0}  # MeV/u, beams that references exist for
NOT_VALIDATED = (
    "depth dose of He, O and Ne against a measurement: none is open",
    "LET with target fragments: rests on an effective LET of the recoils",
    "lateral halo of He, O and Ne; fragments of O and Ne in thick water",
    "dose behind the peak of O and Ne",
)


def reference_folder() -> Path | None:
    """Folder of the references: $IONRT_SHARED, or None where it is not set or has none."""
    text = os.environ.get("IONRT_SHARED", "")
    return Path(text) if text and (Path(text) / val.FOLDER).is_dir() else None


def example(ion: str, *, behind: float = 60.0, step: float = 0.5) -> xr.Dataset:
    """`transport` of the example beam of an ion, down to `behind` mm after its range."""
    energy = EXAMPLES[ion]
    reach = float(csda_range(ion, energy)[0])
    return transport(ion, energy, depth=np.arange(0.0, reach + behind, step), energy_spread=0.001)


def _long(da: xr.DataArray, dim: str, column: str) -> pd.DataFrame:
    depth = da["depth"].values
    parts = [pd.DataFrame({"depth": depth, column: da.sel({dim: k}).values, "curve": str(k)}) for k in da[dim].values]
    return pd.concat(parts, ignore_index=True)


def origins_table(beam: xr.Dataset) -> pd.DataFrame:
    """Depth dose and its parts as shares of the peak: columns depth, dose, curve."""
    total = pd.DataFrame({"depth": beam["depth"].values, "dose": beam["dose"].values, "curve": "all"})
    table = pd.concat([total, _long(beam["dose_by_origin"], "origin", "dose")], ignore_index=True)
    return table.assign(dose=table["dose"] / table["dose"].max())


def spectra_table(beam: xr.Dataset, shares: Iterable[float] = (0.1, 0.7, 0.98)) -> pd.DataFrame:
    """Dose spectrum over kinetic energy (all charges, shares of the highest bin) at depths that are shares of the range."""
    reach = float(csda_range(beam.attrs["ion"], beam.attrs["energy"])[0])
    parts = []
    for share in shares:
        one = beam["dose_spectrum"].sel(depth=share * reach, method="nearest").sum("charge")
        curve = f"{float(one['depth']):.0f} mm"
        parts.append(pd.DataFrame({"energy": one["kinetic_energy"].values, "share": one.values, "curve": curve}))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(share=table["share"] / table["share"].max())


def overlay_table(ion: str, beam: xr.Dataset, folder: Path | None) -> pd.DataFrame:
    """Ours and each reference: dose scaled at the entrance as share of the highest peak, depths aligned behind the peak."""
    depth, dose = beam["depth"].values, beam["dose"].values.astype(float)
    parts = [pd.DataFrame({"depth": depth, "dose": dose / dose[depth < 30].mean(), "curve": "ionrt"})]
    reach = val.fall(depth, dose, 0.8)
    for path in sorted((folder / val.FOLDER).glob(f"geant4_{ion}{EXAMPLES[ion]:.0f}_*.csv")) if folder else ():
        data = pd.read_csv(path, comment="#")
        z, theirs = data["depth_mm"].to_numpy(), val.smooth(data["dose_total"].to_numpy())
        curve = f"Geant4 {path.stem.rsplit('_', 1)[1]}"
        scaled = theirs / theirs[z < 30].mean()
        parts.append(pd.DataFrame({"depth": z - val.fall(z, theirs, 0.8) + reach, "dose": scaled, "curve": curve}))
    table = pd.concat([p[p["depth"].between(0, depth[-1])] for p in parts], ignore_index=True)
    return table.assign(dose=table["dose"] / table["dose"].max())


def verdicts(folder: Path | None, sections: Iterable[Callable[..., Iterable[val.Line]]] = val.SECTIONS) -> pd.DataFrame:
    """Every line of the validation with pass or miss, then what is not validated; needs the folder of references."""
    rows: list[dict[str, object]] = []
    if folder is not None:
        for section in sections:
            for line in section(lambda name: folder / name):
                rows.append(
                    {
                        "line": line.name,
                        "difference": f"{line.measured:.2f} {line.unit}",
                        "target": f"{line.target:g} {line.unit}",
                        "verdict": "pass" if line.reached else "MISS",
                    }
                )
    rows += [{"line": text, "difference": "-", "target": "-", "verdict": "not validated"} for text in NOT_VALIDATED]
    return pd.DataFrame(rows)


def cross_sections(folder: Path | None) -> pd.DataFrame:
    """Measured total cross sections of our ions on H, C and O (mb), ours beside them and the residual in per cent."""
    columns = ["ion", "target", "kind", "energy", "measured", "ours", "residual"]
    if folder is None:
        return pd.DataFrame(columns=columns)
    data = pd.read_csv(folder / val.FOLDER / "total_cross_sections_measured.csv", comment="#")
    rows = []
    for row in data.itertuples():
        ion = {"4He": "He", "12C": "C", "16O": "O", "20Ne": "Ne"}.get(str(row.projectile), "")
        if not ion or row.target not in ("H", "C", "O") or not 30 <= row.E_MeV_u <= 500:
            continue
        model = charge_changing if row.type == "TCC" else reaction
        ours = float(model(IONS[ion], row.target, np.array([row.E_MeV_u]))[0])
        kind = "charge-changing" if row.type == "TCC" else "reaction"
        rows.append((ion, row.target, kind, row.E_MeV_u, row.value_mb, ours, 100 * (ours / row.value_mb - 1)))
    return pd.DataFrame(rows, columns=columns)


def key_numbers() -> str:
    """Peak depth, peak to entrance, LETd (charged) at 10 mm, sigma at half of the range; needs no references."""
    text = ["ion  MeV/u  peak mm  peak/entrance  LETd keV/um  sigma mm"]
    for ion, energy in EXAMPLES.items():
        beam = example(ion)
        depth, dose = beam["depth"].values, beam["dose"].values
        reach = float(csda_range(ion, energy)[0])
        let = float(beam["let_d"].sel(let_definition="charged").interp(depth=10.0))
        sigma = float(beam["sigma"].interp(depth=reach / 2))
        ratio = dose.max() / dose[depth < 10].mean()
        text.append(f"{ion:<3}{energy:7.0f}{depth[dose.argmax()]:9.1f}{ratio:15.2f}{let:13.2f}{sigma:10.2f}")
    return "\n".join(text)


def by_ion(beams: dict[str, xr.Dataset], name: str, **where: str) -> xr.DataArray:
    """One quantity of several beams as (ion, distance), up to 5 mm behind each range."""
    parts = []
    for ion, beam in beams.items():
        reach = float(csda_range(ion, beam.attrs["energy"])[0])
        one = beam[name].sel(dict(where))
        parts.append(one.where(one["depth"] < reach + (5 if name == "let_d" else 0)).rename(depth="distance"))
    out = xr.concat(parts, dim=pd.Index(list(beams), name="ion"), join="outer").drop_vars("let_definition", errors="ignore")
    out.attrs = dict(beams[next(iter(beams))][name].attrs) | where
    return out.rename(name)
