"""When to plan again: rules as data, each with its limit and source, and a decision with its reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ionrt.quantities import IonrtError, number_in, one_of

OURS = "default of ionrt"


@dataclass(frozen=True)
class Rule:
    """One rule of a replanning trigger."""

    measure: str  # a number of `measure`, such as "V95", or of your own beside them; " *" at its end: of every organ
    limit: float  # in the unit of the measure
    above: bool  # whether larger values break the rule
    kind: str  # "screen" (image and depth, no dose) or "dose"
    images: int  # consecutive ones that must break it before it asks for a new plan
    source: str  # citation, or "default of ionrt"

    def __post_init__(self) -> None:
        one_of(self.kind, ("screen", "dose"), what="rule: kind")
        if not math.isfinite(self.limit) or self.images < 1 or not self.source:
            raise IonrtError(f"rule on {self.measure!r}: expected a finite limit, at least one image and a source")

    def broken(self, value: float) -> bool:
        """Whether a value breaks it; NaN does."""
        return not (value <= self.limit if self.above else value >= self.limit)


DEFAULT_RULES = (
    Rule("centroid", 5.0, True, "screen", 2, f"{OURS}; 10 mm is inadequate in lung (PMC9489077)"),
    Rule("volume", 20.0, True, "screen", 2, OURS),
    Rule("depth_median", 3.0, True, "screen", 2, f"{OURS}; changes of 1 to 9 mm per field (doi 10.1120/jacmp.v17i2.5795)"),
    Rule("depth_95", 5.0, True, "screen", 2, OURS),
    Rule("V95", 95.0, False, "dose", 2, f"{OURS}; loss of V95 in carbon therapy (doi 10.1186/s13014-021-01841-2)"),
    Rule("D98_loss", 3.0, True, "dose", 2, f"{OURS}; a loss of 3 % as in doi 10.1186/s13014-021-01841-2"),
    Rule("gamma", 90.0, False, "dose", 2, f"{OURS}; 3 % of the maximum, 3 mm"),
    Rule("L98_loss", 10.0, True, "dose", 2, OURS),
    Rule("D0.03cc rise *", 10.0, True, "dose", 1, f"{OURS}; chiasm and brain stem can be lost to air (PMID 25245554)"),
)


def decide(
    measures: Mapping[str, float] | Sequence[Mapping[str, float]],
    *,
    rules: Sequence[Rule] = DEFAULT_RULES,
    limits: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Continue, image again, or replan, with every rule's value, limit and source.

    "replan": a dose rule is broken on as many images in a row as it asks for. "image again": a dose rule is broken for the
    first
    time, or the screen is broken and no dose was computed. Else "continue"; a broken screen whose dose is in order is shown,
    and no reason to plan again.

    Parameters
    ----------
    measures : of `measure`, of one image, or of several in the order of the days, the last one today.
    rules : what counts.
    limits : largest values of organ measures ("D0.03cc Chiasm": 40.0) that hold on every image.

    Returns
    -------
    DataFrame, one row per rule that has a value today: measure, value, limit, kind, times broken in a row, images, source,
    result. Attributes ``decision`` and ``reasons``.

    Raises
    ------
    IonrtError for no image, or no rule that any measure answers to.
    """
    days = [measures] if isinstance(measures, Mapping) else list(measures) if isinstance(measures, Sequence) else []
    if not days or not all(isinstance(one, Mapping) for one in (*days, limits or {})):
        raise IonrtError("decide: expected the measures of at least one image, and limits, each as {name: number}")
    days = [{name: _value(name, value) for name, value in day.items()} for day in days]
    given = [Rule(name, _value(name, top), True, "dose", 1, "limit of the plan") for name, top in (limits or {}).items()]
    rows: list[tuple[object, ...]] = []
    replan, again, amber = list[str](), list[str](), list[str]()
    for rule in (*rules, *given):
        for name in _named(rule.measure, days[-1]):
            kept = (k for k, day in enumerate(reversed(days)) if name not in day or not rule.broken(day[name]))
            run = next(kept, len(days))
            reasons = amber if rule.kind == "screen" else replan if run >= rule.images else again
            reasons += [f"{name} {days[-1][name]:.3g}, limit {rule.limit:g}"] * (run > 0)
            result = "kept" if not run else "broken" if rule.kind == "dose" else "look closer"
            rows.append((name, days[-1][name], rule.limit, rule.kind, run, rule.images, result, rule.source))
    if not rows:
        raise IonrtError(f"decide: no rule fits the measures {', '.join(days[-1]) or '(none)'}; see ionrt.adapt.measure")
    columns = ["measure", "value", "limit", "kind", "in a row", "images", "result", "source"]
    table = pd.DataFrame(rows, columns=columns).set_index("measure")
    no_dose = not table["kind"].eq("dose").any()
    decision = "replan" if replan else "image again" if again or (amber and no_dose) else "continue"
    table.attrs = {"decision": decision, "reasons": tuple(replan or again or amber)}
    return table


def _value(name: str, value: float) -> float:
    """A number, or NaN for what is not known."""
    missing = isinstance(value, (float, np.floating)) and np.isnan(value)
    return float("nan") if missing else number_in(value, f"decide: {name}", -1e6, 1e6)


def _named(pattern: str, day: Mapping[str, float]) -> list[str]:
    """Measures that a rule is about."""
    if pattern.endswith(" *"):
        return [name for name in day if name.startswith(pattern[:-1])]
    return [pattern] if pattern in day else []
