"""What the validation book shows: panels of curves, references that lie over them, tables of verdicts and cross sections."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.beam import validation as val
from ionrt.beam.physics.nuclear import charge_changing, multiplicities, reaction
from ionrt.beam.physics.stopping import csda_range
from ionrt.beam.physics.water.broad_beam import transport
from ionrt.ions import ELEMENTS, IONS, ISOTOPES
from ionrt.quantities import LET_DEFINITIONS

Panels = dict[str, dict[str, xr.DataArray]]
Points = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]

EXAMPLES = {"p": 150.0, "He": 150.0, "C": 400.0, "O": 300.0, "Ne": 350.0}  # MeV/u, beams that references exist for
REFERENCED = ("p 150", "He 150", "C 200", "C 400")
ION_OF = {"4He": "He", "12C": "C", "16O": "O", "20Ne": "Ne"}
WATER_FROM_CARBON = 1.13  # oxygen over carbon: cross section of a molecule = 2 x hydrogen + 1.13 x carbon
_NAMES = ("hydrogen", "helium", "lithium", "beryllium", "boron", "carbon", "nitrogen", "oxygen", "fluorine", "neon")
ELEMENT_NAMES = dict(zip(ELEMENTS, _NAMES, strict=True))
NOT_VALIDATED = (
    "Depth dose of He, O and Ne: no open measurement",
    "LETd of C, O and Ne with target fragments: no open reference, only Geant4's share of the dose (two lines above)",
    "Build-up, tail and fragments of O and Ne in thick water: no open reference",
    "Lateral halo of He, O and Ne: no open reference",
    "Effective LET of recoils: no measurement",
)


def reference_folder() -> Path | None:
    """Folder of the references: $IONRT_SHARED, or None where it is not set or has none."""
    text = os.environ.get("IONRT_SHARED", "")
    return Path(text) if text and (Path(text) / val.FOLDER).is_dir() else None


def example(ion: str, energy: float | None = None, *, behind: float = 60.0, step: float = 0.5) -> xr.Dataset:
    """`transport` of the example beam of an ion, down to `behind` mm after its range."""
    energy = energy or EXAMPLES[ion]
    reach = float(csda_range(ion, energy)[0])
    return transport(ion, energy, depth=np.arange(0.0, reach + behind, step), energy_spread=0.001)


def _title(beam: xr.Dataset) -> str:
    unit = "MeV" if beam.attrs["ion"] == "p" else "MeV/u"
    return f"{beam.attrs['ion']}, {beam.attrs['energy']:.0f} {unit}"


def origin_panels(beams: Mapping[str, xr.Dataset]) -> Panels:
    """Per ion the depth dose and its parts by origin as shares of the peak; parts below 1e-4 are left out."""
    panels: Panels = {}
    for beam in beams.values():
        share = beam["dose_by_origin"] / beam["dose"].max()
        lines = {ELEMENT_NAMES.get(str(o), str(o)): share.sel(origin=o, drop=True) for o in share["origin"].values}
        lines = {"all": share.sum("origin")} | {name: da for name, da in lines.items() if float(da.max()) > 1e-3}
        panels[_title(beam)] = {name: da.where(da > 1e-4).rename("dose") for name, da in lines.items()}
    return panels


def reference_panels(folder: Path | None) -> tuple[Panels, Points]:
    """Depth doses that references exist for, shares of our peak: ours, Geant4's models, Haettner's points."""
    panels, points = {}, {}
    for label in REFERENCED:
        ion, energy = label.split()
        beam = example(ion, float(energy), behind=80.0)
        depth, dose = beam["depth"].values, beam["dose"].values.astype(float)
        start, peak, reach = dose[depth < 30].mean(), dose.max(), val.fall(depth, dose, 0.8)
        lines = {"ionrt": (beam["dose"] / peak).rename("dose")}
        for model in val.MODELS[ion, float(energy)] if folder else ():
            data = pd.read_csv(folder / val.FOLDER / f"geant4_{ion}{energy}_{model}.csv", comment="#")  # type: ignore[operator]
            z, theirs = data["depth_mm"].to_numpy(), val.smooth(data["dose_total"].to_numpy())
            at, share = z - val.fall(z, theirs, 0.8) + reach, theirs * start / theirs[z < 30].mean() / peak
            seen = (at > 0) & (at < depth[-1])
            lines[f"Geant4 {model}"] = xr.DataArray(share[seen], coords={"depth": at[seen]}, name="dose")
        panels[_title(beam)] = lines
        if label == "C 400" and folder:
            data = _haettner(folder, "ionisation_rel")
            z, measured = 10 * data["depth_cm"].to_numpy() - val.MEASURED_80 + reach, data["value"].to_numpy()
            scale = np.interp(z[:5], depth, dose).mean() / measured[:5].mean() / peak
            points[_title(beam)] = {"Haettner": (z, measured * scale)}
    return panels, points


def deviation_panels(panels: Panels, points: Points) -> tuple[Panels, Points]:
    """Ours over each reference less one, in per cent, where the dose does not fall off; curves as lines, points as points."""
    lines: Panels = {}
    marks: Points = {}
    for title, curves in panels.items():
        ours = curves["ionrt"]
        z, dose = ours["depth"].values, ours.values.astype(float)
        reach = val.fall(z, dose, 0.8)

        def apart(at: np.ndarray, theirs: np.ndarray) -> np.ndarray:
            value = 100 * (np.interp(at, z, dose) / theirs - 1)  # noqa: B023
            return np.where((np.abs(at - reach) > 4) & (theirs > 1e-3), value, np.nan)  # noqa: B023

        rest = {name: da.copy(data=apart(da["depth"].values, da.values)) for name, da in curves.items() if name != "ionrt"}
        if rest:
            lines[title] = {"ionrt": xr.zeros_like(ours).drop_attrs()} | rest
        for name, (at, theirs) in points.get(title, {}).items():
            value = apart(at, theirs)
            marks[title] = {name: (at[np.isfinite(value)], value[np.isfinite(value)])}
    return lines, marks


def _haettner(folder: Path, quantity: str) -> pd.DataFrame:
    data = pd.read_csv(folder / val.FOLDER / "haettner_12C_400_water.csv", comment="#")
    return data[data["quantity"].str.startswith(quantity)]


def build_up_panels(beams: Mapping[str, xr.Dataset], folder: Path | None) -> tuple[Panels, Points]:
    """Ions per primary by element against depth; for carbon those within 10 degrees, with the numbers counted there."""
    panels, points = {}, {}
    for ion, beam in beams.items():
        own = IONS[ion].charge
        number = beam["fluence"]
        if ion == "C":
            depth, cone = val.cone_numbers(10.0)
            number = xr.DataArray(cone, coords={"depth": depth, "charge": beam["charge"].values}).isel(
                depth=slice(None, None, 5)
            )
        lines = {
            ELEMENT_NAMES[e]: number.sel(charge=z, drop=True).rename("number") for z, e in enumerate(ELEMENTS[: own - 1], 1)
        }
        if not lines:
            continue
        title = _title(beam) + (", within 10 degrees" if ion == "C" else "")
        panels[title] = lines
        if ion == "C" and folder:
            rows = _haettner(folder, "yield").groupby("element")
            points[title] = {ELEMENT_NAMES[e]: (val.nominal(10 * r["depth_cm"]), r["value"].to_numpy()) for e, r in rows}
    return panels, points


def let_panels(beams: Mapping[str, xr.Dataset]) -> Panels:
    """Per ion the dose-averaged LET under each definition, up to the range."""
    panels: Panels = {}
    for ion, beam in beams.items():
        let = beam["let_d"].sel(depth=slice(None, float(csda_range(ion, beam.attrs["energy"])[0])))
        lines = {d.replace("_", " "): let.sel(let_definition=d, drop=True) for d in LET_DEFINITIONS}
        panels[_title(beam)] = {name: da.drop_attrs() for name, da in lines.items()}  # the names say the definition
    return panels


def spectra_panels(beams: Mapping[str, xr.Dataset], shares: Iterable[float] = (0.1, 0.7, 0.98)) -> Panels:
    """Per ion the dose spectrum (all charges, share of its highest bin) at depths that are shares of the range."""
    panels: Panels = {}
    for ion, beam in beams.items():
        reach, lines = float(csda_range(ion, beam.attrs["energy"])[0]), {}
        for share in shares:
            one = beam["dose_spectrum"].sel(depth=share * reach, method="nearest").sum("charge")
            lines[f"{100 * share:.0f} % of the range"] = (one / one.max()).rename("share")
        panels[_title(beam)] = lines
    return panels


def lateral_panels(beams: Mapping[str, xr.Dataset]) -> tuple[Panels, Points]:
    """Lateral spread of the core of each ion up to its range, and Kanematsu's empirical value there."""
    lines, points = {}, {}
    for ion, beam in beams.items():
        reach, isotope = float(csda_range(ion, beam.attrs["energy"])[0]), IONS[ion]
        lines[ion] = beam["sigma"].sel(depth=slice(None, reach))
        form = 0.0224 * isotope.charge**-0.16 * isotope.mass_number**-0.46 * reach
        points[ion] = (np.array([reach]), np.array([form]))
    return {"Core": lines}, {"Core": points}


def verdicts(folder: Path | None, sections: Iterable[Callable[..., Iterable[val.Line]]] = val.SECTIONS) -> pd.DataFrame:
    """Every line of the validation with pass or miss, then what is not validated; needs the folder of references."""
    rows: list[dict[str, str]] = []
    for section in sections if folder is not None else ():
        for line in section(lambda name: folder / name):
            rows.append(
                {
                    "line": line.name,
                    "reference": _number(line.reference),
                    "ours": _number(line.ours),
                    "difference": f"{line.measured:.2f}\N{NO-BREAK SPACE}{line.unit}",
                    "target": f"{line.target:g}\N{NO-BREAK SPACE}{line.unit}",
                    "verdict": "pass" if line.reached else "MISS",
                }
            )
    blank = dict.fromkeys(("reference", "ours", "difference", "target"), "")
    rows += [{"line": text} | blank | {"verdict": "not validated"} for text in NOT_VALIDATED]
    return pd.DataFrame(rows).set_index("line")


def _number(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else ""


def cross_sections(folder: Path | None) -> pd.DataFrame:
    """Measured total cross sections of our ions on H, C, O and water (mb), ours beside them and the residual in per cent."""
    columns = ["ion", "target", "kind", "MeV/u", "measured", "error", "ours", "residual"]
    if folder is None:
        return pd.DataFrame(columns=columns)
    data = pd.read_csv(folder / val.FOLDER / "total_cross_sections_measured.csv", comment="#")
    rows = []
    for row in data.rename(columns={"E_MeV_u": "energy"}).itertuples():
        ion = ION_OF.get(str(row.projectile), "")
        if not ion or row.target not in ("H", "C", "O", "H2O") or not 30 <= row.energy <= 500:
            continue
        changing = row.type == "TCC" and not (ion == "He" and row.value_mb == 800.0)  # that one is mass-changing, see the file
        ours = float((charge_changing if changing else reaction)(IONS[ion], row.target, np.array([row.energy]))[0])
        kind = "charge-changing" if changing else "reaction"
        rows.append((ion, row.target, kind, row.energy, row.value_mb, row.err_mb, ours, 100 * (ours / row.value_mb - 1)))
    return pd.DataFrame(rows, columns=columns).sort_values(["ion", "target", "kind", "MeV/u"])


def partial_cross_sections(folder: Path | None) -> pd.DataFrame:
    """Elemental production in water (mb per molecule), measured or from H and C of one experiment, ours and the residual."""
    columns = ["ion", "fragment", "basis", "EXFOR", "MeV/u", "measured", "error", "ours", "residual"]
    if folder is None:
        return pd.DataFrame(columns=columns)
    data = pd.read_csv(folder / val.FOLDER / "partial_cross_sections_measured.csv", comment="#", dtype={"Z_or_nuclide": str})
    data = data[data["projectile"].isin(ION_OF) & data["E_MeV_u"].between(100, 500) & data["A"].isna()]
    data = data[data["Z_or_nuclide"].fillna("").str.fullmatch(r"[3-9]") & ~(data["Z_or_nuclide"].eq("3"))]
    rows = []
    keys = ["projectile", "Z_or_nuclide", "E_MeV_u", "EXFOR_entry", "accept_half_angle_deg"]
    for key, group in data.groupby(keys, dropna=False):
        by = group.groupby("target")[["value_mb", "err_mb"]].mean()
        if "H2O" in by.index:
            basis, value, error = "water", by.value_mb["H2O"], by.err_mb["H2O"]
        elif {"H", "C"} <= set(by.index):
            basis, value = "H and C", 2 * by.value_mb["H"] + WATER_FROM_CARBON * by.value_mb["C"]
            error = np.hypot(2 * by.err_mb["H"], WATER_FROM_CARBON * by.err_mb["C"])
        else:
            continue
        ion, element = ION_OF[key[0]], ELEMENTS[int(key[1]) - 1]
        ours = element_production(ion, element, float(key[2]))
        rows.append((ion, element, basis, key[3], key[2], value, error, ours, 100 * (ours / value - 1)))
    return pd.DataFrame(rows, columns=columns).sort_values(["ion", "fragment", "MeV/u"])


def element_production(ion: str, element: str, energy: float) -> float:
    """Our production of an element in water, mb per molecule."""
    isotope = IONS[ion]
    made = {k: v for k, v in multiplicities(isotope.symbol).items() if ISOTOPES[k].charge == ELEMENTS.index(element) + 1}
    return sum(made.values()) * float(reaction(isotope, "H2O", np.array([energy]))[0])


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
