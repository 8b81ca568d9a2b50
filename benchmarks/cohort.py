"""Coverage of the effects planted in the SYNTHETIC cohort, and what the cohort room costs.

python benchmarks/cohort.py [cohorts]
"""

from __future__ import annotations

import sys
import time

import numpy as np
import pandas as pd
from tqdm import tqdm

from ionrt import cohort, outcome

PATIENTS = 1000
ORGAN = {"D2cc": "oar_d2cc", "Mean": "oar_let_d"}


def estimates(seed: int) -> pd.DataFrame:
    """The adjusted analysis of one cohort, patients of one dose system, indications as strata."""
    tables = cohort.synthetic(PATIENTS, seed)
    local = cohort.endpoint_table(tables, "LC").query("rbe_model == 'NIRS_MMKM'").dropna(subset=["let_d_mean"])
    death = cohort.endpoint_table(tables, "OS").dropna(subset=["ecog"])
    organ = tables["dose_metric"].pivot(index="cid", columns="metric", values="value").rename(columns=ORGAN).reset_index()
    late = outcome.toxicity_times(tables["toxicity"], cohort.patient_table(tables), grade=2, late_from=0)
    late = late.query("rbe_model == 'NIRS_MMKM'").merge(organ, on="cid").assign(event=lambda t: (t["code"] == 1).astype(int))
    fits = {
        "LC": outcome.cox(local, "log_gtv + let_d_mean + rx_dose", "day", "event", strata="indication"),
        "LC without the volume": outcome.cox(local, "let_d_mean + rx_dose", "day", "event", strata="indication"),
        "OS": outcome.cox(death, "ecog + treat_year", "day", "event", strata="indication"),
        "late": outcome.cox(late, "oar_d2cc + oar_let_d + log_gtv", "time", "event", strata="indication"),
    }
    return pd.concat([fit[["term", "coef", "se", "lower", "upper"]].assign(model=name) for name, fit in fits.items()])


def coverage(cohorts: int) -> pd.DataFrame:
    """Share of 95 % intervals that contain the planted value, with its binomial standard error."""
    fits = pd.concat([estimates(seed) for seed in tqdm(range(cohorts), disable=None)])
    fits["planted"] = [cohort.PLANTED[model.split()[0]][term] for model, term in zip(fits["model"], fits["term"], strict=True)]
    limits = np.log(fits[["lower", "upper"]])  # of hazard ratios
    fits["inside"] = limits["lower"].le(fits["planted"]) & limits["upper"].ge(fits["planted"])
    groups = fits.groupby(["model", "term"], sort=False)
    out = groups.agg(
        planted=("planted", "first"), mean=("coef", "mean"), sd=("coef", "std"), se=("se", "mean"), coverage=("inside", "mean")
    )
    out["coverage_se"] = np.sqrt(out["coverage"] * (1 - out["coverage"]) / cohorts)
    return out.reset_index()


def seconds(label: str, call) -> None:
    start = time.perf_counter()
    call()
    print(f"{label:<55s} {time.perf_counter() - start:7.2f} s")


def main() -> None:
    tables = cohort.synthetic(100_000, 1)
    centres = cohort.split(cohort.synthetic(10_000, 1, indication="head_neck"))
    zhang = next(iter(cohort.CONVERSIONS))
    seconds("synthetic, 100 000 patients", lambda: cohort.synthetic(100_000, 1))
    seconds("validate, 100 000 patients", lambda: cohort.validate(tables))
    seconds("pool with a conversion, 10 000 patients", lambda: cohort.pool(centres["centre_B"], centres["centre_C"], zhang))
    seconds("summary of a site, 100 000 patients", lambda: cohort.summary(tables, site="centre_B"))
    cohorts = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    print(f"\n{cohorts} SYNTHETIC cohorts of {PATIENTS} patients: planted and estimated log hazard ratios, 95 % coverage")
    print(coverage(cohorts).round(4).to_string(index=False))


if __name__ == "__main__":
    main()
