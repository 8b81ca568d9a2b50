"""From a folder of DICOM studies to `dose_metric` rows: one sub-folder per course, resumable, failures listed."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.cohort.schema import dictionary
from ionrt.files import content_hash, read_sealed, write_sealed, write_text
from ionrt.parallel import whole_cluster
from ionrt.quantities import IonrtError, one_of

METRICS = ("Mean", "D98", "D50", "D2")
METRIC = re.compile(r"(?P<kind>[DV])(?P<value>\d+(?:\.\d+)?)(?P<unit>cc|Gy|keV/um)?|Mean|Min|Max")
UNIT = {"dose": "Gy", "rbe_dose": "Gy (RBE)", "let_d": "keV/um"}
SMALL = 2**28  # bytes
FAILED = ["cid", "what", "why"]
Recompute = Callable[[xr.Dataset, Path], Sequence[xr.DataArray]]


def patient_features(
    studies: str | Path,
    out: str | Path,
    *,
    metrics: Mapping[str, Sequence[str]] | Sequence[str] = METRICS,
    structures: Sequence[str] | None = None,
    rbe_model: str | None = None,
    let_definition: str | None = None,
    origin: str = "clinical",
    max_outside: float = 0.01,
    recompute: Recompute | None = None,
    processes: int = 0,
) -> pd.DataFrame:
    """Dose and LET metrics of many studies, as rows of the table `dose_metric`.

    Parameters
    ----------
    studies : folder with one sub-folder per course (CT, RTSTRUCT, RTDOSE); its name is the `cid`, so it must be a pseudonym.
    out : folder for ``dose_metric.csv`` and ``failures.csv``; finished courses are kept there and not computed again while the
        contents of their study's files stay as they are.
    metrics : Mean, Min, Max, D98, D2cc, V40Gy, V55keV/um, ...: one list, or one per structure.
    structures : ROI names (default: all).
    rbe_model, let_definition : what imported RBE-weighted dose and LET mean, where the file does not say it in the terms of the
        dictionary.
    origin : clinical or SYNTHETIC.
    max_outside : largest share of a structure outside the dose grid.
    recompute : function (patient, folder) -> further arrays (for instance LETd recalculated from the plan; settings by
        functools.partial), used in place of an imported array of the same quantity.
    processes : how many to start, for small studies by the hundred, where Python takes the time (a script then needs
        ``if __name__ == "__main__"``); 0: a dask client where there is one, or threads.

    Returns
    -------
    The rows; ``attrs["failures"]`` is the list of what failed and why, also written.

    Raises
    ------
    IonrtError
        A missing folder, an unknown metric or definition; a study that fails does not stop the others.
    """
    import dask
    from tqdm.dask import TqdmCallback

    root, target = Path(studies), Path(out)
    folders = sorted(p for p in root.iterdir() if p.is_dir()) if os.path.isdir(root) else []
    if not folders:
        raise IonrtError(f"{root.name}: expected a folder with one sub-folder per course")
    plan = _Plan(metrics, structures, rbe_model, let_definition, origin, max_outside, recompute)
    parts = {folder.name: target / "courses" / f"{folder.name}.{plan.key}.{_content(folder)}.csv" for folder in folders}
    todo = [folder for folder in folders if _kept(parts[folder.name]) is None]
    with whole_cluster("finished courses are kept"), TqdmCallback(desc="studies", disable=None):
        by = {"scheduler": "processes", "num_workers": processes} if processes > 0 else {}
        failed = dask.compute(*[dask.delayed(_one)(folder, parts[folder.name], plan) for folder in todo], **by)
    failures = pd.DataFrame([row for rows in failed for row in rows], columns=FAILED)
    return _collected(list(parts.values()), target, failures)


def _content(folder: Path) -> str:
    """What tells one study from another that takes its folder: names and contents of all files."""
    from ionrt.patient.reading.door import files_of

    parts: list[object] = []
    for file in files_of(folder):
        parts.append(str(file.relative_to(folder)))
        with suppress(OSError), file.open("rb") as stream:  # what cannot be read fails below, by name
            parts.append(hashlib.file_digest(stream, "sha256").digest())
    return content_hash(*parts)[:8]


def _kept(part: Path) -> pd.DataFrame | None:
    """The rows that were kept, or None where there are none or the file is not as it was written."""
    content = read_sealed(part)
    return None if content is None else pd.read_csv(io.BytesIO(content), keep_default_na=False, na_values=[""])


class _Plan:
    """What to compute; its key names the files of finished courses, so that other settings compute again."""

    def __init__(self, metrics, structures, rbe_model, let_definition, origin, max_outside, recompute) -> None:
        self.metrics, self.structures, self.recompute = metrics, structures, recompute
        self.stated = {"rbe_dose": rbe_model, "let_d": let_definition}
        self.origin, self.max_outside = origin, max_outside
        for column, value in (("rbe_model", rbe_model), ("let_definition", let_definition), ("origin", origin)):
            if value is not None:
                one_of(value, _allowed(column), what=column)
        for name in {m for chosen in self._lists() for m in chosen}:
            if not METRIC.fullmatch(name):
                raise IonrtError(f"metric {name!r} is not known; write Mean, Min, Max, D98, D2cc, V40Gy or V55keV/um")
        self.key = content_hash(metrics, structures, self.stated, origin, max_outside, _name(recompute))[:8]

    def _lists(self) -> list[Sequence[str]]:
        return list(self.metrics.values()) if isinstance(self.metrics, Mapping) else [self.metrics]

    def of(self, structure: str) -> Sequence[str]:
        return self.metrics.get(structure, ()) if isinstance(self.metrics, Mapping) else self.metrics

    def wanted(self) -> Sequence[str] | None:
        return list(self.metrics) if self.structures is None and isinstance(self.metrics, Mapping) else self.structures


def _name(recompute: Any) -> str:
    """What tells one recalculation from another: the function, and the settings that a partial holds."""
    if isinstance(recompute, partial):
        return f"{_name(recompute.func)} {recompute.args} {sorted(recompute.keywords.items())}"
    return f"{getattr(recompute, '__module__', '')}.{getattr(recompute, '__qualname__', '')}"


def _one(folder: Path, part: Path, plan: _Plan) -> list[tuple[str, str, str]]:
    """One course: its rows go to `part`, its failures are returned; whatever goes wrong belongs on the list."""
    failures: list[tuple[str, str, str]] = []
    try:
        patient, arrays = _read(folder, plan)
        rows = [row for da in arrays for row in _rows(folder.name, patient, da, plan, failures)]
        if not rows:
            raise IonrtError("no dose, RBE-weighted dose or LET for any structure")
    except Exception as error:
        return [*failures, (folder.name, "study", f"{type(error).__name__}: {error}")]
    table = pd.DataFrame(rows).reindex(columns=_columns()).assign(origin=plan.origin)
    place = part.with_suffix(".partial") if failures else part  # an incomplete course is computed again next time
    write_sealed(place, table.to_csv(index=False, lineterminator="\n").encode())
    return failures


def _read(folder: Path, plan: _Plan) -> tuple[xr.Dataset, list[xr.DataArray]]:
    """The patient and every plan dose of the folder, each on its own grid."""
    from ionrt.patient import read_dicom

    patient = read_dicom(folder, lazy=True)  # the metrics do not need the pixels of the CT
    if "structure" not in patient.coords:
        raise IonrtError("no structure set that fits the CT")
    if patient["structures"].nbytes < SMALL:  # sampled once per quantity: do not draw them anew each time
        patient["structures"] = patient["structures"].compute(scheduler="synchronous")
    found = imported_doses(patient, folder)
    for da in plan.recompute(patient, folder) if plan.recompute else ():
        source = da.attrs.get("source")
        found[str(da.name)] = da.assign_attrs(source=source if source in _allowed("source") else "recomputed")
    return patient, list(found.values())


def imported_doses(patient: xr.Dataset, folder: Path) -> dict[str, xr.DataArray]:
    """Every plan dose of the folder by its quantity, each on its own grid, in the patient's frame of reference."""
    from ionrt.patient import read_dose
    from ionrt.patient.reading.frames import check_frame

    found, left = {name: patient[name] for name in UNIT if name in patient}, []
    for name in patient.attrs.get("doses_elsewhere", "").splitlines():
        try:
            dose = read_dose(folder / name)
            if dose.name not in UNIT or dose.attrs["dose_summation_type"] != "PLAN":
                continue
            check_frame(patient, dose, what=name)
        except IonrtError as error:
            left.append(str(error))
            continue
        if str(dose.name) in found:
            raise IonrtError(f"two plan doses of {dose.name}; leave one in the folder")
        found[str(dose.name)] = dose
    if left and not found:
        raise IonrtError("; ".join(left))
    return {name: da.assign_attrs(source="imported") for name, da in found.items()}


def _allowed(column: str) -> list[str]:
    return list(_columns()[column]["allowed"])


def _definition(da: xr.DataArray, plan: _Plan) -> dict[str, Any]:
    """The dose system or LET definition in the terms of the dictionary; never guessed."""
    column = {"rbe_dose": "rbe_model", "let_d": "let_definition"}.get(str(da.name))
    if column is None:
        return {}
    allowed = _allowed(column)
    value = da.attrs.get(column)
    value = value if value in allowed else plan.stated[str(da.name)]
    if value is None:
        raise IonrtError(f"{da.name}: the file says {da.attrs.get(column)!r}; pass {column}= one of {', '.join(allowed)}")
    return {column: value}


def _rows(
    cid: str, patient: xr.Dataset, da: xr.DataArray, plan: _Plan, failures: list[tuple[str, str, str]]
) -> list[dict[str, Any]]:
    """The metrics of one quantity for every structure; what cannot be had is listed."""
    from ionrt.evaluate import statistics

    definition, quantity = _definition(da, plan), str(da.name)
    names = [str(s) for s in patient["structure"].values]
    wanted = plan.wanted()
    failures += [(cid, s, "no such structure") for s in wanted or () if s not in names]
    names = [s for s in names if wanted is None or s in wanted]
    foreign = "Gy" if quantity == "let_d" else "keV/um"  # V40Gy belongs to doses, V55keV/um to LET, the rest to both
    asked = {s: [m for m in plan.of(s) if not m.endswith(foreign)] for s in names}
    if not any(asked.values()):
        return []
    table = statistics(
        da, patient["structures"].sel(structure=names), **_numbers({m for chosen in asked.values() for m in chosen})
    )
    out = []
    for structure, chosen in asked.items():
        row = table.loc[structure]
        if row["outside_%"] > 100 * plan.max_outside:
            failures.append((cid, structure, f"{row['outside_%']:.1f} % lie outside the grid of {quantity}"))
            continue
        for metric in chosen:
            value, unit = float(row[_column(metric, quantity)]), "%" if metric[0] == "V" else UNIT[quantity]
            if not np.isfinite(value):
                failures.append((cid, structure, f"{quantity} {metric} is not defined (empty or smaller than asked for)"))
                continue
            said = {"metric": metric, "value": value, "unit": unit, "quantity": quantity, "source": da.attrs["source"]}
            out.append({"cid": cid, "structure": structure, **said, **definition})
    return out


def _numbers(metrics: set[str]) -> dict[str, list[float]]:
    """The levels of all metrics as `evaluate.statistics` takes them."""
    out: dict[str, set[float]] = {"percent": set(), "cc": set(), "dose": set()}
    for match in filter(None, map(METRIC.fullmatch, metrics)):
        if match["kind"]:
            out["dose" if match["kind"] == "V" else "cc" if match["unit"] == "cc" else "percent"].add(float(match["value"]))
    return {k: sorted(v) for k, v in out.items()}


def _column(metric: str, quantity: str) -> str:
    """The column of `evaluate.statistics` that holds the metric."""
    match = METRIC.fullmatch(metric)
    if match is None or match["kind"] is None:
        return metric.lower()
    letter = "V" if match["kind"] == "V" else "L" if quantity == "let_d" else "D"
    return f"{letter}{float(match['value']):g}" + ("" if letter == "V" else "cc" if match["unit"] == "cc" else "%")


def _columns() -> dict[str, Any]:
    return dictionary()["tables"]["dose_metric"]["columns"]


def _collected(parts: list[Path], target: Path, failures: pd.DataFrame) -> pd.DataFrame:
    """All finished and partial courses in one table."""
    found = [_kept(p) if p.exists() else _kept(p.with_suffix(".partial")) for p in parts]
    tables = [rows for rows in found if rows is not None]
    out = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(_columns()))
    write_text(target / "dose_metric.csv", out.to_csv(index=False, lineterminator="\n"))
    write_text(target / "failures.csv", failures.to_csv(index=False, lineterminator="\n"))
    out.attrs = {"failures": failures}
    return out
