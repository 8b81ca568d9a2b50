"""What the page of a received plan shows: their dose against ours, dose systems, target and organs, a page to sign."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.compare.cases import LET_ABOVE, mean_let
from ionrt.compare.received import Received
from ionrt.evaluate import dose_at_volume, gamma, statistics
from ionrt.evaluate.gamma_index import pass_rate
from ionrt.evaluate.histograms import mean_value
from ionrt.let import let_d
from ionrt.patient.names import is_external, is_target
from ionrt.quantities import IonrtError
from ionrt.rbe import DOSE_SYSTEMS, convert_prescription
from ionrt.rbe.systems import dose_in_system

CRITERIA = ((3.0, 3.0), (2.0, 2.0), (1.0, 1.0))  # percent of the maximum, mm
NEAR = 0.1  # relative: a ratio of doses this close to 1, or to the number of fractions, says which dose is which
SYSTEMS = {True: ("RBE-1.1",), False: ("NIRS-mMKM", "LEM-I")}  # of protons alone, of others


def gamma_table(received: Received, field: xr.Dataset) -> pd.DataFrame:
    """Our physical dose against theirs, of the plan and of each beam whose dose came.

    Parameters
    ----------
    received : with the doses that came.
    field : of `Received.recomputed`.

    Returns
    -------
    DataFrame: gamma pass rates [%] (global, above 10 % of the maximum), the median of ours / theirs where theirs is above half
    of its maximum, and what that says of what their dose is of.

    Raises
    ------
    IonrtError
        As of `ionrt.gamma`.
    """
    rows: dict[str, list[float | str]] = {}
    scaled = field.attrs["normalisation"].startswith("to the reference")
    for part, theirs in received.physical().items():
        dose = field["dose"].sum("beam", keep_attrs=True) if part == "plan" else field["dose"].sel(beam=part, drop=True)
        on_grid = dose.interp({d: theirs[d] for d in "zyx"}).fillna(0.0).astype(np.float32).assign_attrs(dose.attrs)
        theirs = theirs.astype(np.float32)
        rates = [100.0 * float(pass_rate(gamma(theirs, on_grid, dose_percent=p, distance_mm=d))) for p, d in CRITERIA]
        ratio = float((on_grid / theirs).where(theirs > 0.5 * float(theirs.max())).median())
        scope = "ours is scaled to it" if scaled else _scope(ratio, received.fractions, received.stated["dose_scope"])
        rows[part] = [*rates, ratio, scope]
    columns = [*(f"gamma {p:g} %/{d:g} mm [%]" for p, d in CRITERIA), "ours / theirs", "their dose"]
    none = {"plan": [np.nan] * (len(CRITERIA) + 1) + ["did not come"]}
    return pd.DataFrame.from_dict(rows or none, orient="index", columns=columns).rename_axis("of")


def _scope(ratio: float, fractions: int, stated: str) -> str:
    """What a dose is of, from our dose per fraction over theirs, taken as stated."""
    if abs(ratio - 1.0) < NEAR:
        return f"is of one {stated}, as stated"
    other, factor = ("course", 1.0 / fractions) if stated == "fraction" else ("fraction", float(fractions))
    if abs(ratio / factor - 1.0) < NEAR:
        return f"is of one {other}, and not of one {stated} as stated"
    return f"fits neither one fraction nor the course of {fractions}: ask what it is of"


def page_to_sign(received: Received, gammas: pd.DataFrame, normalisation: str) -> pd.DataFrame:
    """What was checked, with room for the names of those who judge it; research, no release of a plan.

    Parameters
    ----------
    received : of `receive`.
    gammas : of `gamma_table`.
    normalisation : what the recomputed dose rests on, attribute of `Received.recomputed`.

    Returns
    -------
    pd.DataFrame
    """
    status = received.checklist["status"]
    first, said = gammas.iloc[0], "; ".join(f"of {part}: {text}" for part, text in gammas["their dose"].items())
    agreed = "; ".join(f"{k} {v:.1f}" for k, v in first.items() if str(k).startswith("gamma") and np.isfinite(v))
    rows = {
        "plan": received.ion_plan.label,
        "checklist": f"{int((status == 'ok').sum())} found, {int((status == 'stated').sum())} stated by the receiver",
        "recomputed against theirs": agreed or "no dose came",
        "their dose": said,
        "dose rests on": normalisation,
        "may be used for": "research; not a release for treatment",
        "checked by (physicist), date": "",
        "seen by (physician), date": "",
    }
    return pd.DataFrame({"entry": rows}).rename_axis("item")


def organ_table(
    received: Received, field: xr.Dataset, structures: xr.DataArray, target: str, prescription: float
) -> pd.DataFrame:
    """Target and organs: D1 % and D20 % [Gy (RBE)] per fraction in the systems of the plan's ions, and LETd [keV/um].

    Mean LETd is weighted with dose; LETd counts where the physical dose is at least 2 % of the
    `prescription`.

    Parameters
    ----------
    received : of `receive`.
    field : of `Received.recomputed`, without ``beam``.
    structures : fractions (structure, z, y, x) on its grid.
    target : name.
    prescription : Gy (RBE) per fraction.

    Returns
    -------
    DataFrame, one row per structure.

    Raises
    ------
    IonrtError
        A field without the moments of a system.
    """
    names = [str(s) for s in structures["structure"].values]
    organs = structures.sel(structure=[target, *(n for n in names if not (is_target(n) or is_external(n)) and n != target)])
    let, dosed = let_d(field), field["dose"] >= LET_ABOVE * prescription
    parts: dict[str, pd.Series] = {}
    for system in SYSTEMS[received.protons]:
        found = statistics(dose_in_system(field, system), organs, percent=(1, 20))
        parts |= {f"{system} D{p} % [Gy (RBE)]": found[f"D{p}%"] for p in (1, 20)}
    parts["mean LETd [keV/µm]"] = mean_let(xr.Dataset({"dose": field["dose"], "let_d": let}), organs, dosed).to_pandas()
    parts["LETd in the hottest 2 % [keV/µm]"] = dose_at_volume(let.where(dosed), organs, percent=2.0).to_pandas()
    return pd.DataFrame(parts).rename_axis("structure")


def systems_table(
    received: Received, fields: Sequence[xr.Dataset], structures: xr.DataArray, target: str, prescription: float
) -> pd.DataFrame:
    """Mean RBE-weighted dose of the target per fraction in every dose system that one of the fields has the moments of (a field
    holds one parameter set per moment), beside what a published factor makes of the prescription in the sender's system.

    Parameters
    ----------
    received : of `receive`.
    fields : of `Received.recomputed`, with different parameter sets.
    structures : fractions (structure, z, y, x) on their grid.
    target : name.
    prescription : Gy (RBE) per fraction.

    Returns
    -------
    DataFrame, one row per dose system: the mean, what the literature makes of the prescription, a note.

    Raises
    ------
    IonrtError
        A target that does not exist.
    """
    part, rows = structures.sel(structure=[target]), {}
    for name, system in DOSE_SYSTEMS.items():
        mean, note = np.nan, system.note
        for one in fields if system.model else ():
            try:
                mean = float(mean_value(dose_in_system(one, name), part)[0])
                break
            except IonrtError as error:
                note = str(error)
        try:
            guess = convert_prescription(prescription, source=received.system, target=name).dose_per_fraction
        except IonrtError:
            guess = np.nan
        rows[name] = {"mean [Gy (RBE)]": mean, "by the literature [Gy (RBE)]": guess, "note": system.note if mean > 0 else note}
    return pd.DataFrame(list(rows.values()), index=pd.Index(rows, name="dose system"))
