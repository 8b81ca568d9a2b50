"""Two centres, one cohort: conversions between dose systems, pooling that refuses, and the hand-over of follow-up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ionrt.cohort.schema import Tables, validate
from ionrt.quantities import IonrtError, one_of


@dataclass(frozen=True)
class Conversion:
    """An explicit conversion of prescriptions from one dose system (or LET definition) to another.

    name, reference : what it is called and where it comes from (both are needed and travel with the product);
    column : ``rbe_model`` or ``let_definition``; source, target : values of that column; per_fraction : function of the
    value per fraction [Gy (RBE)] (of the LET [keV/um] for ``let_definition``) that returns the converted one;
    valid : (low, high) of its argument; indications : where it was established (empty: everywhere);
    uncertainty : relative standard uncertainty of the result.
    """

    name: str
    reference: str
    source: str
    target: str
    per_fraction: Callable[[np.ndarray], np.ndarray]
    valid: tuple[float, float]
    column: str = "rbe_model"
    indications: tuple[str, ...] = ()
    uncertainty: float | None = None

    def __post_init__(self) -> None:
        if not (self.name.strip() and self.reference.strip()):
            raise IonrtError("a conversion needs a name and a reference; they travel with the product")
        one_of(self.column, ("rbe_model", "let_definition"), what=f"conversion {self.name}: column")
        low, high = self.valid
        if not (np.isfinite([low, high]).all() and 0 < low <= high):
            raise IonrtError(f"conversion {self.name}: valid needs two finite positive limits, got {self.valid}")


CONVERSIONS = {
    c.name: c
    for c in (
        Conversion(
            name="LEM_I to NIRS_MMKM, Zhang 2020",
            reference="doi 10.1186/s13014-020-01723-z (20 recurrent nasopharynx plans, same physical dose recalculated)",
            source="LEM_I",
            target="NIRS_MMKM",
            per_fraction=lambda lem: lem / np.interp(lem, [2.70, 3.00], [1.46, 1.37]),
            valid=(2.70, 3.00),
            indications=("head_neck",),
            uncertainty=0.02,
        ),
        Conversion(
            name="NIRS_KANAI to LEM_I, Fossati 2012",
            reference="doi 10.1088/0031-9155/57/22/7543 (opposed beams, +0.45 +- 0.09 Gy (RBE) per fraction)",
            source="NIRS_KANAI",
            target="LEM_I",
            per_fraction=lambda nirs: nirs + 0.45,
            valid=(3.6, 4.4),
            uncertainty=0.02,
        ),
    )
}


def pool(
    a: Mapping[str, pd.DataFrame],
    b: Mapping[str, pd.DataFrame],
    conversion: Conversion | str | Sequence[Conversion | str] | None = None,
) -> Tables:
    """One cohort out of two; refuses to mix dose systems or LET definitions without an explicit conversion.

    Parameters
    ----------
    a, b : tables as from `load`.
    conversion : one or several `Conversion` (or names in `CONVERSIONS`), applied to the courses of its source system. It
        converts prescriptions only, a labelled fallback: recalculation from physical dose is better.

    Returns
    -------
    Validated tables. Converted courses keep `rx_verbatim` and carry `rx_dose_original`, `rbe_model_original` and `conversion`;
    `attrs["conversion"]` has names, references and validity, `attrs["linked_patients"]` the number of patients in both
    (identical rows are taken once). `dose_metric` rows keep their own label: a volume above a dose cannot be converted.

    Raises
    ------
    IonrtError
        Systems differ, a course lies outside the validity of the conversion, SYNTHETIC meets clinical rows, or consent covers
        the site only; CohortError where the two disagree about a patient.
    """
    left, right = validate(a), validate(b)
    if len({o for t in (left, right) for o in t["patient"]["origin"].unique()}) > 1:
        raise IonrtError("one cohort is SYNTHETIC and the other clinical; they cannot be pooled")
    refuse_site_consent("pooling", left, right)
    linked = int(left["patient"]["pid"].isin(right["patient"]["pid"]).sum())
    tables = {name: pd.concat([left[name], right[name]], ignore_index=True).drop_duplicates(ignore_index=True) for name in left}
    return _with_one_meaning(tables, conversion, linked_patients=linked)


def harmonise(
    tables: Mapping[str, pd.DataFrame], conversion: Conversion | str | Sequence[Conversion | str] | None = None
) -> Tables:
    """The same demand on one cohort: every course under one dose system and one LET definition, or an error.

    Parameters
    ----------
    tables : as from `load`.
    conversion : as in `pool`.

    Returns
    -------
    Tables as of `pool`.

    Raises
    ------
    IonrtError
        As `pool`.
    """
    return _with_one_meaning(validate(tables), conversion)


def _with_one_meaning(
    tables: Tables, conversion: Conversion | str | Sequence[Conversion | str] | None, **said: object
) -> Tables:
    listed = [conversion] if isinstance(conversion, Conversion | str) else conversion or ()
    chosen = [c if isinstance(c, Conversion) else CONVERSIONS[one_of(c, tuple(CONVERSIONS), what="conversion")] for c in listed]
    for one in chosen:
        tables["course"] = _convert(tables["course"], tables["patient"], one)
    for column in ("rbe_model", "let_definition"):
        counts = tables["course"][column].value_counts()
        if len(counts) > 1:
            listing = ", ".join(f"{value} ({n} courses)" for value, n in counts.items())
            raise IonrtError(
                f"{column} differs between the courses: {listing}. They do not mean the same; recalculate one from physical"
                " dose, or pass conversion= with a Conversion (name, reference, validity range)"
            )
    used = [{"name": c.name, "reference": c.reference, "valid": list(c.valid), "uncertainty": c.uncertainty} for c in chosen]
    for table in tables.values():
        table.attrs = {**table.attrs, "conversion": used, **said}
    return validate(tables)


def refuse_site_consent(before: str, *cohorts: Mapping[str, pd.DataFrame]) -> None:
    """Raises where a patient of these tables consented to use at the site only."""
    if count := sum(int(t["patient"]["consent_scope"].eq("site").sum()) for t in cohorts):
        raise IonrtError(f"{count} patients consented to use at their site only; take them out before {before}")


def _convert(course: pd.DataFrame, patient: pd.DataFrame, conversion: Conversion) -> pd.DataFrame:
    """The courses with `conversion` applied; a course outside its validity is an error, never left as it was."""
    at = course[conversion.column].eq(conversion.source)
    if not at.any():
        raise IonrtError(f"conversion {conversion.name}: no course has {conversion.column} {conversion.source}")
    where = course["pid"].map(patient.set_index("pid")["indication"])
    foreign = at & ~where.isin(conversion.indications or where.unique())
    columns = ["rx_dose"] if conversion.column == "rbe_model" else ["let_d_mean", "let_d_min", "let_d_d98"]
    share = course["n_fractions"] if conversion.column == "rbe_model" else pd.Series(1, index=course.index)
    values = course[columns].div(share, axis=0)
    low, high = conversion.valid
    outside = at & ((values < low - 1e-9) | (values > high + 1e-9)).any(axis=1)
    if (foreign | outside).any():
        raise IonrtError(
            f"conversion {conversion.name} is valid for {low:g} to {high:g}"
            f" in {', '.join(conversion.indications) or 'every indication'}; {int(outside.sum())} courses lie outside the range"
            f" and {int(foreign.sum())} outside the indications (first: {course.loc[foreign | outside, 'cid'].iloc[0]});"
            " pool without them or recalculate them"
        )
    out = course.copy()
    if conversion.column == "rbe_model":
        out.loc[at, "rx_dose_original"] = course.loc[at, "rx_dose"]
        out.loc[at, "rbe_model_original"] = conversion.source
    for column in columns:
        converted = conversion.per_fraction(values.loc[at, column].to_numpy(dtype=float))
        out.loc[at, column] = converted * share[at].to_numpy()
    out.loc[at, conversion.column] = conversion.target
    before = out.loc[at, "conversion"]
    out.loc[at, "conversion"] = (before + "; " + conversion.name).where(before.notna(), conversion.name)
    return out


def select(tables: Mapping[str, pd.DataFrame], pids: Sequence[str] | pd.Series) -> Tables:
    """The tables of some patients, attributes kept; a pid that does not exist is an error."""
    keep = pd.Index(pids if isinstance(pids, pd.Series) else list(pids)).unique()
    unknown = keep[~keep.isin(tables["patient"]["pid"])]
    if len(unknown):
        raise IonrtError(f"{len(unknown)} of {len(keep)} patients are not in the cohort (first: {sorted(unknown)[0]!r})")
    cids = tables["course"].loc[tables["course"]["pid"].isin(keep), "cid"]
    out = {}
    for name, table in tables.items():
        at = table["cid"].isin(cids) if name == "dose_metric" else table["pid"].isin(keep)
        out[name] = table[at].reset_index(drop=True)
    return out


def split(tables: Mapping[str, pd.DataFrame], *, by: str = "treat_centre") -> dict[str, Tables]:
    """The tables of each centre.

    Parameters
    ----------
    tables : as from `load`.
    by : refer_centre, treat_centre, followup_centre or any column of `patient`.

    Returns
    -------
    Dict centre -> tables.

    Raises
    ------
    IonrtError
        An unknown column.

    Examples
    --------
    >>> tables = ionrt.cohort.synthetic(20, seed=1)
    >>> parts = ionrt.cohort.split(tables)
    >>> sum(len(p["patient"]) for p in parts.values())  # every patient has one treating centre
    20
    """
    by = one_of(by, tuple(tables["patient"]), what="split: by, a column of patient")
    return {str(value): select(tables, group["pid"]) for value, group in tables["patient"].groupby(by, sort=True)}
