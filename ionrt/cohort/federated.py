"""Summaries that travel instead of rows, and the meta-analysis that puts them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ionrt import __version__
from ionrt.cohort.analysis import endpoint_table
from ionrt.cohort.safe import MIN_CELL, safe_table
from ionrt.outcome import kaplan_meier, meta_analysis
from ionrt.quantities import IonrtError

FORMAT = "ionrt.cohort.summary/1"
EFFECT_COLUMNS = ("term", "estimate", "se", "n", "events")
DEFINITIONS = ("rbe_model", "let_definition")


def summary(
    tables: Mapping[str, pd.DataFrame],
    *,
    site: str,
    effects: pd.DataFrame | None = None,
    horizons: Sequence[float] = (1.0, 2.0, 3.0, 5.0),
    min_cell: int = MIN_CELL,
) -> dict[str, Any]:
    """What a site exports instead of rows: counts, survival, event rates and effects without small cells; JSON-safe.

    tables : as from `load`; site : name of the site; effects : fitted effects to be pooled, one row per term with term,
    estimate, se (log hazard or odds ratios), n, events, and rbe_model or let_definition where the term depends on it;
    horizons : times [a] of the Kaplan-Meier estimates; min_cell : smallest count.
    Returns a dict of plain numbers and text (`json.dumps` takes it): format, site, origin, n, rbe_model, let_definition,
    patients (indication by sex, suppressed), survival and rates per indication and endpoint, effects (sizes rounded down to
    multiples of `min_cell`), notes on what is too small. Nothing comes from fewer than `min_cell` patients, events or
    event-free patients. Raises IonrtError for malformed effects and for a cohort below `min_cell`.
    Survival: Kaplan and Meier 1958, doi 10.1080/01621459.1958.10501452.
    """
    patient, course = tables["patient"], tables["course"]
    n, notes = len(patient), []
    if n < min_cell:
        raise IonrtError(f"a cohort of fewer than {min_cell} patients has no summary that protects them")
    survival, rates = [], []
    for endpoint in tables["event"]["endpoint"].unique():
        rows = endpoint_table(tables, endpoint)
        for indication, group in rows.groupby("indication", sort=True):
            label = {"indication": str(indication), "endpoint": str(endpoint)}
            curve, counted = _survival(group, horizons, min_cell)
            survival += [label | s for s in curve]
            rates += [label | r for r in _rate(group, counted, min_cell)]
    for indication, size in patient["indication"].value_counts().items():
        if size < 2 * min_cell:
            notes.append(f"{indication}: too few patients for any result with min_cell = {min_cell}")
    counts = safe_table(pd.crosstab(patient["indication"], patient["sex"]), min_cell, totals=True)
    return {
        "format": FORMAT,
        "ionrt_version": __version__,
        "site": site,
        "origin": str(patient["origin"].iloc[0]),
        "min_cell": min_cell,
        "n": n,
        **{d: sorted(map(str, course[d].dropna().unique())) for d in DEFINITIONS},
        "patients": [
            {"indication": str(i), "sex": str(s), "n": None if pd.isna(v) else int(v)} for (i, s), v in counts.stack().items()
        ],
        "survival": survival,
        "rates": rates,
        "effects": _effects(effects, min_cell, notes),
        "notes": notes,
    }


def _survival(group: pd.DataFrame, horizons: Sequence[float], min_cell: int) -> tuple[list[dict[str, Any]], int]:
    """Kaplan-Meier at the horizons, with at least `min_cell` events since the last one shown and as many at risk; events."""
    day, event = group["day"].to_numpy(dtype=float), group["event"].to_numpy()
    out, shown = [], 0
    for horizon in sorted(horizons):
        before = int(event[day <= horizon * 365.25].sum())
        at_risk = int((day > horizon * 365.25).sum())
        if before - shown < min_cell or at_risk < min_cell:
            continue
        row = kaplan_meier(group, "day", "event", at=[horizon * 365.25]).iloc[0]
        s = float(row["survival"])
        if not 0 < s < 1:
            continue
        se = float(row["se"]) / (s * -np.log(s))  # of log(-log S)
        out.append({"years": float(horizon), "cloglog": round(float(np.log(-np.log(s))), 3), "se": round(se, 3)})
        shown = before
    return out, shown


def _rate(group: pd.DataFrame, counted: int, min_cell: int) -> list[dict[str, Any]]:
    """Log event rate per year; the number of events is its precision and therefore known.

    `counted` events stand before the last survival shown: what is left after it must not be a small count either.
    """
    events, n = int(group["event"].sum()), len(group)
    if events < min_cell or n - events < min_cell or 0 <= events - counted < min_cell:
        return []
    rate = events / float(group["time"].sum())
    return [{"events": events, "log_rate": round(float(np.log(rate)), 4), "se": round(events**-0.5, 4)}]


def _effects(effects: pd.DataFrame | None, min_cell: int, notes: list[str]) -> list[dict[str, Any]]:
    if effects is None:
        return []
    missing = [c for c in EFFECT_COLUMNS if c not in effects]
    if missing:
        raise IonrtError(f"effects: columns {', '.join(missing)} are missing; needed are {', '.join(EFFECT_COLUMNS)}")
    if not (np.isfinite(effects[["estimate", "se"]].to_numpy(dtype=float)).all() and (effects["se"] > 0).all()):
        raise IonrtError("effects: estimate and se must be finite and se positive; leave out terms that did not converge")
    out = []
    for row in effects.to_dict("records"):
        if row["events"] < min_cell or row["n"] - row["events"] < min_cell:
            notes.append(f"effect {row['term']}: too few events for min_cell = {min_cell}")
            continue
        definitions = {d: str(row[d]) for d in DEFINITIONS if not pd.isna(row.get(d))}
        # exact numbers could be subtracted from those of the indications
        rounded = {c: int(row[c] // min_cell * min_cell) for c in ("n", "events")}
        numbers = {"estimate": float(row["estimate"]), "se": float(row["se"]), **rounded}
        out.append({"term": str(row["term"]), **numbers, **definitions})
    return out


def combine(summaries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Random-effects meta-analysis of the sites' summaries; the rows stay where they are.

    DerSimonian-Laird: weights 1 / (se^2 + tau^2), tau^2 from Cochran's Q.
    summaries : dicts from `summary` (also read back from JSON). Returns one row per result: kind (survival, rate, effect),
    term, indication, endpoint, years [a], sites, estimate, se, lower, upper (95 %, normal), tau2, i2 [%], q. Survival is
    pooled as log(-log S) and shown as S (se stays on that scale), rates as logarithms and shown per year, effects as given.
    One site alone passes through with tau2 = 0. Raises IonrtError for other formats, for SYNTHETIC beside clinical, and for
    one term under two dose systems or LET definitions. Reference: DerSimonian and Laird 1986,
    doi 10.1016/0197-2456(86)90046-2.
    """
    if not summaries:
        raise IonrtError("combine: expected at least one summary")
    formats = {s.get("format") for s in summaries}
    if formats != {FORMAT}:
        raise IonrtError(f"combine: expected format {FORMAT}, got {', '.join(map(repr, formats))}")
    origins = {s["origin"] for s in summaries}
    if len(origins) > 1:
        raise IonrtError("combine: one summary is SYNTHETIC and another clinical; they cannot be pooled")
    _refuse_two_meanings(summaries)
    rows = []
    for key, values in _collected(summaries).items():
        kind, term, indication, endpoint, years = key
        result = _dersimonian_laird(np.array([v[0] for v in values]), np.array([v[1] for v in values]))
        rows.append(
            {"kind": kind, "term": term, "indication": indication, "endpoint": endpoint, "years": years, **_shown(kind, result)}
        )
    columns = [
        "kind",
        "term",
        "indication",
        "endpoint",
        "years",
        "sites",
        "estimate",
        "se",
        "lower",
        "upper",
        "tau2",
        "i2",
        "q",
    ]
    out = pd.DataFrame(rows, columns=columns)
    out.attrs = {"origin": next(iter(origins)), "sites": [s["site"] for s in summaries]}
    return out


def _refuse_two_meanings(summaries: Sequence[Mapping[str, Any]]) -> None:
    for definition in DEFINITIONS:
        seen: dict[str, set[str]] = {}
        for site in summaries:
            for effect in site["effects"]:
                seen.setdefault(effect["term"], set()).add(effect.get(definition, ""))
        for term, values in seen.items():
            if len(values) > 1:
                named = ", ".join(sorted(v or "not stated" for v in values))
                raise IonrtError(f"combine: {term} was estimated under different {definition}: {named}; refit under one")


def _collected(summaries: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], list[tuple[float, float]]]:
    """(estimate, se) of every site per result."""
    out: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for site in summaries:
        for s in site["survival"]:
            out.setdefault(("survival", "S", s["indication"], s["endpoint"], s["years"]), []).append((s["cloglog"], s["se"]))
        for r in site["rates"]:
            out.setdefault(("rate", "events per year", r["indication"], r["endpoint"], np.nan), []).append(
                (r["log_rate"], r["se"])
            )
        for e in site["effects"]:
            out.setdefault(("effect", e["term"], "", "", np.nan), []).append((e["estimate"], e["se"]))
    return out


def _dersimonian_laird(estimate: np.ndarray, se: np.ndarray) -> dict[str, float]:
    if estimate.size == 1:
        return {"sites": 1, "estimate": float(estimate[0]), "se": float(se[0]), "tau2": 0.0, "i2": 0.0, "q": 0.0}
    row = meta_analysis(pd.DataFrame({"estimate": estimate, "se": se}), method="DL").iloc[0]
    return {"sites": estimate.size, **{c: float(row[c]) for c in ("estimate", "se", "tau2", "i2", "q")}}


def _shown(kind: str, result: Mapping[str, float]) -> dict[str, float]:
    """The pooled result on the scale people read."""
    low, high = result["estimate"] - 1.959963985 * result["se"], result["estimate"] + 1.959963985 * result["se"]
    scale = {"survival": lambda x: float(np.exp(-np.exp(x))), "rate": lambda x: float(np.exp(x)), "effect": float}[kind]
    ends = sorted((scale(low), scale(high)))
    return {**result, "estimate": scale(result["estimate"]), "lower": ends[0], "upper": ends[1]}
