"""What a received folder holds: one row per DICOM object, with what it says of itself and of whom."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ionrt.patient.reading.dicom_files import Header, scan
from ionrt.patient.reading.door import read_dataset

REFERENCES = ("ReferencedRTPlanSequence", "DoseComment", "SOPInstanceUID")


def inventory(folder: str | Path) -> pd.DataFrame:
    """Objects of a folder and its sub-folders, CT slices of a series together.

    One row per object: `kind` (CT, RTSTRUCT, RTPLAN, RTDOSE, ...), `files`, `file` (the first one's name), `path`, `uid`,
    `patient` (ID), `frame` (of reference), `description`, `quantity` (units and type of a dose), `summation` (PLAN, BEAM, ...),
    `plan` and `beam` (UID and number of what a dose belongs to; empty where not stated).
    """
    rows: dict[tuple[str, str], dict] = {}
    for header in scan(folder):
        kind, series = str(header.get("Modality", "?")), str(header.get("SeriesInstanceUID", ""))
        key = (kind, series if kind in ("CT", "MR", "PT") else str(header.path))
        if key in rows:
            rows[key]["files"] += 1
            continue
        rows[key] = {"kind": kind, "files": 1, "file": header.path.name, "path": str(header.path), **_said(header)}
    return pd.DataFrame(list(rows.values()))


def _said(header: Header) -> dict[str, str]:
    """What the header says, and of a dose the plan it names."""
    plan = beam = ""
    if header.get("Modality") == "RTDOSE":
        data = read_dataset(header.path, REFERENCES, pixels=False)
        named = list(data.get("ReferencedRTPlanSequence") or []) if data is not None else []
        plan = str(named[0].get("ReferencedSOPInstanceUID", "")) if named else ""
        for keyword in ("ReferencedFractionGroupSequence", "ReferencedBeamSequence"):
            named = list(named[0].get(keyword) or []) if len(named) == 1 else []
        beam = str(named[0].get("ReferencedBeamNumber", "")) if len(named) == 1 else ""
    return {
        "uid": str(header.get("SOPInstanceUID", "")),
        "patient": str(header.get("PatientID", "")),
        "frame": str(header.get("FrameOfReferenceUID", "")),
        "description": str(header.get("SeriesDescription", "") or header.get("RTPlanLabel", "")),
        "quantity": " ".join(str(header.get(k, "")) for k in ("DoseUnits", "DoseType")).strip(),
        "summation": str(header.get("DoseSummationType", "")),
        "plan": plan,
        "beam": beam,
    }
