"""Summaries that travel instead of rows, and the meta-analysis that puts them together.

A summary hides one patient also from somebody who holds two of them: see `docs/decisions/0170`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ionrt import __version__
from ionrt.cohort.doors import read_json
from ionrt.cohort.exchange import select
from ionrt.cohort.perturb import Noise
from ionrt.cohort.register import OvertakenError, Register
from ionrt.cohort.safe import MIN_CELL
from ionrt.cohort.schema import dictionary
from ionrt.cohort.summaries import DEFINITIONS, FORMATS, checked
from ionrt.outcome import kaplan_meier, meta_analysis
from ionrt.quantities import IonrtError

EFFECT_COLUMNS = ("term", "estimate", "se", "n", "events")
SPREAD = 0.6  # standard deviation of the noise of counts of events, in `min_cell` patients
INFLUENCE = 0.15  # that of effects, in `min_cell` times se / sqrt(events); one patient moves an effect by a quarter of it
LIMIT = 0.4  # mean of what a count has to have above `min_cell`


def summary(
    tables: Mapping[str, pd.DataFrame],
    *,
    site: str,
    effects: pd.DataFrame | None = None,
    horizons: Sequence[float] = (1.0, 2.0, 3.0, 5.0),
    min_cell: int = MIN_CELL,
    register: str | Path | None = None,
) -> dict[str, Any]:
    """What a site exports instead of rows: counts, survival, rates and effects in which no patient can be seen; JSON-safe.

    Every call is an export and is kept in the site's register. The numbers of an indication, or of a term, are made anew only
    if no sum or difference of all exports then rests on fewer than `min_cell` patients or 5 % of the group; else those of the
    earlier export stand again, digit by digit (a warning says which). New numbers carry noise of about 0.6 `min_cell` patients
    or events (effects: less), which is part of each standard error.

    Parameters
    ----------
    tables : as from `load`; patients whose consent covers the site only are left out.
    site : name of the site.
    effects : fitted effects to be pooled, one row per term with term, estimate, se (log hazard or odds ratios), n, events,
        rbe_model or let_definition where the term depends on it, and, where known, smaller_group: the events in the smaller
        group of a term with two values, empty for a continuous one (default: every term may be a rare one, of 1 / se^2 events).
        A term has one name in all exports.
    horizons : times [a] of the Kaplan-Meier estimates.
    min_cell : smallest count, one for all exports of a register.
    register : folder of the site's exports and their key, one for all who export from the site (default: in the user's data
        folder).

    Returns
    -------
    Dict of plain numbers and text (`json.dumps` takes it): format, site, origin, n (of what is shown), consent, rbe_model,
    let_definition, exports (the number of the export that each indication and term is from), patients (indication by sex,
    multiples of `min_cell`), survival and rates per indication and endpoint, effects, notes on what is too small. Nothing comes
    from fewer than `min_cell` patients, events, event-free patients or events in the smaller group of a term.

    Raises
    ------
    IonrtError
        Malformed effects, a cohort below `min_cell`, and a register that is damaged, has gaps or cannot be written.

    References
    ----------
    Survival: Kaplan and Meier 1958, doi 10.1080/01621459.1958.10501452.
    """
    while True:
        try:
            return _summary(tables, site, effects, horizons, Register(register, min_cell))
        except OvertakenError:
            continue


def _summary(
    tables: Mapping[str, pd.DataFrame], site: str, effects: pd.DataFrame | None, horizons: Sequence[float], register: Register
) -> dict[str, Any]:
    patient, min_cell = tables["patient"], register.min_cell
    kept = select(
        {name: tables[name] for name in ("patient", "course", "event")}, patient.loc[patient["consent_scope"].ne("site"), "pid"]
    )
    if len(kept["patient"]) < min_cell or min_cell < 1:
        raise IonrtError(
            f"a cohort of fewer than {min_cell} patients (without those who consented to the site only) has no summary that"
            " protects them"
        )
    asked = _effect_rows(effects)
    who = _fingerprints(patient, kept, register)
    words = {
        c: spec.get("allowed", []) for t in ("patient", "event") for c, spec in dictionary()["tables"][t]["columns"].items()
    }
    of = patient.set_index("pid")["indication"]
    event, courses = (kept[name].assign(indication=kept[name]["pid"].map(of)) for name in ("event", "course"))
    event = event.assign(time=event["day"] / 365.25, event=event["code"].eq(1).astype("int64"))
    parts: list[dict[str, Any]] = []
    for indication in words["indication"]:
        here = patient["indication"].eq(indication)

        def make(noise: Noise, here: pd.Series = here, indication: str = indication) -> dict[str, Any]:
            export = _Export(noise, min_cell)
            course, rows = (table[table["indication"].eq(indication)] for table in (courses, event))
            groups = {e: rows[rows["endpoint"].eq(e)] for e in words["endpoint"]}
            return export.indication(patient[here], course, groups, words, horizons)

        part = register.part(indication, who[here.to_numpy()].to_list(), sorted(horizons), make)
        parts.append(part or _Export.nothing(words))
    everybody = who[patient["consent_scope"].ne("site").to_numpy()].to_list()
    shown = []
    for row in asked:

        def effect(noise: Noise, row: Mapping[str, Any] = row) -> dict[str, Any] | None:
            return _Export(noise, min_cell).effect(row)

        values = {k: None if pd.isna(v) else v for k, v in row.items()}
        shown.append(register.part(f"effect {row['term']}", everybody, values, effect))
    register.close()
    n = max(min_cell, sum(part["n"] or 0 for part in parts))  # what is shown of a number never passes it
    # only what shows something is named: that a group reached `min_cell` would tell its size
    told = {i for i, part in zip(words["indication"], parts, strict=True) if part["n"] or part["rates"]}
    told |= {f"effect {row['term']}" for row, e in zip(asked, shown, strict=True) if e}
    of = {i: {"indication": i} for i in words["indication"]}
    listed = list(zip(of.values(), parts, strict=True))
    made: dict[str, Any] = {
        "format": FORMATS[-1],
        "ionrt_version": __version__,
        "site": site,
        "origin": str(kept["patient"]["origin"].iloc[0]),
        "min_cell": min_cell,
        "n": n,
        "consent": {s: sum(part["consent"][s] or 0 for part in parts) or None for s in words["consent_scope"]},
        **{d: sorted({v for part in parts for v in part[d]}) for d in DEFINITIONS},
        "exports": {name: number for name, number in register.numbers.items() if name in told},
        "patients": [i | {"sex": sex, "n": part["sex"][sex]} for i, part in listed for sex in words["sex"]],
        **{kind: [i | r for i, part in listed for r in part[kind]] for kind in ("survival", "rates")},
        "effects": [e for e in shown if e],
        "notes": [
            *(f"{i}: no result with min_cell = {min_cell}" for i, part in zip(of, parts, strict=True) if not part["rates"]),
            *(
                f"effect {row['term']}: too few events, or too little information, for min_cell = {min_cell}"
                for row, e in zip(asked, shown, strict=True)
                if not e
            ),
        ],
    }
    for one in [*made["rates"], *made["effects"]]:
        one |= {c: min(one[c], n) for c in ("n", "events") if c in one}
    return made


def _fingerprints(patient: pd.DataFrame, kept: Mapping[str, pd.DataFrame], register: Register) -> pd.Series:
    """A keyed hash of what each patient adds to a summary, whatever the pid and whoever else is there."""
    parts = {
        "patient": patient[["pid", "indication", "sex", "consent_scope"]],
        "event": kept["event"][["pid", "endpoint", "day", "code"]].astype({"day": "float64", "code": "float64"}),
        "course": kept["course"][["pid", *DEFINITIONS]],
    }
    hashed = partial(pd.util.hash_pandas_object, index=False, hash_key=register.key.hex()[:16])
    each = {n: hashed(t.drop(columns="pid").astype("str")).groupby(t["pid"], sort=False).sum() for n, t in parts.items()}
    sums = pd.DataFrame({n: of_one.reindex(patient["pid"], fill_value=0) for n, of_one in each.items()})

    def made(*kinds: str) -> pd.Series:
        whole = sums.astype(dict(zip(("event", "course"), kinds, strict=True)))
        return hashed(whole.astype("str")).map("{:016x}".format)

    exact, *rounded = product(("uint64", "float64"), repeat=2)
    who, known = made(*exact), {one for part in register.parts for one in part["who"]}
    if known and known.isdisjoint(who):  # earlier versions rounded the sums of all where one patient had no event or course
        who = next((old for kinds in rounded if not known.isdisjoint(old := made(*kinds))), who)
    return who


class _Export:
    """Numbers with the noise that hides one patient."""

    def __init__(self, noise: Noise, min_cell: int) -> None:
        self.noise, self.min_cell, self.sd = noise, min_cell, SPREAD * min_cell

    def enough(self, count: float, *label: object) -> bool:
        """At least `min_cell`, from a limit above it that nobody knows: what vanishes or appears does not tell a count."""
        return count - LIMIT * self.min_cell * self.noise.draw("exponential", "limit", *label) >= self.min_cell

    def count(self, true: float, *label: object) -> int | None:
        """A multiple of `min_cell` near the count (Laplace noise), or None."""
        rounded = (
            round((true + 0.5 * self.min_cell * self.noise.draw("laplace", "count", *label)) / self.min_cell) * self.min_cell
        )
        return max(rounded, self.min_cell) if self.enough(true, "count", *label) else None

    @staticmethod
    def nothing(words: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """What is said of an indication of which nothing is said."""
        counts = {"consent": dict.fromkeys(words["consent_scope"]), "sex": dict.fromkeys(words["sex"])}
        return {"n": None, **counts, **{d: [] for d in DEFINITIONS}, "survival": [], "rates": []}

    def indication(
        self,
        patient: pd.DataFrame,
        course: pd.DataFrame,
        endpoints: Mapping[str, pd.DataFrame],
        words: Mapping[str, Sequence[str]],
        horizons: Sequence[float],
    ) -> dict[str, Any]:
        """All numbers of one indication."""
        kept = patient[patient["consent_scope"].ne("site")]
        rows = [(e, group) for e, group in endpoints.items() if len(group)]
        return {
            "n": self.count(len(kept), "n"),
            "consent": {s: self.count(int(patient["consent_scope"].eq(s).sum()), "consent", s) for s in words["consent_scope"]},
            "sex": {s: self.count(int(kept["sex"].eq(s).sum()), "sex", s) for s in words["sex"]},
            **{d: self.common(course[d], d) for d in DEFINITIONS},
            "survival": [{"endpoint": e} | r for e, group in rows for r in self.survival(group, horizons, e)],
            "rates": [{"endpoint": e} | r for e, group in rows for r in self.rate(group, e)],
        }

    def common(self, cells: pd.Series, what: str) -> list[str]:
        """The values that enough courses have."""
        return sorted(str(v) for v, k in cells.dropna().value_counts().items() if self.enough(int(k), what, v))

    def survival(self, group: pd.DataFrame, horizons: Sequence[float], label: str) -> list[dict[str, Any]]:
        """Kaplan-Meier at the horizons, with enough events since the last one shown and as many at risk.

        Cumulative hazard gains noise from one horizon to the next: of `sd` events among those at risk at its end.
        """
        day, event = group["day"].to_numpy(dtype=float), group["event"].to_numpy()
        bins: list[tuple[float, int, int]] = []
        for horizon in sorted(horizons):
            before, risk = int(event[day <= horizon * 365.25].sum()), int((day > horizon * 365.25).sum())
            new = before - (bins[-1][1] if bins else 0)
            if self.enough(new, "bin", label, horizon) and self.enough(risk, "risk", label, horizon):
                bins.append((horizon, before, risk))
        if not bins:
            return []
        curve = kaplan_meier(group, "day", "event", at=[365.25 * horizon for horizon, *_ in bins])
        out: list[dict[str, Any]] = []
        exact, noisy, variance = 0.0, 0.0, 0.0
        for (horizon, before, risk), s, se in zip(bins, curve["survival"].tolist(), curve["se"].tolist(), strict=True):
            gain, width = -np.log(s) - exact, self.sd / risk
            noisy += max(gain + width * self.noise.draw("normal", "bin", label, horizon), 0.25 * self.min_cell / risk)
            variance += width**2
            exact += gain
            information = self._coarse((s * np.log(s) / se) ** 2, before, "se", label, horizon)
            error = float(np.sqrt(1 / information + variance / noisy**2))
            out.append({"years": float(horizon), "cloglog": round(float(np.log(noisy)), 3), "se": round(error, 3)})
        return out

    def rate(self, group: pd.DataFrame, label: str) -> list[dict[str, Any]]:
        """Log event rate per year: events and time under observation, each with its noise."""
        events, n = int(group["event"].sum()), len(group)
        if not (self.enough(events, "rate", label) and self.enough(n - events, "free", label)):
            return []
        seen = max(events + self.sd * self.noise.draw("normal", "events", label), 0.5 * self.min_cell)
        people = max(n + self.sd * self.noise.draw("normal", "people", label), seen)
        time = float(group["time"].sum()) * np.exp(1.5 * self.sd / n * self.noise.draw("normal", "time", label))
        error = float(np.sqrt(1 / seen + (self.sd / seen) ** 2 + (1.5 * self.sd / people) ** 2))
        rounded = int(max(round(seen / self.min_cell), 1) * self.min_cell)
        return [{"events": rounded, "log_rate": round(float(np.log(seen / time)), 3), "se": round(error, 3)}]

    def effect(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """An effect with noise of one patient's influence, se / sqrt(events); None where it may be about too few."""
        events, information = float(row["events"]), float(row["se"]) ** -2
        smaller = row.get("smaller_group", information)  # of a term with two values the information is about its events
        bound = min(events, events if pd.isna(smaller) else float(smaller))
        if not (self.enough(bound, "events") and self.enough(row["n"] - events, "free")):
            return None
        width = INFLUENCE * self.min_cell * float(row["se"]) / np.sqrt(bound)
        estimate = float(row["estimate"]) + width * self.noise.draw("normal", "estimate")
        error = float(np.sqrt(1 / self._coarse(information, bound, "se") + width**2))
        # digits beyond a patient's influence would only carry the noise
        digits = max(0, int(np.ceil(-np.log10(width))) + 1)
        sizes = {c: self.count(row[c], c) or self.min_cell for c in ("n", "events")}
        sizes["events"] = min(sizes.values())
        definitions = {d: str(row[d]) for d in DEFINITIONS if not pd.isna(row.get(d))}
        return {
            "term": str(row["term"]),
            "estimate": round(estimate, digits),
            "se": float(f"{error:.3g}"),
            **sizes,
            **definitions,
        }

    def _coarse(self, information: float, events: float, *label: object) -> float:
        """Information (1 / se^2) on a logarithmic grid of 0.7 `min_cell` of the events, up or down at random."""
        step = 0.7 * self.min_cell / events
        return float(np.exp(step * np.floor(np.log(information) / step + self.noise.draw("uniform", "grid", *label))))


def _effect_rows(effects: pd.DataFrame | None) -> list[dict[str, Any]]:
    if effects is None:
        return []
    missing = [c for c in EFFECT_COLUMNS if c not in effects]
    if missing:
        raise IonrtError(f"effects: columns {', '.join(missing)} are missing; needed are {', '.join(EFFECT_COLUMNS)}")
    try:
        numbers = effects[list(EFFECT_COLUMNS[1:])].to_numpy(dtype=float)
    except (TypeError, ValueError):
        raise IonrtError("effects: estimate, se, n and events must be numbers") from None
    if not (np.isfinite(numbers).all() and (numbers[:, 1:] > 0).all()):
        raise IonrtError(
            "effects: all numbers must be finite and se, n, events positive; leave out terms that did not converge"
        )
    if effects["term"].duplicated().any():
        raise IonrtError("effects: a term stands twice")
    return [{str(k): v for k, v in row.items()} for row in effects.to_dict("records")]


def combine(summaries: Sequence[Mapping[str, Any] | str | Path]) -> pd.DataFrame:
    """Random-effects meta-analysis of the sites' summaries; the rows stay where they are.

    DerSimonian-Laird: weights 1 / (se^2 + tau^2), tau^2 from Cochran's Q.

    Parameters
    ----------
    summaries : dicts from `summary` (also read back from JSON), or their files.

    Returns
    -------
    One row per result: kind (survival, rate, effect), term, indication, endpoint, years [a], sites, estimate, se, lower, upper
    (95 %, normal), tau2, i2 [%], q. Survival is pooled as log(-log S) and shown as S (se stays on that scale), rates as
    logarithms and shown per year, effects as given. One site alone passes through with tau2 = 0.

    Raises
    ------
    IonrtError
        With site and field, for what is no such summary (numbers not finite, standard errors not positive, counts that do not
        fit, a result twice), for one site twice, for SYNTHETIC beside clinical, and for one term under two dose systems or LET
        definitions.

    References
    ----------
    DerSimonian and Laird 1986, doi 10.1016/0197-2456(86)90046-2.
    """
    if isinstance(summaries, (str, Path, Mapping)) or not isinstance(summaries, Sequence) or not summaries:
        raise IonrtError("combine: expected at least one summary, in a list")
    given = [checked(read_json(s) if isinstance(s, (str, Path)) else s, i) for i, s in enumerate(summaries)]
    names = [s["site"].strip().casefold() for s in given]
    if len(set(names)) < len(names):
        raise IonrtError("combine: one site stands twice; give each site's latest summary once")
    contents = [repr((s["survival"], s["rates"], s["effects"])) for s in given if s["survival"] or s["rates"] or s["effects"]]
    if len(set(contents)) < len(contents):
        raise IonrtError("combine: two sites have the same results to the last digit; it is one summary under two names")
    origins = {s["origin"] for s in given}
    if len(origins) > 1:
        raise IonrtError("combine: one summary is SYNTHETIC and another clinical; they cannot be pooled")
    _refuse_two_meanings(given)
    of = ("kind", "term", "indication", "endpoint", "years")
    rows = [dict(zip(of, key, strict=True)) | _shown(key[0], values) for key, values in _collected(given).items()]
    out = pd.DataFrame(rows, columns=[*of, "sites", "estimate", "se", "lower", "upper", "tau2", "i2", "q"])
    out.attrs = {"origin": next(iter(origins)), "sites": [s["site"] for s in given]}
    return out


def _refuse_two_meanings(summaries: Sequence[Mapping[str, Any]]) -> None:
    for definition in DEFINITIONS:
        seen: dict[str, set[str]] = defaultdict(set)
        for effect in (e for site in summaries for e in site["effects"]):
            seen[effect["term"]].add(effect.get(definition, ""))
        for term, values in seen.items():
            if len(values) > 1:
                named = ", ".join(sorted(v or "not stated" for v in values))
                raise IonrtError(f"combine: {term} was estimated under different {definition}: {named}; refit under one")


def _collected(summaries: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], list[tuple[float, float]]]:
    """(estimate, se) of every site per result."""
    out: dict[tuple[Any, ...], list[tuple[float, float]]] = defaultdict(list)
    for site in summaries:
        for s in site["survival"]:
            out["survival", "S", s["indication"], s["endpoint"], s["years"]].append((s["cloglog"], s["se"]))
        for r in site["rates"]:
            out["rate", "events per year", r["indication"], r["endpoint"], np.nan].append((r["log_rate"], r["se"]))
        for e in site["effects"]:
            out["effect", e["term"], "", "", np.nan].append((e["estimate"], e["se"]))
    return out


def _shown(kind: str, sites: Sequence[tuple[float, float]]) -> dict[str, float]:
    """The pooled (estimate, se) of the sites on the scale people read; one site alone passes through."""
    if len(sites) == 1:
        (estimate, se), half = sites[0], 1.959963984540054 * sites[0][1]
        row = {"estimate": estimate, "se": se, "lower": estimate - half, "upper": estimate + half}
        row |= dict.fromkeys(("tau2", "i2", "q"), 0.0)
    else:
        pooled = meta_analysis(pd.DataFrame(sites, columns=["estimate", "se"]), method="DL").iloc[0]
        row = {c: float(pooled[c]) for c in ("estimate", "se", "lower", "upper", "tau2", "i2", "q")}
    scale = {"survival": lambda x: float(np.exp(-np.exp(x))), "rate": lambda x: float(np.exp(x)), "effect": float}[kind]
    lower, upper = sorted((scale(row["lower"]), scale(row["upper"])))
    return {"sites": len(sites), **row, "estimate": scale(row["estimate"]), "lower": lower, "upper": upper}
