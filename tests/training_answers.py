"""What the exercises expect, computed anew from ionrt: a change of physics or of a model shows up as a wrong exercise."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

import ionrt
from ionrt import beam, biology, outcome, rbe, sobp, trial
from ionrt.compare import open_patient

INTERVAL, CLINICAL = (100.0, 160.0), 3.6
COHORT = Path(__file__).resolve().parents[1] / "datasets" / "exchange_cohort"


@cache
def _bases(ion: str) -> tuple[xr.Dataset, xr.DataArray]:
    base = sobp.layers(ion, interval=INTERVAL, progress=False)
    return base, sobp.fluence(base, interval=INTERVAL, prescription=CLINICAL, model="nirs_mkm")


@cache
def _let(ion: str, population: str) -> xr.DataArray:
    base, weights = _bases(ion)
    return ionrt.let_d(sobp.depth_field(base, weights, moments=("let_x_dose",), let_definition=population))


@cache
def _doses(ion: str) -> dict[str, xr.DataArray]:
    base, weights = _bases(ion)
    nirs = sobp.depth_field(base, weights, model="nirs_mkm")
    lem = sobp.depth_field(base, weights, model="lem1")
    return {"physical": nirs["dose"], "NIRS": rbe.nirs_mkm(nirs), "LEM": rbe.lem1(lem)}


def _at(values: xr.DataArray, depth: float) -> float:
    return float(values.sel(depth=depth, method="nearest"))


def let_middle(ion: str, population: str = "charged", depth: float = 130.0) -> float:
    return _at(_let(ion, population), depth)


def _stopping(ion: str, residual: float) -> float:
    return float(beam.stopping_power(ion, beam.energy_for_range(ion, residual).values)[0])


def factor(ion: str, depth: float = 130.0) -> float:
    return _at(_doses(ion)["LEM"], depth) / _at(_doses(ion)["NIRS"], depth)


@cache
def _tail(ion: str, behind: float) -> float:
    energy = float(beam.energy_for_range(ion, 150.0)[0])
    depth = np.arange(0, 200, 0.5)
    dose = beam.transport(ion, energy, depth=depth)["dose"].values
    return float(np.interp(depth[dose.argmax()] + behind, depth, dose) / dose.max())


def d10(charge: int, let: float = 70.0) -> float:
    energy = biology.energy_at_let(charge, let)
    cell = biology.coefficients(charge, energy, let=let, tissue="mkm_nirs")  # the set fitted to these data
    return biology.dose_at_survival(0.1, alpha=float(cell.alpha), beta=float(cell.beta))


def oer_fall() -> float:
    low, high = (float(biology.oer_antonovic(value, po2=0.0)) for value in (70.0, 90.0))
    return 100 * (1 - high / low)


@cache
def _pancreas() -> pd.DataFrame:
    tables = ionrt.cohort.load(COHORT)
    control = ionrt.cohort.endpoint_table(tables, "LC")
    return control[control["indication"].str.replace("_", " ") == "pancreas"]


def incidence(cause: int) -> float:
    found = outcome.cumulative_incidence(_pancreas(), "time", "code", at=[2.0])
    return 100 * float(found.query("cause == @cause")["incidence"].iloc[0])


def one_minus_km() -> float:
    table = _pancreas()
    km = outcome.kaplan_meier(table.assign(local=(table["code"] == 1).astype(int)), "time", "local", at=[2.0])
    return 100 * (1 - float(km["survival"].iloc[0]))


def _range(ion: str, energy: float = 430.0) -> float:
    return float(beam.csda_range(ion, energy)[0])


def _slab() -> float:
    """Range lost where 14 mm of gas become tissue: thickness times the change of stopping-power ratio."""
    hu = xr.DataArray(np.array([[[-850.0, 35.0]]]), dims=("z", "y", "x"), coords={"z": [0.0], "y": [0.0], "x": [0.0, 1.0]})
    spr = ionrt.patient.stopping_power_ratio(hu.assign_attrs(units="HU").rename("ct")).values.ravel()
    return 14.0 * float(spr[1] - spr[0])


def _simon(design: str, column: str) -> float:
    table = trial.simon(0.2, 0.4)
    return float(table.loc[design, column] if design in table.index else table[table["design"] == design][column].iloc[0])


ANSWERS = {
    "T00.1": lambda: float(ionrt.patient.volumes(open_patient("")).sel(structure="CTV")),
    "T00.2": lambda: _range("C", 200.0),
    "T01.1": lambda: _range("O"),
    "T01.2": lambda: float(beam.energy_for_range("C", 150.0)[0]),
    "T01.3": lambda: _range("He") / _range("C"),
    "T01.4": lambda: 100 * _range("Ne") / _range("C"),
    "T01.5": lambda: 0.006 * 200,
    "T02.1": lambda: _tail("C", 10.0),
    "T02.2": lambda: _tail("He", 10.0),
    "T02.3": lambda: _tail("Ne", 10.0) / _tail("C", 10.0),
    "T02.4": lambda: _tail("C", 20.0),
    "T03.1": lambda: let_middle("C"),
    "T03.2": lambda: 100 * (let_middle("C", "primary") / let_middle("C") - 1),
    "T03.3": lambda: let_middle("Ne"),
    "T03.4": lambda: let_middle("O") / let_middle("C"),
    "T04.1": lambda: d10(6),
    "T04.2": lambda: d10(2),
    "T04.3": lambda: d10(10),
    "T04.4": lambda: 4.08 / d10(6),
    "T04.5": oer_fall,
    "T05.1": lambda: _at(_doses("C")["physical"], 130.0),
    "T05.2": lambda: factor("C"),
    "T05.3": lambda: factor("C", 20.0),
    "T05.4": lambda: factor("Ne"),
    "T05.5": lambda: rbe.convert_prescription(3.0, source="LEM-I", target="NIRS-mMKM").dose_per_fraction,
    "T05.7": lambda: 66 * (3 + 2) / (2 + 2),
    "T06.1": lambda: (3 * 100e3 / (4 * np.pi)) ** (1 / 3),
    "T06.2": lambda: 2.0**3,
    "T07.1": lambda: 0.025 * 211,
    "T07.2": lambda: len(ionrt.plan.scenario_set(together=True)),
    "T07.5": lambda: 100 * 46.6 / 48,
    "T08.1": _slab,
    "T08.4": lambda: float(np.linalg.norm([4, -3, 6])),
    "T08.5": lambda: (2 * 40 + 1 * 70) / 3,
    "T09.1": lambda: 73.6 / 16,
    "T09.3": lambda: 40 / 28,
    "T10.4": lambda: 1e8 / 1e6,
    "T11.1": lambda: incidence(1),
    "T11.2": lambda: incidence(2),
    "T11.3": lambda: 100 - incidence(1) - incidence(2),
    "T11.4": one_minus_km,
    "T12.1": lambda: 0.74**0.1,
    "T12.3": lambda: 100 * outcome.binomial_ci(16, 77)["upper"][0],
    "T12.4": lambda: 100 * outcome.binomial_ci(16, 77)["lower"][0],
    "T13.1": lambda: 100 * outcome.binomial_ci(0, 6)["upper"][0],
    "T13.2": lambda: trial.boin(0.25).lambda_e,
    "T13.3": lambda: trial.boin(0.25).lambda_d,
    "T13.4": lambda: _simon("optimal", "n"),
    "T13.5": lambda: _simon("optimal", "n1"),
    "T13.6": lambda: trial.schoenfeld(0.62),
    "T13.7": lambda: trial.schoenfeld(0.62, allocation=2.0),
    "T14.2": lambda: 100 * (1 - 23 / 1000),
}


SLIPS = {  # usual wrong answers that are the right answer to another question
    ("T00.1", 21.7): lambda: float(ionrt.patient.volumes(open_patient("")).sel(structure="GTV")),
    ("T00.2", 261.0): lambda: _range("p", 200.0),
    ("T01.1", 309.0): lambda: _range("C"),
    ("T01.1", 185.2): lambda: _range("Ne"),
    ("T01.2", 145.3): lambda: float(beam.energy_for_range("p", 150.0)[0]),
    ("T02.1", 0.091): lambda: _tail("Ne", 10.0),
    ("T03.1", 58.0): lambda: let_middle("C", "primary"),
    ("T03.1", 39.8): lambda: let_middle("C", depth=101.0),
    ("T03.1", 85.0): lambda: let_middle("C", depth=155.0),
    ("T03.3", 117.6): lambda: let_middle("Ne", "primary"),
    ("T03.3", 75.4): lambda: let_middle("O"),
    ("T03.4", 1.58): lambda: _stopping("O", 30.0) / _stopping("C", 30.0),
    ("T03.4", 1.51): lambda: let_middle("O", "primary") / let_middle("C", "primary"),
    ("T05.1", 1.16): lambda: _at(_doses("C")["physical"], 155.0),
    ("T05.4", 0.98): lambda: factor("O"),
    ("T05.7", 71.5): lambda: 66 * (3 + 10) / (2 + 10),
    ("T06.1", 31.7): lambda: (100e3 / np.pi) ** (1 / 3),
    ("T11.1", 36.4): one_minus_km,
    ("T11.1", 49.4): lambda: incidence(2),
    ("T13.1", 39.3): lambda: 100 * (1 - 0.05 ** (1 / 6)),
    ("T13.4", 33): lambda: _simon("minimax", "n"),
    ("T13.4", 18): lambda: _simon("minimax", "n1"),
    ("T13.6", 183.9): lambda: trial.schoenfeld(0.62, power=0.9),
}
