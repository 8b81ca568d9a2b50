"""Coverage of the effects planted in the SYNTHETIC cohort, and what the cohort room costs.

python benchmarks/cohort.py                            seconds; coverage of 100 cohorts
python benchmarks/cohort.py coverage COHORTS [FILE]    coverage of cohorts with the seeds 0, 1, 2, ...; the table into FILE
python benchmarks/cohort.py features [STUDIES]         DICOM studies to 50 metrics each
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from ionrt import cohort, outcome
from ionrt.cohort.exchange import CONVERSIONS

PATIENTS = 1000
WORDS = {
    "LC": "local control", "LC without the volume": "local control without the volume", "OS": "death", "late": "late toxicity",
    "log_gtv": "GTV volume", "let_d_mean": "LETd in the GTV", "rx_dose": "dose", "ecog": "ECOG", "treat_year": "calendar year",
    "oar_d2cc": "D2cc", "oar_let_d": "LETd in the organ",
}  # fmt: skip
METRICS = ["Mean", "D2"]  # of dose and LETd in 13 structures: 52 metrics a study
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
    """Share of 95 % intervals that contain the planted value, with its binomial standard error; also of the first 400."""
    fits = pd.concat([estimates(seed).assign(seed=seed) for seed in tqdm(range(cohorts), disable=None)])
    return summarised(fits)


def summarised(fits: pd.DataFrame) -> pd.DataFrame:
    """One row per analysis and term."""
    planted = [cohort.PLANTED[name.split()[0]][term] for name, term in zip(fits["model"], fits["term"], strict=True)]
    limits = np.log(fits[["lower", "upper"]])  # of hazard ratios
    fits = fits.rename(columns={"model": "analysis"}).assign(planted=planted)
    fits["inside"] = limits["lower"].le(fits["planted"]) & limits["upper"].ge(fits["planted"])
    fits["first"] = fits["inside"].where(fits["seed"] < 400).astype("float64")
    out = fits.groupby(["analysis", "term"], sort=False).agg(
        planted=("planted", "first"), mean=("coef", "mean"), sd=("coef", "std"), se=("se", "mean"),
        coverage=("inside", "mean"), coverage_400=("first", "mean"), cohorts=("inside", "size"),
    )  # fmt: skip
    out.insert(5, "coverage_se", np.sqrt(out["coverage"] * (1 - out["coverage"]) / out["cohorts"]))
    out = out.reset_index().round(5)
    out.insert(2, "covariate", out["term"].map(WORDS))
    return out.replace({"analysis": WORDS})


def seconds(label: str, call: Callable[[], object]) -> None:
    """Wall and processor seconds of one call; on a busy machine only the second number means something."""
    start, used = time.perf_counter(), time.process_time()
    call()
    print(f"{label:<50s} {time.perf_counter() - start:7.2f} s {time.process_time() - used:7.2f} s of processor", flush=True)


def studies(root: Path, count: int) -> None:
    """SYNTHETIC studies: the pelvis phantom at 10 mm (13 structures) with dose and LETd; ten dose levels in turn."""
    from ionrt.patient import read_dicom, write_phantom, write_rtdose

    first = write_phantom(root / "STUDY-00000", pixel=10.0, slice_distance=10.0)
    patient = read_dicom(first)
    hill = np.exp(-((patient["y"] / 60.0) ** 2) - (patient["x"] / 80.0) ** 2).broadcast_like(patient["ct"])
    for i in range(count):
        folder = root / f"STUDY-{i:05d}"
        if i:
            shutil.copytree(first, folder, ignore=shutil.ignore_patterns("RD*"))
        for name, level, unit in (("dose", 40.0 + i % 10, "Gy"), ("let_d", 30.0 + i % 10, "keV/um")):
            target = folder / f"RD_{name}.dcm"
            if i < 10:
                da = (level * hill).astype("float32").rename(name).assign_attrs(units=unit, let_definition="charged")
                write_rtdose(da.transpose("z", "y", "x"), patient, target, fractions=1 if name == "dose" else None)
            else:
                shutil.copy(root / f"STUDY-{i % 10:05d}" / target.name, target)


def features(count: int) -> None:
    """Seconds from folders of DICOM to the feature table."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "studies"
        seconds(f"write {count} studies", lambda: studies(root, count))
        call = partial(cohort.patient_features, root, Path(folder) / "out", metrics=METRICS, origin="SYNTHETIC")
        seconds(f"{count} studies to dose_metric, two processes", partial(call, processes=2))
        seconds("again, nothing left to do", call)
        table = call()
        print(f"{len(table)} rows, {len(table) / count:.0f} metrics per study, {len(table.attrs['failures'])} failures")


def main() -> None:
    tables = cohort.synthetic(100_000, 1)
    centres = cohort.split(cohort.synthetic(10_000, 1, indication="head_neck"))
    zhang = next(iter(CONVERSIONS))
    seconds("synthetic, 100 000 patients", lambda: cohort.synthetic(100_000, 1))
    seconds("validate, 100 000 patients", lambda: cohort.validate(tables))
    seconds("pool with a conversion, 10 000 patients", lambda: cohort.pool(centres["centre_B"], centres["centre_C"], zhang))
    with tempfile.TemporaryDirectory() as register:
        call = partial(cohort.summary, tables, site="centre_B", register=register)
        seconds("summary of a site, 100 000 patients", call)
        seconds("again, all as exported before", call)
    report(100)


def report(cohorts: int, file: str = "") -> None:
    table = coverage(cohorts)
    print(f"\n{cohorts} SYNTHETIC cohorts of {PATIENTS} patients: planted and estimated log hazard ratios, 95 % coverage")
    print(table.to_string(index=False))
    if file:
        table.to_csv(file, index=False, lineterminator="\n")


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or ["seconds"]
    {"seconds": main, "coverage": lambda n, *f: report(int(n), *f), "features": lambda n="1000": features(int(n))}[what](*rest)
