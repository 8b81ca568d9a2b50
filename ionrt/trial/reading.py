"""The door of protocol files: read as plain values, checked against the schema, the sample size recomputed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ionrt import resources
from ionrt.files import read_yaml
from ionrt.quantities import IonrtError, one_of
from ionrt.trial.axis import Axis
from ionrt.trial.designs import DESIGNS, sample_size
from ionrt.trial.protocol import Protocol

MOST_PATIENTS, MOST_ENTRIES, LARGEST = 100_000, 100, 1e9
TYPES: dict[str, str] = {"float": "number", "int": "whole", "str": "text", "bool": "flag", "Sequence[float]": "numbers"}
LISTS = {"numbers": "a list of numbers", "texts": "a list of texts or numbers"}
OWN_KEYS = {"alpha", "power", "beta", "axis", "cutoff", "inflation", "sided"}  # arguments that the protocol states elsewhere


def protocols() -> dict[str, Path]:
    """Protocol files by name, from ``trials/`` of the working folder, the folder above, or those that came with the package.

    Returns
    -------
    Name -> path.
    """
    return resources.files("trials", "*.yaml", Path.cwd(), Path.cwd().parent)


def load(path: str | Path) -> Protocol:
    """Read a protocol file, check it, and recompute its number of patients.

    Parameters
    ----------
    path : a YAML file as described in `trials/README.md`, or the name of one in `protocols()`.

    Returns
    -------
    Protocol.

    Raises
    ------
    IonrtError : one line with the file and every fault at once, each beginning with the key it is in: unknown, doubled and
        missing keys, missing sources, wrong types, numbers out of bounds (see `ionrt.files.read_yaml` for what is refused
        before that); and, when the stated n differs from the recomputed one, both numbers and their difference.

    Examples
    --------
    >>> protocol = ionrt.trial.load("recurrent_rectal")  # illustrative; comes with the package
    >>> protocol.n, protocol.alpha, protocol.power
    (32, 0.025, 0.8)
    """
    path = Path(path)
    if not path.suffix:
        path = protocols()[one_of(str(path), list(protocols()), what="protocol")]
    return from_mapping(read_yaml(path), name=path.name)


def from_mapping(content: Mapping[str, Any], *, name: str = "protocol") -> Protocol:
    """Check a protocol given as a mapping; see `load`."""
    if not isinstance(content, Mapping):
        raise IonrtError(f"{name}: expected a mapping of keys, got {type(content).__name__}")
    faults = _faults(content)
    if faults:
        raise IonrtError(f"{name}: {len(faults)} fault(s): " + "; ".join(faults))
    values = dict(content)
    for key in ("arms", "stopping", "illustrative", "sources"):
        values[key] = tuple(values[key])
    try:
        if values.get("axis"):
            values["axis"] = Axis(**{**values["axis"], "levels": tuple(values["axis"]["levels"])})
        protocol = Protocol(**values)
        with np.errstate(all="ignore"):  # a result that is not finite ends in the error below
            computed = sample_size(protocol)
    except IonrtError as error:
        raise IonrtError(f"{name}: {error}") from None
    except (ArithmeticError, TypeError, ValueError, LookupError, MemoryError, RecursionError) as error:
        what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no result'}"
        raise IonrtError(f"{name}: parameters: no size of design {content['design']} follows from them ({what})") from None
    if computed != protocol.n:
        raise IonrtError(
            f"{name}: states n = {protocol.n}, its parameters give n = {computed} (difference {computed - protocol.n:+d});"
            " correct n or the parameters"
        )
    return protocol


@cache
def schema() -> dict[str, dict[str, Any]]:
    """Keys of a protocol, from schema.yaml beside this module."""
    return read_yaml(Path(__file__).with_name("schema.yaml"))


def _faults(content: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with the keys, in the order of the schema; rules between keys once the keys are right."""
    keys = schema()
    faults = [_unknown(key, list(keys)) for key in content if key not in keys]
    for key, rule in keys.items():
        if key not in content:
            faults += [f"{key} is missing ({rule['about']})"] if rule["required"] else []
        elif not (key == "power" and content[key] is None):
            faults += _value_faults(key, content[key], rule)
    return faults or _content_faults(content)


def _value_faults(where: str, value: Any, rule: Mapping[str, Any]) -> list[str]:
    """What is wrong with one value, its entries included."""
    kinds = rule["type"].split("|")
    about = f" ({rule['about']})" if "about" in rule else ""
    if not any(_is(kind, value) for kind in kinds):
        return [f"{where}: expected {' or '.join(LISTS.get(k, k) for k in kinds)}, got {_shown(value)}{about}"]
    if isinstance(value, str) and not value.strip():
        return [f"{where}: is empty{about}"]
    if "allowed" in rule and value not in rule["allowed"]:
        return [f"{where}: expected one of {rule['allowed']}, got {_shown(value)}"]
    if isinstance(value, (list, tuple, Mapping)) and len(value) > MOST_ENTRIES:
        return [f"{where}: expected at most {MOST_ENTRIES} entries, got {len(value)}"]
    faults: list[str] = []
    if isinstance(value, Mapping):
        known = rule.get("keys")
        faults += [f"{where}: {_unknown(inner, list(known))}" for inner in value if known and inner not in known]
        faults += [f"{where}: {key} is missing" for key in rule.get("needed", ()) if key not in value]
        for inner, entry in value.items():
            kind = known.get(inner) if known else rule.get("items")
            if kind:
                faults += _value_faults(f"{where}.{inner}", entry, kind if isinstance(kind, Mapping) else {"type": kind})
    elif isinstance(value, (list, tuple)) and "items" in rule:
        for i, entry in enumerate(value, 1):
            faults += _value_faults(f"{where}[{i}]", entry, rule["items"])
    return faults


def _is(kind: str, value: Any) -> bool:
    """Whether a value is of a kind of the schema."""
    if kind in ("number", "whole"):
        fits = isinstance(value, int) if kind == "whole" else isinstance(value, (int, float))
        return fits and not isinstance(value, bool) and math.isfinite(value) and abs(value) <= LARGEST
    if kind in ("numbers", "texts"):
        one = "number" if kind == "numbers" else "word"
        return isinstance(value, (list, tuple)) and len(value) <= MOST_ENTRIES and all(_is(one, v) for v in value)
    types: dict[str, Any] = {"text": str, "flag": bool, "list": (list, tuple), "mapping": Mapping, "word": (str, int, float)}
    return isinstance(value, types[kind])


def _shown(value: Any) -> str:
    """A value in a message, shortened; containers by their type only."""
    if isinstance(value, (list, tuple, dict)) or value is None:
        return type(value).__name__ if value is not None else "nothing"
    return f"{type(value).__name__} {str(value)[:40]!r}"


def _content_faults(content: Mapping[str, Any]) -> list[str]:
    """Rules between keys, looked at once the keys themselves are right."""
    if content["design"] not in DESIGNS:
        return [f"design: {_unknown(content['design'], list(DESIGNS))}"]
    faults = [] if content["sources"] else ["sources: none given; every protocol cites the public facts it uses"]
    for factor, levels in content["strata"].items():
        if len(levels) < 2:
            faults.append(f"strata: {factor!r} needs at least two levels, got {levels!r}")
    if not 1 <= content["n"] <= MOST_PATIENTS:
        faults.append(f"n: expected 1 to {MOST_PATIENTS} patients, got {content['n']}")
    if content["status"] == "illustrative" and not content["illustrative"]:
        faults.append("illustrative: name the parameters that are ours, or set status: registered")
    faults += _parameter_faults(content["design"], content["parameters"])
    names = [arm["name"] for arm in content["arms"]]
    if not names or len(set(names)) < len(names):
        faults.append(f"arms: expected arms with names of their own, got {names}")
    if len(names) > 1 and any(not 1 <= arm.get("ratio", 0) <= MOST_ENTRIES for arm in content["arms"]):
        faults.append(f"arms: each of several arms needs a ratio from 1 to {MOST_ENTRIES}")
    planned = content["analysis"].get("strata") or []
    faults += [
        f"analysis.strata: {key!r} is not among the strata {list(content['strata'])}"
        for key in planned
        if key not in content["strata"]
    ]
    return faults


def _parameter_faults(design: str, given: Mapping[str, Any]) -> list[str]:
    """Names and types of a design's parameters, from the signature of its function."""
    allowed = {k: p for k, p in inspect.signature(DESIGNS[design].function).parameters.items() if k not in OWN_KEYS}
    faults = [f"parameters: {_unknown(key, list(allowed))}" for key in given if key not in allowed]
    for key, parameter in allowed.items():
        if key not in given:
            if parameter.default is inspect.Parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                faults.append(f"parameters: {key} is missing; design {design} needs it")
            continue
        kind = TYPES.get(str(parameter.annotation).removesuffix(" | None"))
        if kind and not (given[key] is None and str(parameter.annotation).endswith("None")):
            faults += _value_faults(f"parameters.{key}", given[key], {"type": kind})
    return faults


def _unknown(key: Any, allowed: list[str]) -> str:
    """Sentence about an unknown key, nearest names first."""
    try:
        one_of(str(key)[:60], allowed, what="key")
    except IonrtError as error:
        return str(error)
    return f"key {key!r}: keys are text"
