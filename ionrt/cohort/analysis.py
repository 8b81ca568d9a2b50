"""From the six tables to the one table of an analysis: one row per patient, or per interval at risk."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ionrt.quantities import IonrtError

FROM_COURSE = [
    "treat_year", "modality", "rx_dose", "n_fractions", "rbe_model", "let_definition", "gtv_volume", "let_d_mean", "let_d_min",
    "let_d_d98", "rbe_model_original", "conversion",
]  # fmt: skip
CENTRES = ["refer_centre", "treat_centre", "followup_centre"]
FROM_PATIENT = ["origin", "indication", "age_band", "sex", "ecog", "prior_rt", *CENTRES]


def endpoint_table(tables: Mapping[str, pd.DataFrame], endpoint: str) -> pd.DataFrame:
    """One row per patient with an endpoint: time, code, and the covariates of patient and first course.

    Parameters
    ----------
    tables : as from `load`.
    endpoint : OS, LC, PFS, DM or bRFS.

    Returns
    -------
    DataFrame: pid, day [d], time [a], code (0 censored, 1 event, 2 competing), event (1 where code is 1), patient and course
    columns, and `log_gtv` (natural logarithm of cm3). `attrs` are those of the tables.

    Raises
    ------
    IonrtError
        Nobody has the endpoint.

    Examples
    --------
    >>> tables = ionrt.cohort.synthetic(20, seed=1)  # SYNTHETIC
    >>> deaths = ionrt.cohort.endpoint_table(tables, "OS")  # ready for `ionrt.outcome.kaplan_meier`
    >>> len(deaths), sorted(deaths["code"].unique().tolist())  # nothing competes with death
    (20, [0, 1])
    """
    event = tables["event"]
    rows = event.loc[event["endpoint"].eq(endpoint), ["pid", "day", "code", "cause"]]
    if rows.empty:
        raise IonrtError(f"nobody has endpoint {endpoint!r}; there are {', '.join(map(repr, event['endpoint'].unique()))}")
    out = _with_covariates(rows, tables)
    out.insert(2, "time", out["day"] / 365.25)
    out.insert(4, "event", out["code"].eq(1).astype("int64"))
    return out


def _with_covariates(rows: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    first = tables["course"].sort_values("start_day", kind="stable").drop_duplicates("pid")
    out = rows.merge(tables["patient"][["pid", *FROM_PATIENT]], on="pid", how="left", validate="many_to_one")
    out = out.merge(first[["pid", "cid", *FROM_COURSE]], on="pid", how="left", validate="many_to_one")
    out["log_gtv"] = np.log(out["gtv_volume"].astype("float64"))
    out.attrs = dict(tables["patient"].attrs)
    return out


def patient_table(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per patient: last day, death, and the covariates of patient and first course.

    Parameters
    ----------
    tables : as from `load`.

    Returns
    -------
    DataFrame: pid, last_day [d] (death or last contact), dead (0 or 1), patient and course columns, and `log_gtv`: what
    `ionrt.outcome.toxicity_times` needs beside the toxicity table.

    Raises
    ------
    IonrtError
        A patient has no follow-up: without it there is nothing to count against.

    Examples
    --------
    >>> tables = ionrt.cohort.synthetic(20, seed=1)  # SYNTHETIC
    >>> patients = ionrt.cohort.patient_table(tables)
    >>> len(patients), list(patients)[:3]
    (20, ['pid', 'last_day', 'dead'])
    """
    rows = tables["patient"][["pid"]].copy()
    last = rows["pid"].map(tables["followup"].groupby("pid")["day"].max())
    if last.isna().any():
        raise IonrtError(
            f"{int(last.isna().sum())} patients have no follow-up (first: {rows.loc[last.isna(), 'pid'].iloc[0]!r})"
        )
    death = tables["event"].query("endpoint == 'OS' and code == 1")["pid"]
    rows["last_day"], rows["dead"] = last.astype("int64"), rows["pid"].isin(death).astype("int64")
    return _with_covariates(rows, tables)


def metric_table(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Dose and LET metrics, one row per course: cid and one column per ``structure:metric:quantity:definition``, each in its
    own unit, so that a column never mixes two dose systems or LET definitions."""
    metric = tables["dose_metric"]
    definition = metric["rbe_model"].where(metric["quantity"].eq("rbe_dose"), metric["let_definition"]).fillna("")
    label = metric["structure"] + ":" + metric["metric"] + ":" + metric["quantity"] + ":" + definition
    return metric.assign(label=label.str.rstrip(":")).pivot(index="cid", columns="label", values="value").reset_index()


def handover(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Who referred, treated and follows up, and the time between the last contact there and the first contact here.

    Parameters
    ----------
    tables : as from `load`.

    Returns
    -------
    One row per patient: pid, the three centres, exchanged (bool), last_treating [d], first_followup [d] and gap [d] (missing
    where the follow-up centre never saw the patient, 0 where nobody was handed over).
    """
    patient, contact = tables["patient"], tables["followup"]
    out = patient[["pid", *CENTRES]].copy()
    out["exchanged"] = out["treat_centre"].ne(out["followup_centre"])
    centre = contact.merge(out, on="pid", how="inner")
    there, here = (centre[centre["centre"].eq(centre[c]) & centre["exchanged"]] for c in CENTRES[1:])
    first = here.groupby("pid")["day"].min()
    before = there[there["day"] <= there["pid"].map(first).fillna(np.inf)]
    out["last_treating"] = out["pid"].map(before.groupby("pid")["day"].max()).astype("float64").fillna(0.0)
    out["first_followup"] = out["pid"].map(first).astype("float64")
    out["gap"] = (out["first_followup"] - out["last_treating"]).where(out["exchanged"], 0.0)
    return out


def intervals_at_risk(tables: Mapping[str, pd.DataFrame], endpoint: str) -> pd.DataFrame:
    """Intervals in which a patient was under observation: the hand-over gap is left out, the rest is late entry.

    A patient handed over is at risk in (0, last contact there] and again in (first contact here, end]. An event inside the gap
    is neither counted nor is the time, so that the hazard is that of observed time; how many is in ``attrs["events_in_gap"]``.
    Where the only contact here is the event itself, there was no visit to enter at: the interval ends at the last contact
    there.

    Parameters
    ----------
    tables : as from `load`.
    endpoint : as in `endpoint_table`.

    Returns
    -------
    Its columns with start and stop [d] in place of day; one or two rows per patient, (start, stop] with code at stop.

    Raises
    ------
    IonrtError
        As `endpoint_table`.
    """
    rows = endpoint_table(tables, endpoint).drop(columns="time")
    gone = rows[["pid"]].merge(handover(tables), on="pid", how="left")
    last, first = gone["last_treating"].to_numpy(), gone["first_followup"].fillna(np.inf).to_numpy()
    day, code = rows["day"].to_numpy(dtype="float64"), rows["code"].to_numpy()
    apart = gone["exchanged"].to_numpy() & (first > last)
    reaches, enters = ~apart | (day <= last), apart & (day > first)
    early = rows.assign(start=0.0, stop=np.where(reaches, day, last), code=np.where(reaches, code, 0))
    early["event"] = early["code"].eq(1).astype("int64")
    late = rows.assign(start=first, stop=day)[enters]
    out = pd.concat([early[early["stop"] > 0], late], ignore_index=True).drop(columns="day")
    out = out.sort_values(["pid", "start"], ignore_index=True)
    out.attrs = {**rows.attrs, "events_in_gap": int((apart & (day > last) & (day <= first) & (code == 1)).sum())}
    return out
