"""Tables from anybody, put to every statistic: a result, or an IonrtError; never a library's exception, never nonsense."""

from __future__ import annotations

import fuzz
import numpy as np
import pandas as pd
import pytest

from ionrt import outcome, trial
from ionrt.quantities import IonrtError

DAY = pd.Timedelta(1, "D")
CALLS = {
    "kaplan_meier": lambda d: outcome.kaplan_meier(d, "t", "e", by="g", at=[1.0, 5.0]),
    "late entry": lambda d: outcome.kaplan_meier(d, "t", "e", start="s", weights="w"),
    "at_risk": lambda d: outcome.at_risk(d, "t", "e", by="g"),
    "rmst": lambda d: outcome.rmst(d, "t", "e", "g", tau=2.0),
    "logrank": lambda d: outcome.logrank(d, "t", "e", "g", strata="h", start="s"),
    "cumulative_incidence": lambda d: outcome.cumulative_incidence(d, "t", "e", by="g", variance="aalen"),
    "gray_test": lambda d: outcome.gray_test(d, "t", "e", "g"),
    "cox": lambda d: outcome.cox(d, "x + g", "t", "e", start="s", weights="w"),
    "fine_gray": lambda d: outcome.fine_gray(d, "x + g", "t", "e"),
    "fit_ntcp": lambda d: outcome.fit_ntcp(d, "x", "e"),
    "iptw": lambda d: outcome.iptw(d, "g", "x"),
    "calibration": lambda d: outcome.calibration(d, "p", "e", "t", at=3.0),
    "meta_analysis": lambda d: outcome.meta_analysis(d, "x", "w"),
    "ph_test": lambda d: outcome.ph_test(d, "x + g", "t", "e"),
    "actuarial": lambda d: outcome.fit_actuarial_ntcp(d, "x", "t", "e"),
    "balance": lambda d: outcome.balance(d, "g", "x + p"),
    "impute": lambda d: outcome.impute(d, ["x"], predictors=["t", "g"], m=2, burn_in=2)[0][["x"]],
    "pool_imputations": lambda d: outcome.pool_imputations([d.assign(term="a", coef=d["x"], se=d["w"]).iloc[:1]] * 3),
    "worst_grade": lambda d: outcome.worst_grade(
        d.assign(pid=range(len(d)), grade=d["h"], scale="CTCAE 5.0"), pd.DataFrame({"pid": range(len(d))})
    ),
    "toxicity_times": lambda d: outcome.toxicity_times(
        d.assign(pid=range(len(d)), grade=d["h"], scale="CTCAE 5.0", day_from=d["s"], day_to=d["t"]),
        d.assign(pid=range(len(d)), last_day=d["t"], dead=d["e"]),
        grade=2,
        late_from=0.0,
    )[["time", "code"]],
    "delta_ntcp": lambda d: outcome.delta_ntcp_rule(d.assign(pid=range(len(d)), grade=d["h"]), reference="p", candidate="p"),
    "fit_lkb": lambda d: outcome.fit_lkb(
        d.assign(pid=range(len(d)), dose=d["t"], volume=d["w"]), d.assign(pid=range(len(d))), event="e", n=0.5
    ),
    "tite_crm": lambda d: trial.crm([0.1, 0.2, 0.3], 0.2, window=9).fit(d["h"], d["g"], follow_up=d["t"]),
    "boin": lambda d: trial.boin(0.3, levels=len(d)).select(d["e"], d["h"]),
}
OURS = ("tite_crm", "boin", "pool_imputations", "worst_grade", "toxicity_times", "delta_ntcp", "fit_lkb")
ODD = [
    np.nan, np.inf, -np.inf, -1.0, 0.0, 1e-300, 1e300, 0.5, 3, 10**30, None, "", "1,5", "5", "한글", True, DAY, pd.NaT,
    pd.Timestamp(0), 1j, pd.NA, [1], {}, b"1",
]  # fmt: skip
WHOLE = [
    lambda c: c * DAY if c.dtype == float else c.astype(str),
    lambda c: pd.Timestamp("2020-01-01") + pd.to_timedelta(c, unit="D"),
    lambda c: c.astype(str),
    lambda c: c.astype("category"),
    lambda c: c * 0,
    lambda c: -c,
    lambda c: c * 1e300,
    lambda c: c * 1e-300,
    lambda c: c.astype(object),
    lambda c: c.astype("Float64"),
    lambda c: c + 1j,
    lambda c: c.iloc[::-1].to_numpy(),
    lambda c: np.round(c),
    lambda c: c * np.nan,
    lambda c: c.astype("float16"),
    lambda c: c > c.mean(),
    lambda c: c * (1 + 1e-15),
]


def table(rng: np.random.Generator) -> pd.DataFrame:
    n = int(rng.choice([1, 2, 5, 30]))
    t = rng.exponential(5, n).round(int(rng.integers(0, 3))) + 0.5
    df = pd.DataFrame({"t": t, "s": t * rng.uniform(0, 0.9, n), "e": rng.integers(0, 2, n).astype(float)})
    return df.assign(
        g=rng.integers(0, 2, n) * 1.0,
        h=rng.integers(1, 4, n) * 1.0,
        x=rng.normal(size=n),
        w=rng.uniform(0.5, 2, n),
        p=rng.random(n),
    )


def spoiled(rng: np.random.Generator) -> pd.DataFrame:
    df = table(rng)
    for _ in range(int(rng.integers(0, 3))):
        column, what = df.columns[rng.integers(len(df.columns))], rng.random()
        if what < 0.5:
            values = df[column].astype(object)
            values.iloc[rng.integers(len(df))] = ODD[rng.integers(len(ODD))]
            df[column] = values if rng.random() < 0.5 else values.infer_objects()
        elif what < 0.85:
            try:
                df[column] = WHOLE[rng.integers(len(WHOLE))](df[column])
            except (TypeError, ValueError, OverflowError, NotImplementedError, pd.errors.OutOfBoundsDatetime):
                continue  # pandas itself has no such column
        elif len(df.columns) > 1:
            df = df.drop(columns=column)
    return df


def sane(result: object) -> str:
    """Probabilities within 0..1, errors not negative; NaN where nothing can be said is allowed."""
    if not isinstance(result, pd.DataFrame):
        return ""
    for name in ("survival", "incidence", "event_free", "p", "propensity", "predicted"):
        if name in result and ((result[name] < -1e-9) | (result[name] > 1 + 1e-9)).any():
            return f"{name} out of 0..1"
    return next((f"{c} negative" for c in ("se", "weight", "chi2", "at_risk") if c in result and (result[c] < -1e-9).any()), "")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_spoiled_tables(name):
    def attempt(rng):
        df = spoiled(rng)
        try:
            return sane(CALLS[name](df))
        except KeyError:
            if name in OURS:
                return ""  # df["column"] of the test itself
            raise

    fuzz.hold(attempt, seeds=(1, 2), n=fuzz.tries(40))


def test_every_refusal_is_one_line():
    rng, lines = np.random.default_rng(3), set()
    for _ in range(60):
        try:
            outcome.kaplan_meier(spoiled(rng), "t", "e", by="g")
        except IonrtError as error:
            lines.add("\n" in str(error))
    assert lines == {False}
