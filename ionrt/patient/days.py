"""Several CT series of one patient, read as planning CT and days."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from ionrt.patient.ct import is_ct
from ionrt.patient.dicom import read_dicom
from ionrt.patient.reading.dicom_files import Header, scan
from ionrt.patient.reading.door import read_dataset
from ionrt.quantities import IonrtError

SCANNER = ("Manufacturer", "ManufacturerModelName", "KVP", "PatientID", "SpecificCharacterSet")
WHEN = ("AcquisitionDate", "SeriesDate", "StudyDate", "AcquisitionTime", "SeriesTime", "StudyTime")


def read_days(folder: str | Path | Sequence[str | Path], *, planning: str | None = None) -> dict[str, xr.Dataset]:
    """The CT series of one patient in the order of their dates: the planning CT first, then the days.

    Each CT gets the structure set of its own frame of reference or, within one frame, the one that was drawn on its images.

    Parameters
    ----------
    folder : one folder that holds all series (sub-folders included), or several, the planning CT's among them.
    planning : SeriesInstanceUID of the planning CT; default the earliest.

    Returns
    -------
    Mapping of labels, "planning", "day 1", ..., to Datasets of `read_dicom`, with attribute ``date``.

    Raises
    ------
    IonrtError for fewer than two series, series of different patients, series without or of the same date (say which is the
    planning CT; days of one date are ordered by time), contours on one later CT only (exchanged?), and as `read_dicom`.
    """
    folders = [folder] if isinstance(folder, (str, Path)) else list(folder)
    series: dict[str, tuple[Header, Path]] = {}
    headers = [(h, Path(f)) for f in folders for h in scan(f)]
    for h, where in headers:
        if is_ct(h):
            series.setdefault(h.code("SeriesInstanceUID"), (h, where))
    if len(series) < 2:
        raise IonrtError(f"read_days: expected a planning CT and at least one more CT series, found {len(series)} in all")
    if (known := len({h.text("PatientID") for h, _ in series.values()})) > 1:
        raise IonrtError(f"read_days: the CT series belong to {known} patients; expected one: keep each patient in a folder")
    if planning is not None and planning not in series:
        raise IonrtError(f"read_days: no CT series {planning!r}; there are {', '.join(series)}")
    dates = {uid: _when(h) for uid, (h, _) in series.items()}
    order = sorted(series, key=lambda uid: (uid != planning, dates[uid]))
    if len(set(dates.values())) < len(dates) or not all(d for d, _ in dates.values()):
        named = "; ".join(f"{uid}: {' '.join(dates[uid]) or 'no date'}" for uid in order)
        if planning is None:
            raise IonrtError(f"read_days: the dates do not say which CT comes first ({named}); say planning=<its series UID>")
        warnings.warn(f"read_days: days without a date of their own are ordered by UID ({named})", stacklevel=2)
    out = {}
    sets = _structure_sets([h for h, _ in headers])
    if planning is None and len(drawn := [uid for uid in order if uid in sets]) == 1 and drawn != order[:1]:
        raise IonrtError(
            f"read_days: the earliest CT ({order[0]}) has no structure set, a later one ({drawn[0]}) has: are planning CT and"
            " day exchanged? say planning=<the series UID of the planning CT>"
        )
    for k, uid in enumerate(order):
        one = _read(series[uid][1], uid, sets)
        one.attrs["date"] = dates[uid][0]
        out["planning" if k == 0 else f"day {k}"] = one
    return out


def _read(folder: Path, uid: str, sets: dict[str, str]) -> xr.Dataset:
    """One series with the structure set drawn on it; a set drawn on another day is none of its own, whatever the frame."""
    here = {h.code("SOPInstanceUID") for h in scan(folder)}
    other = next((one for one in sets.values() if one in here), None)
    if uid in sets or other is None:
        return read_dicom(folder, series=uid, structure_set=sets.get(uid))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bare = read_dicom(folder, series=uid, structure_set=other)
    return bare.drop_dims(["structure", "contour", "point"], errors="ignore")


def same_scanner(planning: xr.Dataset, daily: xr.Dataset) -> None:
    """Raises where the files of two CTs say that they are of different patients, or of scanners with different HU.

    Another manufacturer, model or tube voltage, a cone-beam CT: their HU need a calibration of their own. CTs made in memory
    say nothing and pass.
    """
    found = [_first_header(p) for p in (planning, daily)]
    if found[0] is None or found[1] is None:
        return
    if found[0].text("PatientID") != found[1].text("PatientID"):
        raise IonrtError("the two CTs belong to different patients (PatientID differs); expected one patient on two days")
    apart = [k for k in SCANNER[:3] if found[0].text(k) != found[1].text(k)]
    if apart:
        said = ", ".join(f"{k} {found[0].text(k)} and {found[1].text(k)}" for k in apart)
        raise IonrtError(
            f"the daily CT is of another scanner or technique than the planning CT ({said}); a cone-beam or other CT needs"
            " a calibration of its own: put spr into the Dataset (ionrt.patient.stopping_power_ratio with its table), or say"
            " calibrated=True"
        )


def _first_header(patient: xr.Dataset) -> Header | None:
    """The first image's header of the series a Dataset was read from."""
    folder, series = patient.attrs.get("source"), patient.attrs.get("series_instance_uid")
    if not folder or not os.path.isdir(str(folder)):
        return None
    for header in scan(str(folder)):
        if is_ct(header) and header.code("SeriesInstanceUID") == series:
            data = read_dataset(header.path, SCANNER, pixels=False)
            return None if data is None else Header(header.path, data)
    return None


def _when(header: Header) -> tuple[str, str]:
    """Date and time of a series: of the acquisition, else of the series, else of the study."""
    data = read_dataset(header.path, WHEN, pixels=False)
    stated = [Header(header.path, data).text(k) if data is not None else "" for k in WHEN]
    return next(filter(None, stated[:3]), ""), next(filter(None, stated[3:]), "")


def _structure_sets(headers: list[Header]) -> dict[str, str]:
    """{CT series: instance UID of the structure set drawn on it}, where exactly one says so."""
    drawn: dict[str, set[str]] = {}
    for h in headers:
        for frame in h.items("ReferencedFrameOfReferenceSequence") if h.code("Modality") == "RTSTRUCT" else []:
            for study in frame.items("RTReferencedStudySequence"):
                for one in study.items("RTReferencedSeriesSequence"):
                    drawn.setdefault(one.code("SeriesInstanceUID"), set()).add(h.code("SOPInstanceUID"))
    return {series: next(iter(sets)) for series, sets in drawn.items() if len(sets) == 1}
