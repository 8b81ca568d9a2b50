"""Protocols as YAML: read, check against the schema, recompute the sample size."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ionrt.quantities import IonrtError, one_of
from ionrt.resources import files
from ionrt.trial import limits
from ionrt.trial.axis import Axis
from ionrt.trial.continual_reassessment import crm, tite_crm
from ionrt.trial.fixed_time import survival_rate
from ionrt.trial.noninferiority import noninferiority_rates
from ionrt.trial.phase1 import boin
from ionrt.trial.phase2 import ahern, simon
from ionrt.trial.sequential import spending_bounds
from ionrt.trial.survival_design import dropout_hazard, hazard, survival_sample_size

TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "number": (int, float),
    "whole": (int,),
    "list": (list,),
    "mapping": (dict,),
}
DOSE_FINDING = ("boin", "crm", "tite_crm")


@dataclass(frozen=True)
class Protocol:
    """A trial protocol; fields as in `schema.yaml`. Make one with `load`."""

    id: str
    title: str
    status: str
    population: str
    arms: tuple[Mapping[str, Any], ...]
    endpoint: Mapping[str, Any]
    time_zero: str
    design: str
    parameters: Mapping[str, Any]
    n: int
    alpha: float
    power: float | None
    sided: int
    strata: Mapping[str, list]
    stopping: tuple[str, ...]
    analysis: Mapping[str, Any]
    illustrative: tuple[str, ...]
    sources: tuple[Mapping[str, str], ...]
    axis: Axis | None = None
    looks: Mapping[str, Any] = field(default_factory=dict)
    scenarios: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def one_sided_alpha(self) -> float:
        """Type I error on one side."""
        return self.alpha / self.sided


def protocols() -> dict[str, Path]:
    """Protocol files by name, from ``trials/`` here or in the folder above, else those that came with the package."""
    return files("trials", "*.yaml", Path.cwd(), Path.cwd().parent)


def load(path: str | Path) -> Protocol:
    """Read a protocol file, check it, and recompute its number of patients.

    Parameters
    ----------
    path : a YAML file as described in `trials/README.md`, or the name of one in `protocols()`.

    Returns a Protocol. Raises IonrtError that lists every fault at once (unknown keys, missing keys or sources, wrong
    types), and, when
    the stated n differs from the recomputed one, both numbers and their difference.
    """
    path = Path(path)
    if not path.suffix:
        path = protocols()[one_of(str(path), list(protocols()), what="protocol")]
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise IonrtError(f"{path.name}: not a readable YAML file: {error}") from error
    return from_mapping(content, name=path.name)


def from_mapping(content: Mapping[str, Any], *, name: str = "protocol") -> Protocol:
    """Check a protocol given as a mapping; see `load`."""
    if not isinstance(content, Mapping):
        raise IonrtError(f"{name}: expected a mapping of keys, got {type(content).__name__}")
    faults = _faults(content)
    if faults:
        raise IonrtError(f"{name}: {len(faults)} fault(s):\n- " + "\n- ".join(faults))
    values = dict(content)
    values["axis"] = _axis(values["axis"]) if values.get("axis") else None
    for key in ("arms", "stopping", "illustrative", "sources"):
        values[key] = tuple(values[key])
    protocol = Protocol(**values)
    computed = sample_size(protocol)
    if computed != protocol.n:
        raise IonrtError(
            f"{name}: states n = {protocol.n}, its parameters give n = {computed} (difference {computed - protocol.n:+d});"
            " correct n or the parameters"
        )
    return protocol


@cache
def schema() -> dict[str, dict[str, Any]]:
    """Keys of a protocol, from schema.yaml beside this module."""
    return yaml.safe_load((resources.files("ionrt.trial") / "schema.yaml").read_text(encoding="utf-8"))


def _faults(content: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with the keys, in the order of the schema."""
    keys, faults = schema(), []
    for key in content:
        if key not in keys:
            faults.append(_unknown(str(key), list(keys)))
    for key, rule in keys.items():
        if key not in content:
            if rule["required"]:
                faults.append(f"{key} is missing ({rule['about']})")
            continue
        faults += _type_faults(key, content[key], rule)
    if not faults:
        faults += _content_faults(content)
    return faults


def _type_faults(key: str, value: Any, rule: Mapping[str, Any]) -> list[str]:
    if key == "power" and value is None:
        return []
    if not isinstance(value, TYPES[rule["type"]]) or isinstance(value, bool):
        return [f"{key}: expected {rule['type']}, got {type(value).__name__} ({rule['about']})"]
    if isinstance(value, str) and not value.strip():
        return [f"{key}: is empty ({rule['about']})"]
    if "allowed" in rule and value not in rule["allowed"]:
        return [f"{key}: expected one of {rule['allowed']}, got {value!r}"]
    if "keys" in rule and isinstance(value, dict):
        return [f"{key}: {_unknown(str(inner), rule['keys'])}" for inner in value if inner not in rule["keys"]]
    return []


def _content_faults(content: Mapping[str, Any]) -> list[str]:
    """Rules between keys, looked at once the keys themselves are right."""
    faults = []
    if content["design"] not in DESIGNS:
        return [f"design: {_unknown(str(content['design']), list(DESIGNS))}"]
    if not content["sources"]:
        faults.append("sources: none given; every protocol cites the public facts it uses")
    for i, source in enumerate(content["sources"], 1):
        if not isinstance(source, dict) or not source.get("fact") or not source.get("source"):
            faults.append(f"sources[{i}]: needs a fact and its source, got {source!r}")
    for factor, levels in content["strata"].items():
        if not isinstance(levels, list) or len(levels) < 2:
            faults.append(f"strata: {factor!r} needs at least two levels, got {levels!r}")
    if content["status"] == "illustrative" and not content["illustrative"]:
        faults.append("illustrative: name the parameters that are ours, or set status: registered")
    allowed = _parameters(content["design"])
    faults += [f"parameters: {_unknown(key, allowed)}" for key in content["parameters"] if key not in allowed]
    if len(content["arms"]) > 1 and any("ratio" not in arm for arm in content["arms"]):
        faults.append("arms: each of several arms needs a ratio")
    planned = content["analysis"].get("strata") or []
    faults += [
        f"analysis.strata: {key!r} is not among the strata {list(content['strata'])}"
        for key in planned
        if key not in content["strata"]
    ]
    return faults


def _unknown(key: str, allowed: list[str]) -> str:
    """Sentence about an unknown key, nearest names first."""
    try:
        one_of(key, allowed, what="key")
    except IonrtError as error:
        return str(error)
    return ""


def _parameters(design: str) -> list[str]:
    """Arguments a protocol may set for a design."""
    given = {"alpha", "power", "beta", "axis", "cutoff", "inflation", "sided"}
    return [p for p in inspect.signature(DESIGNS[design]).parameters if p not in given]


def _axis(content: Mapping[str, Any]) -> Axis:
    known = list(inspect.signature(Axis).parameters)
    unknown = [key for key in content if key not in known]
    if unknown:
        raise IonrtError(f"axis: {_unknown(unknown[0], known)}")
    return Axis(**{**content, "levels": tuple(content["levels"])})


def two_arm_survival(
    hr: float,
    *,
    accrual: float,
    follow_up: float,
    control_median: float | None = None,
    control_survival: Sequence[float] | None = None,
    dropout_share: float = 0.0,
    dropout_time: float = 1.0,
    alpha: float = 0.05,
    power: float = 0.80,
    sided: int = 2,
    allocation: float = 1.0,
    margin: float = 1.0,
    method: str = "schoenfeld",
    inflation: float = 1.0,
) -> pd.Series:
    """`survival_sample_size` in the words of a protocol: control arm by median or survival rate, dropout by share and time.

    Returns the Series of `survival_sample_size` with control_hazard and dropout added.
    """
    at = None if control_survival is None else (control_survival[0], control_survival[1])
    rate = hazard(median=control_median, survival=at)
    loss = dropout_hazard(dropout_share, dropout_time)
    size = survival_sample_size(
        hr,
        control_hazard=rate,
        accrual=accrual,
        follow_up=follow_up,
        alpha=alpha,
        power=power,
        sided=sided,
        allocation=allocation,
        dropout=loss,
        margin=margin,
        method=method,
        inflation=inflation,
    )
    size["control_hazard"], size["dropout"] = rate, loss
    return size


DESIGNS: dict[str, Callable[..., Any]] = {
    "boin": boin,
    "crm": crm,
    "tite_crm": tite_crm,
    "simon": simon,
    "ahern": ahern,
    "survival_rate": survival_rate,
    "noninferiority_rates": noninferiority_rates,
    "two_arm_survival": two_arm_survival,
}


def design_of(protocol: Protocol) -> Any:
    """The design computed from the protocol's parameters: a phase I design, a table, or a Series of sizes."""
    function, given = DESIGNS[protocol.design], dict(protocol.parameters)
    if protocol.design in DOSE_FINDING:
        return function(**given, axis=protocol.axis, cutoff=1.0 - limits.probability(protocol.alpha, "alpha"))
    alpha, power = limits.error_rates(protocol.one_sided_alpha, protocol.power if protocol.power is not None else 0.0)
    if protocol.design in ("simon", "ahern"):
        return function(**given, alpha=alpha, beta=1.0 - power)
    if protocol.design == "two_arm_survival":
        given["inflation"] = bounds_of(protocol).attrs["inflation"]
        return function(**given, alpha=alpha, power=power, sided=1)
    return function(**given, alpha=alpha, power=power)


def bounds_of(protocol: Protocol) -> pd.DataFrame:
    """Group-sequential boundaries of the protocol; one look at full information where it plans none."""
    looks = {"information": 1, **protocol.looks}
    return spending_bounds(looks.pop("information"), alpha=protocol.one_sided_alpha, power=protocol.power, **looks)


def sample_size(protocol: Protocol) -> int:
    """Number of patients that follows from the parameters."""
    design = design_of(protocol)
    if protocol.design in DOSE_FINDING:
        return int(design.n_max)
    if protocol.design == "simon":
        return int(design.loc["optimal", "n"])
    return int(design["n"] if protocol.design == "ahern" else design["n_planned"])
