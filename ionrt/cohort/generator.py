"""A SYNTHETIC exchange cohort: published survival on average, planted effects in the individual, three invented centres.

Nothing in it comes from a patient. centre_A refers and follows up, centre_B treats under NIRS_MMKM, centre_C treats part
of the head and neck patients under LEM_I.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ionrt.cohort.anchors import DAYS, Array, Law, curve, draw, normal_law, published, sum_law
from ionrt.cohort.schema import Tables, dictionary, typed
from ionrt.quantities import IonrtError, one_of

Text = NDArray[np.str_]
ORIGIN = "SYNTHETIC"
HANDOVER_DAY = 90  # last visit at the treating centre
YEARS = np.arange(2011, 2026)
DATA_CUT = 2027.0
LEM_SHARE = 0.3  # of the head and neck patients
LEM_RX, LEM_FRACTIONS = 66.0, 22
LEM_OVER_MKM = 1.37  # at 3.00 Gy (RBE) per fraction, doi 10.1186/s13014-020-01723-z
ECOG = np.array([0.60, 0.32, 0.08])
LOG_GTV_SD, LET_MEAN, LET_SD, LET_GTV_CORRELATION = 0.7, 50.0, 6.0, -0.6
OAR_DOSE_SD, OAR_LET_MEAN, OAR_LET_SD = 6.0, 40.0, 8.0

# Planted log hazard ratios; an analysis that adjusts for the confounders has to give them back. The calendar year has none:
# with one, early patients (long follow-up) would pull the curves away from the published numbers.
PLANTED = {
    "LC": {"log_gtv": 0.40, "let_d_mean": -0.03, "rx_dose": -0.25},  # per ln(cm3), per keV/um, per Gy (RBE); rx: recurrent only
    "OS": {"ecog": float(np.log(1.6)), "treat_year": 0.0},
    "late": {"oar_d2cc": 0.06, "oar_let_d": 0.03, "log_gtv": 0.20},  # per Gy (RBE), keV/um, ln(cm3)
}


@dataclass(frozen=True)
class Site:
    """What the generator needs to know of an indication beside the published outcomes."""

    share: float
    gtv_median: float  # cm3
    rx: tuple[float, ...]  # Gy (RBE)
    rx_share: tuple[float, ...]
    fractions: int
    age: float
    organ: str
    late: str = ""


SITES = {
    "prostate": Site(0.24, 30.0, (57.6,), (1.0,), 16, 70, "Bladder", "late_GU_G2"),
    "head_neck": Site(0.22, 27.0, (57.6,), (1.0,), 16, 62, "Bone_Mandible", "late_any_G3"),
    "sarcoma": Site(0.13, 300.0, (70.4,), (1.0,), 16, 55, "Skin", "late_skin_G3"),
    "recurrent": Site(0.12, 60.0, (67.2, 70.4, 73.6), (10 / 92, 19 / 92, 63 / 92), 16, 62, "Bowel_Small", "late_any_G3"),
    "pancreas": Site(0.10, 35.0, (55.2,), (1.0,), 12, 66, "Duodenum", "late_GI_G3"),
    "liver": Site(0.08, 40.0, (52.8,), (1.0,), 4, 72, "Stomach"),
    "lung": Site(0.06, 12.0, (50.0,), (1.0,), 1, 74, "Chestwall"),
    "paediatric": Site(0.03, 250.0, (70.4,), (1.0,), 16, 15, "Skin", "late_any_G3"),
    "kidney": Site(0.02, 45.0, (72.0,), (1.0,), 12, 67, "Bowel_Small"),
}


def synthetic(n: int, seed: int, *, indication: str | None = None) -> Tables:
    """A SYNTHETIC cohort of `n` patients with published outcomes on average and planted covariate effects.

    Parameters
    ----------
    n : number of patients (>= 1).
    seed : the same seed gives the same tables.
    indication : all patients of one indication (default: a mix).

    Returns
    -------
    Six tables, origin SYNTHETIC in every row and in `attrs`; `attrs["planted"]` holds beta. The effects are in `PLANTED`; local
    control, late toxicity and survival depend on different covariates, so that death censors local control without bias.

    Raises
    ------
    IonrtError
        N < 1 or an unknown indication.

    References
    ----------
    Survival: h(t | x) = h0(t) exp(beta x), h0 such that the population has the published curve of its indication.

    Examples
    --------
    >>> tables = ionrt.cohort.synthetic(20, seed=1)
    >>> len(tables["patient"]), sorted(tables["patient"]["origin"].unique())
    (20, ['SYNTHETIC'])
    """
    if n < 1:
        raise IonrtError(f"n: expected at least one patient, got {n}")
    rng = np.random.default_rng(seed)
    if indication is None:
        names = np.array(list(SITES))
        kind = rng.choice(names, size=n, p=[s.share for s in SITES.values()])
    else:
        kind = np.full(n, one_of(indication, list(SITES), what="indication"))
    people = _people(rng, kind)
    times = _times(rng, people)
    tables = {
        "patient": _patient(rng, people),
        "course": _course(rng, people),
        "dose_metric": _dose_metric(people),
        "event": _event(people, times),
        "toxicity": _toxicity(rng, people, times),
        "followup": _followup(people, times),
    }
    spec = dictionary()["tables"]
    tables = {name: typed(name, table.assign(origin=ORIGIN), spec[name])[0] for name, table in tables.items()}
    for table in tables.values():
        table.attrs = {"origin": ORIGIN, "planted": PLANTED, "seed": seed}
    return tables


def _people(rng: np.random.Generator, kind: Text) -> pd.DataFrame:
    """Covariates of every patient, with the confounding: a large GTV has a low LETd."""
    n = kind.size
    site = pd.DataFrame({k: vars(s) for k, s in SITES.items()}).T.loc[kind]
    volume = rng.standard_normal(n)
    let = LET_GTV_CORRELATION * volume + np.sqrt(1 - LET_GTV_CORRELATION**2) * rng.standard_normal(n)
    dose = {k: rng.choice(s.rx, size=n, p=s.rx_share) for k, s in SITES.items()}
    rx = np.select([kind == k for k in SITES], list(dose.values()))
    lem = (kind == "head_neck") & (rng.random(n) < LEM_SHARE)
    exchanged = lem | (rng.random(n) < 0.6)
    treat = np.where(lem, "centre_C", "centre_B")
    home = np.where(exchanged, "centre_A", treat)
    year = rng.choice(YEARS, size=n)
    width = len(str(n))
    out = pd.DataFrame(
        {
            "pid": [f"SYN-{i:0{max(width, 6)}d}" for i in range(1, n + 1)],
            "indication": kind,
            "age": rng.normal(site["age"].astype(float), np.where(kind == "paediatric", 2.0, 9.0)),
            "sex": np.where((kind == "prostate") | (rng.random(n) < 0.55), "M", "F"),
            "ecog": rng.choice(3, size=n, p=ECOG),
            "log_gtv_z": volume,
            "gtv_volume": site["gtv_median"].to_numpy(dtype=float) * np.exp(LOG_GTV_SD * volume),
            "let_d_mean": LET_MEAN + LET_SD * let,
            "rx": rx,
            "rx_reference": [r[-1] for r in site["rx"]],
            "n_fractions": np.where(lem, LEM_FRACTIONS, site["fractions"]).astype(int),
            "lem": lem,
            "treat_centre": treat,
            "home_centre": home,
            "treat_year": year,
            "entered": year + rng.random(n),
            "organ": site["organ"].to_numpy(),
            "late": site["late"].to_numpy(),
            "oar_dose_z": rng.standard_normal(n),
            "gap": np.exp(np.log(75.0) + 0.6 * rng.standard_normal(n)),
        }
    )
    out["oar_let_z"] = -0.3 * out["oar_dose_z"] + np.sqrt(1 - 0.09) * rng.standard_normal(n)
    low = np.where(kind == "paediatric", 10, np.clip(out["age"].to_numpy() // 10, 2, 9) * 10).astype(int)
    out["age_band"] = np.where(low >= 90, "90+", np.array([f"{a}-{a + 9}" for a in low]))
    return out


def _predictors(people: pd.DataFrame) -> dict[str, tuple[Array, Law]]:
    """Linear predictor of each endpoint and its law in the population of one indication."""
    lc, os, late = PLANTED["LC"], PLANTED["OS"], PLANTED["late"]
    site = SITES[people["indication"].iloc[0]]
    volume, let = lc["log_gtv"] * LOG_GTV_SD, lc["let_d_mean"] * LET_SD
    sd = np.sqrt(volume**2 + let**2 + 2 * LET_GTV_CORRELATION * volume * let)
    dose = lc["rx_dose"] * (people["rx"] - people["rx_reference"])
    local = volume * people["log_gtv_z"] + lc["let_d_mean"] * (people["let_d_mean"] - LET_MEAN) + dose
    doses = (lc["rx_dose"] * (np.array(site.rx) - site.rx[-1]), np.array(site.rx_share))
    death = os["ecog"] * people["ecog"]
    a, b, c = late["oar_d2cc"] * OAR_DOSE_SD, late["oar_let_d"] * OAR_LET_SD, late["log_gtv"] * LOG_GTV_SD
    harm = a * people["oar_dose_z"] + b * people["oar_let_z"] + c * people["log_gtv_z"]
    return {
        "LC": (local.to_numpy(), sum_law(normal_law(float(sd)), doses)),
        "OS": (death.to_numpy(), (os["ecog"] * np.arange(3.0), ECOG)),
        "late": (harm.to_numpy(), normal_law(float(np.sqrt(a**2 + b**2 - 0.6 * a * b + c**2)))),
        "bRFS": (np.zeros(len(people)), (np.zeros(1), np.ones(1))),
    }


def _times(rng: np.random.Generator, people: pd.DataFrame) -> pd.DataFrame:
    """Days of death, failure, toxicity and end of follow-up (inf where it does not come)."""
    out = pd.DataFrame(np.inf, index=people.index, columns=["OS", "LC", "bRFS", "late", "censored"])
    for name, group in people.groupby("indication", sort=True):
        anchored = set(published(str(name))["endpoint"])
        predictors = _predictors(group)
        for endpoint, key in (("OS", "OS"), ("LC", "LC"), ("bRFS", "bRFS"), ("late", SITES[str(name)].late)):
            if key in anchored:
                out.loc[group.index, endpoint] = np.ceil(draw(rng, curve(str(name), key), *predictors[endpoint]) * DAYS)
    out = out.clip(lower=1)
    exchanged = people["home_centre"] != people["treat_centre"]
    lost = rng.exponential(size=len(people)) * DAYS / np.where(exchanged, 0.06, 0.03)
    end = np.minimum(lost, (DATA_CUT - people["entered"]) * DAYS)
    first_home = HANDOVER_DAY + people["gap"]
    unseen = exchanged & (end > HANDOVER_DAY) & (end < first_home)  # never arrived at home: known until the last visit
    out["censored"] = np.maximum(np.floor(np.where(unseen, HANDOVER_DAY, end)), 1)
    out["last"] = np.minimum(out["OS"], out["censored"])
    out["dead"] = out["OS"] <= out["censored"]
    return out


def _patient(rng: np.random.Generator, people: pd.DataFrame) -> pd.DataFrame:
    unknown = rng.random(len(people)) < 0.04
    out = pd.DataFrame(
        {
            "pid": people["pid"],
            "age_band": people["age_band"],
            "sex": people["sex"],
            "ecog": people["ecog"].astype(float).mask(unknown),
            "indication": people["indication"],
            "histology": None,
            "stage": None,
            "prior_rt": people["indication"].eq("recurrent").astype("int64"),
            "refer_centre": people["home_centre"],
            "treat_centre": people["treat_centre"],
            "followup_centre": people["home_centre"],
            "consent_scope": "open",
            "strata": people["indication"],
        }
    )
    return out.astype({"histology": "str", "stage": "str"})


def _model(people: pd.DataFrame) -> Text:
    return np.where(people["lem"], "LEM_I", "NIRS_MMKM")


def _course(rng: np.random.Generator, people: pd.DataFrame) -> pd.DataFrame:
    let = people["let_d_mean"].mask(rng.random(len(people)) < 0.05)  # not every plan was recomputed
    rx = people["rx"].where(~people["lem"], LEM_RX)
    return pd.DataFrame(
        {
            "cid": people["pid"] + "-1",
            "pid": people["pid"],
            "start_day": 0,
            "treat_year": people["treat_year"],
            "modality": "C",
            "share_C": 1.0,
            "rx_verbatim": [f"{d:.1f} Gy (RBE) in {f} fr." for d, f in zip(rx, people["n_fractions"], strict=True)],
            "rx_dose": rx,
            "n_fractions": people["n_fractions"],
            "rbe_model": _model(people),
            "rx_point": np.where(people["lem"], "median", "isocentre"),
            "let_definition": "charged",
            "gtv_volume": people["gtv_volume"],
            "let_d_mean": let,
            "let_d_min": 0.75 * let,
            "let_d_d98": 0.85 * let,
        }
    )


def _dose_metric(people: pd.DataFrame) -> pd.DataFrame:
    """Dose and LETd of the organ at risk; under LEM the same dose has a larger number."""
    cid, system = people["pid"] + "-1", np.where(people["lem"], LEM_OVER_MKM, 1.0)
    d2cc = system * np.maximum(0.6 * people["rx_reference"] + OAR_DOSE_SD * people["oar_dose_z"], 1.0)
    let = np.maximum(OAR_LET_MEAN + OAR_LET_SD * people["oar_let_z"], 1.0)
    columns = ["metric", "value", "unit", "quantity", "rbe_model", "let_definition"]
    parts = []
    for row in (
        ("D2cc", d2cc, "Gy (RBE)", "rbe_dose", _model(people), None),
        ("Mean", let, "keV/um", "let_d", None, "charged"),
    ):
        parts.append(pd.DataFrame({"cid": cid, "structure": people["organ"], **dict(zip(columns, row, strict=True))}))
    return pd.concat(parts, ignore_index=True).sort_values(["cid", "metric"], ignore_index=True)


def _event(people: pd.DataFrame, times: pd.DataFrame) -> pd.DataFrame:
    parts = []
    for endpoint in ("OS", "LC", "bRFS"):
        has = np.isfinite(times[endpoint]) if endpoint != "OS" else np.ones(len(people), dtype=bool)
        day = np.minimum(times[endpoint], times["last"])
        hit = times["dead"] if endpoint == "OS" else times[endpoint] <= times["last"]
        code = np.where(hit, 1, np.where(times["dead"], 2, 0))
        cause = np.where(code == 2, "death", "" if endpoint != "OS" else np.where(hit, "cancer", ""))
        site = np.where(day <= HANDOVER_DAY, people["treat_centre"], people["home_centre"])
        table = pd.DataFrame(
            {"pid": people["pid"], "endpoint": endpoint, "day": day, "code": code, "cause": cause, "site": site}
        )
        parts.append(table[has])
    out = pd.concat(parts, ignore_index=True)
    out["cause"] = out["cause"].where(out["cause"].ne(""), None)
    return out.astype({"day": "int64", "code": "int64"}).sort_values(["pid", "endpoint"], ignore_index=True)


def _toxicity(rng: np.random.Generator, people: pd.DataFrame, times: pd.DataFrame) -> pd.DataFrame:
    """Late toxicity of the published grade, seen at the visit after it began."""
    seen = times["late"] <= times["last"]
    who, day = people[seen], times.loc[seen, "late"].astype("int64")
    clean = np.floor(day - rng.uniform(0, 180, size=len(day))).clip(lower=0).astype("int64")
    return pd.DataFrame(
        {
            "pid": who["pid"],
            "term": who["late"].str.replace(r"_G\d$", "", regex=True),
            "grade": who["late"].str[-1].astype("int64"),
            "scale": "CTCAE4",
            "day_from": day,
            "day_to": np.nan,
            "attribution": "probable",
            "last_clean_day": clean,
        }
    ).reset_index(drop=True)


def _followup(people: pd.DataFrame, times: pd.DataFrame) -> pd.DataFrame:
    """Visits at the treating centre, hand-over gap, visits at home, last contact."""
    first_home = np.ceil(HANDOVER_DAY + np.where(people["home_centre"] != people["treat_centre"], people["gap"], 90.0))
    last = times["last"]
    visits = []
    for day, centre in (
        (np.full(len(people), 30.0), "treat_centre"),
        (np.full(len(people), 90.0), "treat_centre"),
        (first_home, "home_centre"),
    ):
        row = pd.DataFrame({"pid": people["pid"], "day": day, "centre": people[centre], "status": "alive"})
        visits.append(row[day < last])
    status = np.where(
        times["dead"], "dead", np.where(times["censored"] < (DATA_CUT - people["entered"]) * DAYS - 1, "lost", "alive")
    )
    where = np.where(last <= HANDOVER_DAY, people["treat_centre"], people["home_centre"])
    visits.append(pd.DataFrame({"pid": people["pid"], "day": last, "centre": where, "status": status}))
    return pd.concat(visits, ignore_index=True).astype({"day": "int64"}).sort_values(["pid", "day"], ignore_index=True)
