"""A plan as a planning system judges it: indices of targets and organs, goals of the course with pass or fail."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.evaluate.histograms import dose_at_volume, mean_value, statistics
from ionrt.evaluate.sampling import GRID, Structures, kept_attrs, labelled_structures, quantity_of, voxel_volume
from ionrt.patient.reading.frames import check_frame
from ionrt.quantities import QUANTITIES, IonrtError, check_same_grid, number_in, one_of, stamp

NUMBER = r"(\d+(?:\.\d+)?)"
GOAL = re.compile(
    rf"(?P<structure>.+?)\s+(?P<metric>D{NUMBER}(?:%|cc)?|Dmean|V{NUMBER}%?)\s*(?P<sign><=|>=|≤|≥)\s*(?P<level>{NUMBER})\s*(?P<unit>.*)"
)


def homogeneity(da: xr.DataArray, target: xr.DataArray) -> xr.DataArray:
    r"""Homogeneity index :math:`(D_{2\%} - D_{98\%}) / D_{50\%}`; 0 is a uniform dose.

    ICRU Report 83, eq. 3.8, doi 10.1093/jicru/ndq002.
    """
    d = dose_at_volume(da, target, percent=(2.0, 50.0, 98.0))
    hot, middle, cold = (d.sel(percent=p, drop=True) for p in (2.0, 50.0, 98.0))
    return stamp((hot - cold) / middle.where(middle > 0), "homogeneity_index", **kept_attrs(d))


def conformity(da: xr.DataArray, target: xr.DataArray, *, prescription: float, percent: float = 95.0) -> xr.DataArray:
    r"""Paddick's conformity index :math:`TV_{PI}^2 / (TV \cdot PI)`; 1 is perfect, 0 a miss.

    TV is the volume of the target, PI the volume with at least `percent` of the prescription, TV_PI their intersection.
    Paddick, J. Neurosurg. 93 Suppl 3 (2000) 219, doi 10.3171/jns.2000.93.supplement_3.0219.
    """
    if not prescription > 0:
        raise IonrtError(f"prescription: expected a positive value, got {prescription}")
    da, _ = quantity_of(da)
    if isinstance(target, xr.Dataset):
        raise IonrtError(
            "conformity: expected volume fractions on the dose's grid, e.g. regrid(patient, ...)['structures'], got a Dataset"
        )
    target = labelled_structures(target)
    check_same_grid(da, target, what="dose and target")
    check_frame(target, da, what="the dose", quiet=True)
    volume = xr.DataArray(voxel_volume(da), dims=GRID)
    covered = da >= prescription * percent / 100.0
    both = (target * covered * volume).sum(GRID, dtype=float)
    whole = (target * volume).sum(GRID, dtype=float) * (covered * volume).sum(GRID, dtype=float)
    return stamp(both**2 / whole.where(whole > 0), "conformity_index", **kept_attrs(da), isodose_percent=percent)


def integral_dose(da: xr.DataArray, structures: xr.DataArray) -> xr.DataArray:
    r"""Integral dose :math:`\sum_i w_i D_i V_i`, mean times volume, per structure; density is taken as that of water.

    Parameters
    ----------
    da : ``dose`` [Gy] or ``rbe_dose`` [Gy (RBE)] on (..., z, y, x).
    structures : volume fractions, e.g. the body outline, or what of it lies outside the target.

    Returns
    -------
    DataArray ``integral_dose`` [Gy L] or ``integral_rbe_dose`` [Gy (RBE) L] (..., structure), of the part inside the grid of
    `da`; an empty structure is NaN. The two rank ions differently: a heavier ion needs less physical dose.

    Raises
    ------
    IonrtError
        A quantity that is no dose, NaN, grids that differ.

    Examples
    --------
    >>> centre = [0.0, 100.0]  # mm: eight voxels of 1 L, SYNTHETIC
    >>> dose = xr.DataArray(np.full((2, 2, 2), 5.0), {"z": centre, "y": centre, "x": centre}, ["z", "y", "x"], "dose")  # Gy
    >>> ionrt.evaluate.integral_dose(dose, xr.ones_like(dose)).round(3).values.tolist()  # 5 Gy in 8 L [Gy L]
    [40.0]
    """
    da, name = quantity_of(da)
    named = {"dose": "integral_dose", "rbe_dose": "integral_rbe_dose"}
    one_of(name, list(named), what="integral_dose: quantity")
    mean = mean_value(da, structures)
    litres = 1e-3 * mean["volume"] * (1.0 - mean["outside"])
    return stamp(mean * litres, named[name], **kept_attrs(da))


def plan_quality(
    da: xr.DataArray, structures: Structures, *, target: str, prescription: float, on_grid: xr.DataArray | None = None
) -> pd.DataFrame:
    r"""Indices of ICRU Report 83 for every structure (rows), of the dose as it is given: per fraction or of a course.

    D98, D95, D50, D2, Dmean, D0.03cc; for the target V95 (share [%] with at least 95 % of the prescription), the homogeneity
    index :math:`(D_{2\%}-D_{98\%})/D_{50\%}` and, with `on_grid`, Paddick's conformity index at 95 %.

    Parameters
    ----------
    da : ``dose`` [Gy] or ``rbe_dose`` [Gy (RBE)] on (..., z, y, x).
    structures : as in `ionrt.dvh`; the Dataset of `read_dicom` or fractions.
    target : the structure that is prescribed to.
    prescription : in the unit of `da`, of the same fraction or course.
    on_grid : fractions of the target (z, y, x) on the grid of `da`, for the conformity index.

    Returns
    -------
    DataFrame, one row per (ion, ...) and structure; columns D98, D95, D50, D2, Dmean, D0.03cc in the unit of `da`
    (``attrs["units"]``), V95 [%], HI, CI. NaN where an index has no meaning.

    Raises
    ------
    IonrtError
        A prescription that is not positive or a quantity that is no dose.

    References
    ----------
    ICRU Report 83 (2010), doi 10.1093/jicru/ndq002; Paddick 2000, doi 10.3171/jns.2000.93.supplement_3.0219.
    """
    if not prescription > 0:
        raise IonrtError(f"prescription: expected a positive value, got {prescription}")
    da, name = quantity_of(da)
    if name not in ("dose", "rbe_dose"):
        raise IonrtError(f"plan_quality: expected a dose or an RBE-weighted dose, got {name}")
    found = statistics(da, structures, percent=(98, 95, 50, 2), cc=(0.03,), dose=(0.95 * prescription,))
    made = pd.DataFrame(
        {k: found[f"{k}%"] for k in ("D98", "D95", "D50", "D2")} | {"Dmean": found["mean"], "D0.03cc": found["D0.03cc"]}
    )
    names = found.index.get_level_values("structure") if found.index.nlevels > 1 else found.index
    mine = np.asarray(names == target)
    made["V95"] = found[f"V{0.95 * prescription:g}"].where(mine)
    made["HI"] = ((made["D2"] - made["D98"]) / made["D50"].where(made["D50"] > 0)).where(mine)
    made["CI"] = np.nan
    if on_grid is not None:
        index = conformity(da, on_grid, prescription=prescription).values.ravel()
        made.loc[mine, "CI"] = index
    made.attrs = dict(found.attrs)
    return made


@dataclass(frozen=True)
class Goal:
    """One clinical goal of the course: ``metric`` of a structure at most (``<=``) or at least (``>=``) ``level``.

    `metric`: Dmean, D<n>%, D<n>cc [dose], V<n> [% of the volume with n Gy], V<n>% [with n % of the prescription]; a dose level
    in Gy (RBE) or, `relative`, in % of the prescription.
    """

    structure: str
    metric: str
    sign: str
    level: float
    relative: bool

    def __str__(self) -> str:
        unit = "%" if self.relative or self.metric.startswith("V") else "Gy (RBE)"
        return f"{self.structure} {self.metric} {'≤' if self.sign == '<=' else '≥'} {self.level:g} {unit}"


def read_goal(text: str) -> Goal:
    """A goal from its words: ``CTV D95% >= 95 %``, ``Rectum Dmean <= 30 Gy``, ``Rectum V40 <= 20 %``."""
    match = GOAL.fullmatch(str(text).strip())
    if not match:
        raise IonrtError(
            f"goal: {text!r} cannot be read; expected e.g. 'CTV D95% >= 95 %', 'Rectum D2% <= 50 Gy', 'Rectum V40 <= 20 %'"
        )
    unit = match["unit"].strip()
    metric = match["metric"]
    if unit not in ("%", "Gy", "Gy (RBE)", "Gy(RBE)") or (metric.startswith("V") and unit != "%"):
        raise IonrtError(f"goal: {text!r}: expected a level in % or Gy (volumes in %), got {unit or 'no unit'}")
    metric = metric + "%" if re.fullmatch(r"D\d+(\.\d+)?", metric) else metric
    sign = {"≤": "<=", "≥": ">="}.get(match["sign"], match["sign"])
    return Goal(match["structure"], metric, sign, float(match["level"]), unit == "%" and not metric.startswith("V"))


def judge(
    da: xr.DataArray, structures: Structures, goals: Sequence[str | Goal], *, prescription: float, fractions: int = 1
) -> pd.DataFrame:
    """Goals of the course with the value reached and whether it is met; one row per goal (and ion ...).

    Parameters
    ----------
    da : ``rbe_dose`` [Gy (RBE)] or ``dose`` [Gy] per fraction on (..., z, y, x).
    structures : as in `ionrt.dvh`.
    goals : words as in `read_goal`, of the course.
    prescription : per fraction, in the unit of `da`.
    fractions : of the course (1: `da` is the course's).

    Returns
    -------
    DataFrame with the index (..., goal) and the columns ``reached`` (in the goal's own unit) and ``met`` ("met", "NOT met", or
    why it cannot be said).

    Raises
    ------
    IonrtError
        A goal that cannot be read, a structure that does not exist, a prescription that is not positive.

    Examples
    --------
    >>> half = [[[60.0, 50.0]] * 2] * 2  # Gy, SYNTHETIC: one half of a cube of 6 mm at 60, the other at 50
    >>> dose = xr.DataArray(half, {"z": [0.0, 3.0], "y": [0.0, 3.0], "x": [0.0, 3.0]}, ["z", "y", "x"], "dose")
    >>> ctv = xr.ones_like(dose)

    >>> goals = ["CTV D98% >= 95 %", "CTV D2% <= 107 %"]
    >>> table = ionrt.evaluate.judge(dose, ctv.expand_dims(structure=["CTV"]), goals, prescription=60.0)  # Gy
    >>> table["reached"].round(1).tolist(), table["met"].tolist()  # 50 and 60 Gy of 60
    ([83.3, 100.0], ['NOT met', 'met'])
    """
    prescription = number_in(prescription, "judge: prescription", 1e-6, 1e6)
    fractions = int(number_in(fractions, "judge: fractions", 1, 1000))
    if isinstance(goals, str) or not isinstance(goals, Sequence):
        raise IonrtError(f"goals: expected a list of goals such as 'CTV D95% >= 95 %', got {goals!r:.80}")
    wanted = [g if isinstance(g, Goal) else read_goal(g) for g in goals]
    da, name = quantity_of(da)
    known = [str(s) for s in structures["structure"].values]
    parts = []
    for goal in wanted:
        if goal.structure not in known:
            raise IonrtError(f"goal {goal}: no structure {goal.structure!r}; there are {', '.join(known)}")
        mine, number = structures.sel(structure=[goal.structure]), float(re.sub(r"[^\d.]", "", goal.metric) or 0)
        if goal.metric == "Dmean":
            column, asked = "mean", {}
        elif goal.metric.startswith("V"):
            at = prescription * number / 100.0 if goal.metric.endswith("%") else number / fractions
            column, asked = f"V{at:g}", {"dose": (at,)}
        else:
            kind = "cc" if goal.metric.endswith("cc") else "percent"
            column, asked = goal.metric, {kind: (number,)}
        found = statistics(da, mine, **({"percent": (), "cc": (), "dose": ()} | asked))[column]
        if not goal.metric.startswith("V"):
            found = 100.0 * found / prescription if goal.relative else found * fractions
        met = found <= goal.level if goal.sign == "<=" else found >= goal.level
        words = [("met" if m else "NOT met") if np.isfinite(v) else "no volume" for v, m in zip(found, met, strict=True)]
        one = pd.DataFrame({"goal": str(goal), "reached": found.to_numpy(), "met": words}, index=found.index)
        parts.append(one.reset_index().drop(columns="structure"))
    if not parts:
        return pd.DataFrame(columns=["reached", "met"]).rename_axis("no goal was given")
    made = pd.concat(parts, ignore_index=True)
    made = made.set_index(["goal", *[c for c in made.columns if c not in ("goal", "reached", "met")]])
    made.attrs = {"units": QUANTITIES[name].unit}
    return made
