"""The door for summaries of other sites: each field is of its type, finite, within bounds, and there once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ionrt.quantities import IonrtError

FORMATS = ("ionrt.cohort.summary/1", "ionrt.cohort.summary/2")  # before and since the noise; combined alike
DEFINITIONS = ("rbe_model", "let_definition")
ORIGINS = ("SYNTHETIC", "clinical")
MAX_RESULTS = 10_000
_RESULT = {"indication": str, "endpoint": str}
FIELDS: dict[str, dict[str, Any]] = {  # text, or (low, high), whole numbers where these are int; a result is known by its texts
    "survival": {**_RESULT, "years": (1e-6, 200.0), "cloglog": (-30.0, 30.0), "se": (1e-6, 100.0)},
    "rates": {**_RESULT, "events": (0, 10**9), "log_rate": (-50.0, 50.0), "se": (1e-6, 100.0)},
    "effects": {"term": str, "estimate": (-1e3, 1e3), "se": (1e-9, 1e3), "n": (0, 10**9), "events": (0, 10**9)},
}


def checked(summary: Any, place: int) -> dict[str, Any]:
    """The summary with all that `combine` needs, or an IonrtError that names the place, the site and the field."""
    what = f"summary {place + 1}"
    if not isinstance(summary, Mapping):
        raise IonrtError(f"{what}: expected an object with the fields of ionrt.cohort.summary, got {type(summary).__name__}")
    if summary.get("format") not in FORMATS:
        raise IonrtError(f"{what}: expected format {' or '.join(FORMATS)}")
    out: dict[str, Any] = {"site": _text(summary.get("site"), f"{what}, site")}
    what = f"{what} ({out['site']})"
    if summary.get("origin") not in ORIGINS:
        raise IonrtError(f"{what}, origin: expected {' or '.join(ORIGINS)}")
    n = _number(summary.get("n"), (0, 10**9), f"{what}, n")
    for name, fields in FIELDS.items():
        listed = summary.get(name)
        if not isinstance(listed, list) or len(listed) > MAX_RESULTS:
            raise IonrtError(f"{what}, {name}: expected a list of at most {MAX_RESULTS} results")
        out[name] = [_result(one, fields, f"{what}, {name} {i}") for i, one in enumerate(listed)]
        known = [tuple(v for k, v in r.items() if fields.get(k) is str or k == "years") for r in out[name]]
        if len(set(known)) < len(known):
            raise IonrtError(f"{what}, {name}: one result stands twice")
        for i, one in enumerate(out[name]):
            if one.get("events", 0) > one.get("n", n) or one.get("n", 0) > n:
                raise IonrtError(f"{what}, {name} {i}: more events than patients, or more patients than the site has")
    return out | {"origin": summary["origin"], "n": n}


def _result(one: Any, fields: Mapping[str, Any], what: str) -> dict[str, Any]:
    if not isinstance(one, Mapping):
        raise IonrtError(f"{what}: expected an object with {', '.join(fields)}")
    out: dict[str, Any] = {}
    for name, kind in fields.items():
        out[name] = _text(one.get(name), f"{what}, {name}") if kind is str else _number(one.get(name), kind, f"{what}, {name}")
    for name in DEFINITIONS:
        if one.get(name) is not None:
            out[name] = _text(one[name], f"{what}, {name}")
    return out


def _text(value: Any, what: str) -> str:
    if not (isinstance(value, str) and value.strip() and len(value) <= 200 and value.isprintable()):
        raise IonrtError(f"{what}: expected text of 1 to 200 characters")
    return value


def _number(value: Any, bounds: tuple[float, float], what: str) -> Any:
    low, high = bounds
    kinds = (int,) if isinstance(low, int) else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool) or not math.isfinite(value) or not low <= value <= high:
        raise IonrtError(f"{what}: expected a {'whole ' if isinstance(low, int) else ''}number from {low:g} to {high:g}")
    return value
