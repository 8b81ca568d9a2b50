"""Every number that R, published tables and closed forms give for the outcome analyses."""

from __future__ import annotations

import csv
import functools
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ionrt import outcome

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("IONRT_SHARED", ROOT.parent / "shared"))
TABLE = SHARED / "reference" / "statistics" / "reference.csv"
CASES = ("S1", "S2", "S3", "S4", "S5", "S8", "S12", "D8", "D10", "D11", "D12")

# dose [log10 mg CS2/l], beetles, killed
BLISS = pd.DataFrame(
    {
        "dose": [1.6907, 1.7242, 1.7552, 1.7842, 1.8113, 1.8369, 1.8610, 1.8839],
        "n": [59, 60, 62, 56, 63, 59, 62, 60],
        "killed": [6, 13, 18, 28, 52, 53, 61, 60],
    }
)
HISTOGRAM = pd.DataFrame({"dose": [10.0, 20, 30, 40, 50, 60], "volume": [0.30, 0.25, 0.20, 0.12, 0.08, 0.05]})


def reference_rows():
    """(case, quantity, value, tolerance) of the shared table; one row that skips where the table is absent."""
    if not TABLE.exists():
        return [pytest.param("", "", 0.0, 0.0, id="no shared table")]
    with TABLE.open() as f:
        rows = [r for r in csv.DictReader(f) if r["case"] in CASES]
    return [
        pytest.param(
            r["case"], r["quantity"], float(r["value"]), float(r["rel_tol_suggested"]), id=f"{r['case']} {r['quantity']}"
        )
        for r in rows
    ]


@functools.cache
def read(name: str) -> pd.DataFrame:
    df = pd.read_csv(SHARED / "data" / "statistics" / name)
    if name == "veteran.csv":
        df["celltype"] = pd.Categorical(df.celltype, ["squamous", "smallcell", "adeno", "large"])
    return df


def short(term: str) -> str:
    """celltype[T.adeno] as R calls it."""
    return term.replace("C(", "").replace(")", "").replace("[T.", "").replace("]", "")


def s1() -> dict[str, float]:
    out = {}
    v = read("veteran.csv")
    km = outcome.kaplan_meier(v, "time", "status", by="trt", at=[0, 90, 180, 365])
    log = outcome.kaplan_meier(v, "time", "status", by="trt", at=[0], confidence="log").set_index("stratum")
    for row in km.to_dict("records"):
        arm = f"arm{row['stratum']}"
        out |= {f"{arm}.n": row["n"], f"{arm}.events": row["n_events"], f"{arm}.median": row["median"]}
        out |= {f"{arm}.median.lo.loglog": row["median_lower"], f"{arm}.median.hi.loglog": row["median_upper"]}
        out |= {
            f"{arm}.median.{end}.log": log.loc[row["stratum"], f"median_{name}"]
            for end, name in (("lo", "lower"), ("hi", "upper"))
        }
        names = {"S": "survival", "atrisk": "at_risk", "se": "se", "lo.loglog": "lower", "hi.loglog": "upper"}
        out |= {f"{arm}.t{row['time']:g}.{key}": row[name] for key, name in names.items()}
    return out


def s2() -> dict[str, float]:
    v = read("veteran.csv")
    tests = {
        "logrank": outcome.logrank(v, "time", "status", "trt"),
        "stratified": outcome.logrank(v, "time", "status", "trt", strata="celltype"),
        "peto": outcome.logrank(v, "time", "status", "trt", weights="peto-peto"),
        "celltype.4groups": outcome.logrank(v, "time", "status", "celltype"),
    }
    return {f"{n}.{a}": t[b][0] for n, t in tests.items() for a, b in (("chisq", "chi2"), ("p", "p"))}


def s3() -> dict[str, float]:
    r = outcome.rmst(read("veteran.csv"), "time", "status", by="trt", tau=365)
    out = {f"RMST.arm{i}.{c}": r[c][i] for i in (0, 1) for c in ("rmst", "se")}
    return out | {
        "diff": r.difference[1],
        "diff.lo": r.difference_lower[1],
        "diff.hi": r.difference_upper[1],
        "diff.p": r.p[1],
    }


def s4() -> dict[str, float]:
    out, call = {}, (read("veteran.csv"), "trt + karno + age + celltype", "time", "status")
    for ties in ("efron", "breslow"):
        fit = outcome.cox(*call, ties=ties)
        out[f"{ties}.loglik"] = fit.attrs["loglik"]
        out["concordance"] = out.get("concordance", fit.attrs["concordance"])
        for row in fit.to_dict("records"):
            out |= {f"{ties}.{c}.{short(row['term'])}": row[c] for c in ("coef", "se")}
    for row in outcome.ph_test(*call).to_dict("records"):
        out |= {f"zph.chisq.{row['term']}": row["chi2"], f"zph.p.{row['term']}": row["p"]}
    return out


def s5() -> dict[str, float]:
    call = {"start": "start", "formula": "age + year + surgery + C(transplant)", "time": "stop", "event": "event"}
    plain, robust = outcome.cox(read("heart.csv"), **call), outcome.cox(read("heart.csv"), **call, cluster="id")
    out = {f"{c}.{short(row['term'])}": row[c] for row in plain.to_dict("records") for c in ("coef", "se")}
    return out | {f"robust.se.{short(t)}": se for t, se in zip(robust.term, robust.se, strict=True)}


def s8() -> dict[str, float]:
    b, out = read("bmtcrr.csv"), {}
    for group in ("D", "Phase"):
        for row in outcome.gray_test(b, "ftime", "Status", group).to_dict("records"):
            out |= {f"bmtcrr.Gray.{group}.cause{row['cause']}.{k}": row[c] for k, c in (("stat", "chi2"), ("p", "p"))}
    for row in outcome.cumulative_incidence(b, "ftime", "Status", by="D", at=[12, 24, 60]).to_dict("records"):
        out[f"bmtcrr.CIF.{row['stratum']}_{row['cause']}.t{row['time']:g}"] = row["incidence"]
    fit = outcome.fine_gray(b, "Sex + D + Phase + Age + Source", "ftime", "Status")
    out |= {f"bmtcrr.crr.{c}.{short(row['term'])}": row[c] for row in fit.to_dict("records") for c in ("coef", "se")}
    return out | {"bmtcrr.crr.loglik": fit.attrs["loglik"]}


def s12() -> dict[str, float]:
    fits = [
        pd.DataFrame({"term": ["x"], "coef": [q], "se": [np.sqrt(u)]})
        for q, u in zip([0.42, 0.51, 0.38, 0.47, 0.44], [0.040, 0.038, 0.043, 0.041, 0.039], strict=True)
    ]
    row = outcome.pool_imputations(fits, complete_df=198).iloc[0]
    names = {"qbar": "coef", "ubar": "within", "b": "between", "t": "total", "df": "df", "fmi": "fmi", "r": "r"}
    return {a: row[b] for a, b in names.items()}


def d8() -> dict[str, float]:
    out = {}
    for name, method in (("Clopper-Pearson", "clopper-pearson"), ("Wilson", "wilson")):
        for row in outcome.binomial_ci([0, 1, 3, 5], [16, 18, 18, 45], method=method).to_dict("records"):
            out |= {f"{name} {row['events']}/{row['n']} {a}": row[b] for a, b in (("lo", "lower"), ("hi", "upper"))}
    return out


def d10() -> dict[str, float]:
    out = {}
    for link in ("logit", "probit", "cloglog"):
        fit = outcome.fit_ntcp(BLISS, "dose", "killed", total="n", link=link)
        out |= {f"beetle {link} b{i}": fit.coef[i] for i in (0, 1)} | {f"beetle {link} deviance": fit.attrs["deviance"]}
        out |= {f"beetle {link} TD50": fit.attrs["td50"], f"beetle {link} m": fit.attrs["m"]}
    return out


def d11() -> dict[str, float]:
    out = {f"gEUD n={n}": outcome.geud(HISTOGRAM, 1 / n) for n in (0.035, 0.012, 1)}
    for n, m, td50 in ((0.035, 0.1, 63.6), (0.09, 0.13, 76.9)):
        out[f"NTCP n={n} m={m} TD50={td50}"] = outcome.lkb(HISTOGRAM, n=n, m=m, td50=td50)
    return out


def d12() -> dict[str, float]:
    sites = read("bcg.csv").assign(estimate=lambda d: d.yi, se=lambda d: np.sqrt(d.vi))
    out = {}
    for method in ("DL", "REML", "FE"):
        row = outcome.meta_analysis(sites, method=method).iloc[0]
        out |= {f"bcg {method} {a}": row[b] for a, b in (("est", "estimate"), ("se", "se"), ("tau2", "tau2"), ("I2", "i2"))}
    return out


@functools.cache
def computed(case: str) -> dict[str, float]:
    return {
        "S1": s1,
        "S2": s2,
        "S3": s3,
        "S4": s4,
        "S5": s5,
        "S8": s8,
        "S12": s12,
        "D8": d8,
        "D10": d10,
        "D11": d11,
        "D12": d12,
    }[case]()


@pytest.mark.parametrize(("case", "quantity", "value", "tolerance"), reference_rows())
def test_reference_value(case, quantity, value, tolerance, shared):
    if not case:
        shared("reference/statistics/reference.csv")
    assert computed(case)[quantity] == pytest.approx(value, rel=tolerance, abs=1e-12)


def gehan() -> pd.DataFrame:
    """Weeks of remission (negative: censored) under 6-MP and placebo."""
    drug = [6, 6, 6, -6, 7, -9, 10, -10, -11, 13, 16, -17, -19, -20, 22, 23, -25, -32, -32, -34, -35]
    placebo = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
    weeks = np.array(drug + placebo)
    return pd.DataFrame({"time": abs(weeks), "event": (weeks > 0).astype(int), "placebo": [0] * 21 + [1] * 21})


@functools.cache
def published() -> dict[tuple[str, str], float]:
    d10_, d11_, d8_, s12_, g = d10(), d11(), d8(), s12(), gehan()
    km = outcome.kaplan_meier(g, "time", "event", by="placebo", at=[6, 23])
    out = {("bliss", k.removeprefix("beetle ").replace("TD50", "td50")): v for k, v in d10_.items()}
    out |= {("rectum", k): v for k, v in d11_.items()} | {("binomial", k): v for k, v in d8_.items()}
    out |= {("rubin", k): v for k, v in s12_.items()}
    return out | {
        ("gehan", "km 6mp day 6"): km.survival[0],
        ("gehan", "km 6mp day 23"): km.survival[1],
        ("gehan", "median 6mp"): km["median"][0],
        ("gehan", "median placebo"): km["median"][2],
        ("gehan", "logrank chi2"): outcome.logrank(g, "time", "event", "placebo").chi2[0],
        ("gehan", "breslow coef"): outcome.cox(g, "placebo", "time", "event", ties="breslow").coef[0],
    }


PUBLISHED = pd.read_csv(ROOT / "tests" / "reference" / "outcome.csv", comment="#")


@pytest.mark.parametrize(("case", "quantity", "value", "tolerance"), list(PUBLISHED.itertuples(index=False, name=None)))
def test_published_value(case, quantity, value, tolerance):
    assert published()[case, quantity] == pytest.approx(value, rel=tolerance)
