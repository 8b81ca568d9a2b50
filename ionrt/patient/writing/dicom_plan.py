"""RT Ion Plan out: what `read_ion_plan` reads, and what other planning systems open."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from pydicom.dataset import Dataset

from ionrt.files import content_hash
from ionrt.patient.dicom_struct import frames_of
from ionrt.patient.ionplan import ION_PLAN, IonPlan
from ionrt.patient.reading.dicom_files import scan
from ionrt.patient.writing.dicom_write import RT_STRUCT
from ionrt.patient.writing.objects import decimal, item, new_object, plain, save, series_of, uid
from ionrt.quantities import IonrtError

STILL = ("GantryRotationDirection", "BeamLimitingDeviceRotationDirection", "PatientSupportRotationDirection",
         "TableTopPitchRotationDirection", "TableTopRollRotationDirection")  # fmt: skip
SHORT = 16  # characters of SH


def write_plan_tables(
    ion_plan: IonPlan,
    patient: xr.Dataset,
    path: str | Path,
    *,
    prescription: float | None = None,
    description: str = "",
    source: str | Path | None = None,
) -> Path:
    """Write beams, layers and spots as RT Ion Plan (DICOM PS3.3 A.49, C.8.8.25); the path written.

    Per layer two control points, the second with zero weights, as planning systems write them; weights of a beam's spots add up
    to its final cumulative weight, and meterset = weight * beam meterset / final weight. Spot positions, weights and sizes are
    32-bit in DICOM, energies and angles decimal strings of 16 characters.

    `ion_plan` as `read_ion_plan` returns it; the columns that it fills from optional elements may be missing. The patient,
    whose CT lies in `source`, gives frame of reference, study and structure set. `prescription` is Gy (RBE) of the whole course
    to the target, `description` says the RBE model and what it rests on.
    """
    _check(ion_plan, patient)
    template, _ = series_of(patient, source, what="write_ion_plan")
    series = template.SeriesInstanceUID
    digest = content_hash(*(t.to_csv(index=False) for t in (ion_plan.beams, ion_plan.layers, ion_plan.spots)), ion_plan.label)
    data = new_object(
        template,
        ION_PLAN,
        "RTPLAN",
        uid(series, "plan", digest, prescription, description),
        series=uid(series, "plan series"),
        number=4,
        description=description or ion_plan.label,
        frame=template.FrameOfReferenceUID,
    )
    for keyword in ("ContentDate", "ContentTime"):
        delattr(data, keyword)
    data.RTPlanLabel = plain(ion_plan.label)[:SHORT] or "ionrt"
    data.RTPlanDescription = description
    data.RTPlanDate, data.RTPlanTime = data.StudyDate, data.StudyTime
    data.PlanIntent = "RESEARCH"
    _refer(data, patient, source)
    if prescription is not None:
        data.DoseReferenceSequence = [
            item(
                DoseReferenceNumber=1,
                DoseReferenceUID=uid(data.SOPInstanceUID, "dose reference"),
                DoseReferenceStructureType="SITE",
                DoseReferenceDescription=plain(description),
                DoseReferenceType="TARGET",
                TargetPrescriptionDose=decimal(prescription),
            )
        ]
    rows = [row for _, row in ion_plan.beams.iterrows()]
    positions = list(dict.fromkeys(_text(row, "patient_position") for row in rows))
    data.FractionGroupSequence = [_fractions(ion_plan, rows)]
    data.PatientSetupSequence = [
        item(PatientSetupNumber=k, PatientPosition=p, SetupTechnique="") for k, p in enumerate(positions, 1)
    ]
    data.IonBeamSequence = [_beam(ion_plan, row, 1 + positions.index(_text(row, "patient_position"))) for row in rows]
    data.ApprovalStatus = "UNAPPROVED"
    return save(data, Path(path))


def _check(ion_plan: IonPlan, patient: xr.Dataset) -> None:
    frame, own = ion_plan.frame_of_reference_uid, str(patient.attrs.get("frame_of_reference_uid", ""))
    if frame and own and frame != own:
        raise IonrtError(f"write_ion_plan: the plan belongs to frame of reference {frame}, the patient's is {own}")
    values = ion_plan.spots[["x", "y", "energy", "weight"]].to_numpy(float)
    if not len(values) or not np.isfinite(values).all() or (values[:, 2] <= 0.0).any() or (values[:, 3] < 0.0).any():
        raise IonrtError(
            "write_ion_plan: expected spots with finite x, y, positive energies and weights >= 0; got others or none"
        )
    for _, row in ion_plan.beams.iterrows():
        needed = [row["z"], row["a"], row["meterset"], row["final_weight"], row["gantry_angle"], row["couch_angle"]]
        needed += [row[f"isocentre_{a}"] for a in "xyz"]
        if not np.isfinite(np.array(needed, float)).all() or not row["final_weight"] > 0.0:
            raise IonrtError(f"write_ion_plan: beam {row['beam']} lacks species, meterset, angles, isocentre or any weight")
        if hindered := row.get("hindered", ""):
            raise IonrtError(f"write_ion_plan: beam {row['beam']} had {hindered}, which the tables do not hold")


def _refer(data: Dataset, patient: xr.Dataset, source: str | Path | None) -> None:
    """The structure set of the patient's frame of reference, the geometry the plan stands in."""
    frame = str(patient.attrs.get("frame_of_reference_uid", ""))
    sets = [h for h in scan(source or patient.attrs.get("source", "")) if h.get("SOPClassUID") == RT_STRUCT]
    found = [str(h.need("SOPInstanceUID")) for h in sets if frame in frames_of(h)]
    if len(found) != 1:
        data.RTPlanGeometry = "TREATMENT_DEVICE"
        what = "no structure set" if not found else f"{len(found)} structure sets"
        warnings.warn(f"write_ion_plan: {what} of the patient's frame of reference; the plan refers to none", stacklevel=4)
        return
    data.RTPlanGeometry = "PATIENT"
    data.ReferencedStructureSetSequence = [item(ReferencedSOPClassUID=RT_STRUCT, ReferencedSOPInstanceUID=found[0])]


def _fractions(ion_plan: IonPlan, rows: list[pd.Series]) -> Dataset:
    """Number of fractions, and the meterset of each beam."""
    beams = []
    for row in rows:
        beams.append(item(ReferencedBeamNumber=int(row["beam"]), BeamMeterset=decimal(row["meterset"])))
        if np.isfinite(dose := _float(row, "beam_dose", np.nan)):
            beams[-1].BeamDose = decimal(dose)
            if row.get("beam_dose_type"):
                beams[-1].BeamDoseType = row["beam_dose_type"]
            point = [_float(row, f"dose_point_{a}", np.nan) for a in "xyz"]
            if np.isfinite(point).all():
                beams[-1].BeamDoseSpecificationPoint = [decimal(p) for p in point]
    return item(
        FractionGroupNumber=1,
        NumberOfFractionsPlanned=ion_plan.fractions or None,
        NumberOfBeams=len(beams),
        NumberOfBrachyApplicationSetups=0,
        ReferencedBeamSequence=beams,
    )


def _beam(ion_plan: IonPlan, row: pd.Series, setup: int) -> Dataset:
    """One scanned beam."""
    number = int(row["beam"])
    layers = ion_plan.layers[ion_plan.layers["beam"] == number]
    spots = ion_plan.spots[ion_plan.spots["beam"] == number]
    proton = (int(row["z"]), int(row["a"])) == (1, 1)
    beam = item(
        BeamNumber=number,
        BeamName=plain(_text(row, "name") or f"beam {number}"),
        BeamType="STATIC",
        RadiationType="PROTON" if proton else "ION",
        TreatmentMachineName=plain(_text(row, "machine") or "SYNTHETIC")[:SHORT],
        PrimaryDosimeterUnit=_text(row, "meterset_unit") or "NP",
        ReferencedPatientSetupNumber=setup,
        TreatmentDeliveryType="TREATMENT",
        ScanMode="MODULATED",
        ModulatedScanModeType="STATIONARY",
        NumberOfWedges=0,
        NumberOfCompensators=0,
        NumberOfBoli=0,
        NumberOfBlocks=0,
        NumberOfRangeShifters=0,
        NumberOfLateralSpreadingDevices=0,
        NumberOfRangeModulators=0,
        PatientSupportType="TABLE",
    )
    if not proton:
        beam.RadiationMassNumber, beam.RadiationAtomicNumber = int(row["a"]), int(row["z"])
        beam.RadiationChargeState = int(row.get("q", row["z"]))
    source = [_float(row, f"source_{k}", np.nan) for k in "xy"]
    beam.VirtualSourceAxisDistances = source if np.isfinite(source).all() else None
    if _text(row, "snout"):
        beam.SnoutSequence = [item(SnoutID=plain(_text(row, "snout"))[:SHORT], AccessoryCode="")]
    shifter = _float(row, "range_shifter", 0.0)
    if shifter > 0.0:
        beam.NumberOfRangeShifters = 1
        name = plain(_text(row, "range_shifters") or f"RS {shifter:g} mm")[:SHORT]
        beam.RangeShifterSequence = [
            item(RangeShifterNumber=1, RangeShifterID=name, RangeShifterType="BINARY", AccessoryCode="")
        ]
    points: list[Dataset] = []
    total = 0.0
    for _, layer in layers.iterrows():
        mine = spots[spots["layer"] == layer["layer"]]
        weights = mine["weight"].to_numpy(np.float32)
        for weight, after in ((weights, 0.0), (np.zeros_like(weights), float(weights.sum(dtype=float)))):
            total += after
            points.append(_control_point(layer, mine, weight, total, len(points), row))
    beam.FinalCumulativeMetersetWeight = points[-1].CumulativeMetersetWeight
    beam.NumberOfControlPoints, beam.IonControlPointSequence = len(points), points
    return beam


def _control_point(
    layer: pd.Series, spots: pd.DataFrame, weights: np.ndarray, total: float, index: int, row: pd.Series
) -> Dataset:
    """Energy, spots and cumulative weight; the first one also says how beam and table stand."""
    places = spots[["x", "y"]].to_numpy(np.float32).ravel().tolist()
    point = item(
        ControlPointIndex=index,
        NominalBeamEnergy=decimal(layer["energy"]),
        CumulativeMetersetWeight=decimal(total),
        ScanSpotTuneID=plain(_text(layer, "tune") or "1")[:SHORT],
        NumberOfScanSpotPositions=len(spots),
        ScanSpotPositionMap=places,
        ScanSpotMetersetWeights=weights.tolist() if len(weights) > 1 else float(weights[0]),
        ScanningSpotSize=[_float(layer, f"size_{k}", 0.0) for k in "xy"],
        NumberOfPaintings=int(_float(layer, "paintings", 1)),
    )
    if index:
        return point
    point.GantryAngle, point.PatientSupportAngle = (decimal(row[k] % 360.0) for k in ("gantry_angle", "couch_angle"))
    point.BeamLimitingDeviceAngle = "0"
    point.TableTopPitchAngle, point.TableTopRollAngle = (_float(row, f"table_{k}", 0.0) % 360.0 for k in ("pitch", "roll"))
    if (eccentric := _float(row, "table_eccentric", 0.0)) != 0.0:
        point.TableTopEccentricAngle, point.TableTopEccentricRotationDirection = decimal(eccentric % 360.0), "NONE"
    for keyword in STILL:
        setattr(point, keyword, "NONE")
    for keyword in ("TableTopVerticalPosition", "TableTopLongitudinalPosition", "TableTopLateralPosition"):
        setattr(point, keyword, None)
    point.IsocenterPosition = [decimal(row[f"isocentre_{k}"]) for k in "xyz"]
    position = _float(row, "snout_position", np.nan)
    if np.isfinite(position):  # an empty one stops some readers
        point.SnoutPosition = position
    if (shifter := _float(row, "range_shifter", 0.0)) > 0.0:
        point.RangeShifterSettingsSequence = [
            item(
                ReferencedRangeShifterNumber=1,
                RangeShifterSetting="IN",
                IsocenterToRangeShifterDistance=_float(row, "range_shifter_distance", 0.0),
                RangeShifterWaterEquivalentThickness=shifter,
            )
        ]
    return point


def _float(row: Any, name: str, default: float) -> float:
    value = row.get(name, default)
    return default if value is None or (isinstance(value, float) and np.isnan(value)) else float(value)


def _text(row: Any, name: str) -> str:
    value = row.get(name, "")
    return "" if value is None or (isinstance(value, float) and np.isnan(value)) else str(value)
