"""A plan as a planning system judges it: indices of targets and organs, goals of the course with pass or fail."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.evaluate.histograms import statistics
from ionrt.evaluate.indices import conformity
from ionrt.evaluate.sampling import Structures, quantity_of
from ionrt.quantities import QUANTITIES, IonrtError, number_in

NUMBER = r"(\d+(?:\.\d+)?)"
GOAL = re.compile(
    rf"(?P<structure>.+?)\s+(?P<metric>D{NUMBER}(?:%|cc)?|Dmean|V{NUMBER}%?)\s*(?P<sign><=|>=|≤|≥)\s*(?P<level>{NUMBER})\s*(?P<unit>.*)"
)


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
