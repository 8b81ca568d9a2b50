"""What the validation book shows: panels of curves, references that lie over them, tables of verdicts and cross sections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.beam import validation as val
from ionrt.beam.physics.nuclear import charge_changing, multiplicities, reaction
from ionrt.beam.physics.stopping import csda_range
from ionrt.beam.physics.water.broad_beam import transport
from ionrt.ions import ELEMENTS, IONS, ISOTOPES, in_words
from ionrt.quantities import LET_DEFINITIONS

Panels = dict[str, dict[str, xr.DataArray]]
Points = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]

LET_WORDS = dict(zip(LET_DEFINITIONS, ("primary ions", "all charged", "all charged, with target fragments"), strict=True))
EXAMPLES = {"p": 150.0, "He": 150.0, "C": 400.0, "O": 300.0, "Ne": 350.0}  # MeV/u, beams that references exist for
WATER_FROM_CARBON = 1.13  # oxygen over carbon: cross section of a molecule = 2 x hydrogen + 1.13 x carbon
_NAMES = ("hydrogen", "helium", "lithium", "beryllium", "boron", "carbon", "nitrogen", "oxygen", "fluorine", "neon")
ELEMENT_NAMES = dict(zip(ELEMENTS, _NAMES, strict=True))
NBSP = "\N{NO-BREAK SPACE}"
SUBJECTS: dict[Callable[[], Iterable[val.Line]], str] = {
    val.stopping_lines: "stopping power and range",
    val.haettner_lines: "carbon 400 MeV/u, measured (Haettner)",
    val.monte_carlo_lines: "dose and survival, Geant4",
    val.let_lines: "LETd",
    val.numerical_lines: "numerical",
    val.lateral_lines: "lateral spread",
}
NOT_VALIDATED = (
    "Depth dose of He, O and Ne: no open measurement",
    "LETd of C, O and Ne with target fragments: no open reference, only Geant4's share of the dose (two lines above)",
    "Build-up, tail and fragments of O and Ne in thick water: no open reference",
    "Lateral halo of He, O and Ne: no open reference",
    "Effective LET of recoils: no measurement",
)


def example(ion: str, energy: float | None = None, *, behind: float = 60.0, step: float = 0.5) -> xr.Dataset:
    """`transport` of the example beam of an ion, down to `behind` mm after its range."""
    energy = energy or EXAMPLES[ion]
    reach = float(csda_range(ion, energy)[0])
    return transport(ion, energy, depth=np.arange(0.0, reach + behind, step), energy_spread=0.001)


def _title(beam: xr.Dataset) -> str:
    unit = "MeV" if beam.attrs["ion"] == "p" else "MeV/u"
    name = in_words(beam.attrs["ion"])
    return f"{name[:1].upper()}{name[1:]}, {beam.attrs['energy']:.0f} {unit}"


def origin_panels(beams: Mapping[str, xr.Dataset]) -> Panels:
    """Per ion the depth dose and its parts by origin as shares of the peak; parts below 1e-4 are left out."""
    panels: Panels = {}
    for beam in beams.values():
        share = beam["dose_by_origin"] / beam["dose"].max()
        lines = {ELEMENT_NAMES.get(str(o), str(o)): share.sel(origin=o, drop=True) for o in share["origin"].values}
        lines = {"all": share.sum("origin")} | {name: da for name, da in lines.items() if float(da.max()) > 1e-3}
        panels[_title(beam)] = {name: da.where(da > 1e-4).rename("dose") for name, da in lines.items()}
    return panels


def reference_panels() -> tuple[Panels, Points]:
    """Depth doses that references exist for, shares of our peak: ours, Geant4's models, Haettner's points."""
    panels, points = {}, {}
    for ion, energy in val.MODELS:
        beam = example(ion, energy, behind=80.0)
        depth, dose = beam["depth"].values, beam["dose"].values.astype(float)
        start, peak, reach = dose[depth < 30].mean(), dose.max(), val.fall(depth, dose, 0.8)
        lines = {"ionrt": (beam["dose"] / peak).rename("dose")}
        for model in val.MODELS[ion, energy]:
            data = val.geant4(ion, energy, model)
            z, theirs = data["depth"].to_numpy(), val.smooth(data["dose"].to_numpy())
            at, share = z - val.fall(z, theirs, 0.8) + reach, theirs * start / theirs[z < 30].mean() / peak
            seen = (at > 0) & (at < depth[-1])
            lines[f"Geant4 {model.upper()}"] = xr.DataArray(share[seen], coords={"depth": at[seen]}, name="dose")
        panels[_title(beam)] = lines
        if (ion, energy) == ("C", 400.0):
            data = val.haettner("ionisation")
            z, measured = data["depth"].to_numpy() - val.MEASURED_80 + reach, data["value"].to_numpy()
            scale = np.interp(z[:5], depth, dose).mean() / measured[:5].mean() / peak
            points[_title(beam)] = {"Haettner": (z, measured * scale)}
    return panels, points


def drawn(panels: Panels, points: Points) -> str:
    """What lies in a figure, for its caption: the names of lines, and of points as circles."""
    lines = dict.fromkeys(name for one in panels.values() for name in one)
    circles = dict.fromkeys(name for one in points.values() for name in one)
    return f"Lines: {', '.join(lines)}." + (f" Circles: {', '.join(circles)}." if circles else "")


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


def build_up_panels(beams: Mapping[str, xr.Dataset]) -> tuple[Panels, Points]:
    """Ions per primary by element against depth; for carbon those within 10 degrees, with the numbers counted there."""
    panels, points = {}, {}
    for ion, beam in beams.items():
        own = IONS[ion].charge
        number = beam["fluence"]
        if ion == "C":
            depth, cone = val.cone_numbers(10.0)
            at = {"depth": depth, "charge": beam["charge"].values}
            number = xr.DataArray(cone, at, attrs=number.attrs).isel(depth=slice(None, None, 5))
        lines = {
            ELEMENT_NAMES[e]: number.sel(charge=z, drop=True).rename("number") for z, e in enumerate(ELEMENTS[: own - 1], 1)
        }
        if not lines:
            continue
        title = _title(beam) + (", within 10 degrees" if ion == "C" else "")
        panels[title] = lines
        if ion == "C":
            rows = val.haettner("yield").groupby("element")
            points[title] = {ELEMENT_NAMES[e]: (val.nominal(r["depth"]), r["value"].to_numpy()) for e, r in rows}
    return panels, points


def let_panels(beams: Mapping[str, xr.Dataset]) -> Panels:
    """Per ion the dose-averaged LET under each definition, up to the range."""
    panels: Panels = {}
    for ion, beam in beams.items():
        let = beam["let_d"].sel(depth=slice(None, float(csda_range(ion, beam.attrs["energy"])[0])))
        lines = {d: let.sel(let_definition=d, drop=True).drop_attrs().assign_attrs(let_definition=d) for d in LET_DEFINITIONS}
        panels[_title(beam)] = {LET_WORDS[d]: da for d, da in lines.items()}
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


def verdicts(sections: Iterable[Callable[[], Iterable[val.Line]]] = val.SECTIONS) -> pd.DataFrame:
    """Every line of the validation by subject with pass or miss, then what is not validated."""
    rows: list[dict[str, str]] = []
    for section in sections:
        for line in section():
            rows.append(
                {
                    "subject": SUBJECTS[section],
                    "line": f"{line.name} [{line.of.replace(' ', NBSP)}]" if line.of else line.name,
                    "reference": _number(line.reference),
                    "ours": _number(line.ours),
                    "difference": f"{line.measured:.2f}{NBSP}{line.unit}".strip(),
                    "target": f"{line.target:g}{NBSP}{line.unit}".strip(),
                    "verdict": "pass" if line.reached else "MISS",
                }
            )
    blank = dict.fromkeys(("reference", "ours", "difference", "target"), "")
    rows += [{"subject": "no open reference", "line": t} | blank | {"verdict": "not validated"} for t in NOT_VALIDATED]
    return pd.DataFrame(rows).set_index(["subject", "line"])


def tally(table: pd.DataFrame) -> pd.DataFrame:
    """How many lines of `verdicts` pass, miss or cannot be validated, by subject and in all."""
    counts = table.groupby("subject", sort=False)["verdict"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=["pass", "MISS", "not validated"], fill_value=0).reindex(table.index.unique("subject"))
    return pd.concat([counts, counts.sum().to_frame("all").T]).rename_axis("subject")


def _number(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else ""


def cross_sections() -> pd.DataFrame:
    """Measured total cross sections of our ions on H, C, O and water (mb), ours beside them and the residual in per cent."""
    data = val.read("total_cross_sections")
    data = data[data["target"].isin(["H", "C", "O", "H2O"]) & (data["energy"] >= 30)]
    known = {"charge-changing": charge_changing, "reaction": reaction}
    ours = [float(known[r.kind](IONS[r.ion], r.target, np.array([r.energy]))[0]) for r in data.itertuples()]
    return _with_residual(data, ["ion", "target", "kind"], ours)


def partial_cross_sections() -> pd.DataFrame:
    """Elemental production in water (mb per molecule), measured or from H and C of one experiment, ours and the residual."""
    rows, keys = [], ["ion", "element", "energy", "entry", "accept_half_angle"]
    for (ion, element, energy, entry, _), group in val.read("partial_cross_sections").groupby(keys, dropna=False):
        by = group.groupby("target")[["value", "error"]].mean()
        if "H2O" in by.index:
            basis, value, error = "water", by.value["H2O"], by.error["H2O"]
        elif {"H", "C"} <= set(by.index):
            basis, value = "H and C", 2 * by.value["H"] + WATER_FROM_CARBON * by.value["C"]
            error = np.hypot(2 * by.error["H"], WATER_FROM_CARBON * by.error["C"])
        else:
            continue
        rows.append((ion, element, basis, entry, energy, value, error))
    data = pd.DataFrame(rows, columns=["ion", "fragment", "basis", "EXFOR", "energy", "value", "error"])
    ours = [element_production(r.ion, r.fragment, r.energy) for r in data.itertuples()]
    return _with_residual(data, ["ion", "fragment", "basis", "EXFOR"], ours)


def _with_residual(data: pd.DataFrame, labels: list[str], ours: list[float]) -> pd.DataFrame:
    columns = {"energy": "energy [MeV/u]", "value": "measured [mb]", "error": "error [mb]"}
    table = data[[*labels, *columns]].rename(columns=columns)
    table["ours [mb]"] = ours
    table["residual [%]"] = 100 * (table["ours [mb]"] / table["measured [mb]"] - 1)
    return table.sort_values([*labels[:3], "energy [MeV/u]"])


def element_production(ion: str, element: str, energy: float) -> float:
    """Our production of an element in water, mb per molecule."""
    isotope = IONS[ion]
    made = {k: v for k, v in multiplicities(isotope.symbol).items() if ISOTOPES[k].charge == ELEMENTS.index(element) + 1}
    return sum(made.values()) * float(reaction(isotope, "H2O", np.array([energy]))[0])


def key_numbers() -> pd.DataFrame:
    """Peak depth, peak to entrance, LETd (charged) at 10 mm, sigma at half of the range; needs no references."""
    rows = {}
    for ion, energy in EXAMPLES.items():
        beam = example(ion)
        depth, dose = beam["depth"].values, beam["dose"].values
        rows[in_words(ion)] = {
            "energy [MeV/u]": energy,
            "peak at [mm]": depth[dose.argmax()],
            "peak to entrance": dose.max() / dose[depth < 10].mean(),
            "LETd at 10 mm [keV/µm]": float(beam["let_d"].sel(let_definition="charged").interp(depth=10.0)),
            "spread (sigma) at half the range [mm]": float(beam["sigma"].interp(depth=float(csda_range(ion, energy)[0]) / 2)),
        }
    return pd.DataFrame(rows).T.rename_axis("ion")
