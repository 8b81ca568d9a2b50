"""RT Ion Plan in: beams, energy layers and scan spots as tables."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ionrt.ions import IONS, get
from ionrt.patient.dicom_files import read_all, read_header
from ionrt.quantities import IonrtError

ION_PLAN = "1.2.840.10008.5.1.4.1.1.481.8"
TURNING = ("GantryAngle", "PatientSupportAngle", "TableTopPitchAngle", "TableTopRollAngle", "TableTopEccentricAngle")


@dataclass(frozen=True)
class IonPlan:
    """A delivered or planned scanned-ion plan.

    `beams`: one row per treatment beam: `beam` (number), `name`, `ion` ("p", "C", ...; empty for one that ionrt does not
    know), `z`, `a`, `q`, `meterset_unit` ("NP" particles or "MU"), `final_weight`, `meterset` (per fraction), `beam_dose`
    (Gy), `gantry_angle`, `couch_angle` (degrees, IEC 61217), `patient_position` ("HFS", ...; empty where not stated),
    `table_pitch`, `table_roll`, `table_eccentric`, `gantry_pitch` (degrees, the largest of the control points; 0 where not
    stated), `angle_change` (degrees by which gantry or table turn during the beam), `isocentre_x`, `_y`, `_z` (mm, LPS),
    `source_x`, `source_y` (virtual source distance, mm), `snout`, `snout_position` (mm), `range_shifters`, `range_shifter` (mm
    of water, all that are in), `range_shifter_distance` (mm from the isocentre, as stated; 0 without one), `layers`, `spots`.
    `layers`: `beam`, `layer`, `energy` (MeV/u), `weight`, `spots`, `size_x`, `size_y` (FWHM, mm), `tune`, `paintings`.
    `spots`: `beam`, `layer`, `energy` (MeV/u), `x`, `y` (mm at the isocentre, IEC gantry system), `weight`, `meterset`.
    """

    label: str
    fractions: int
    frame_of_reference_uid: str
    beams: pd.DataFrame
    layers: pd.DataFrame
    spots: pd.DataFrame


def read_ion_plan(path: str | Path) -> IonPlan:
    """Read an RT Ion Plan with modulated scanning.

    meterset of a spot = weight * beam meterset / final cumulative weight. Only spots with a weight count: systems write
    a second control point per layer with zero weights.

    Parameters
    ----------
    path : the file, or a folder that holds one RT Ion Plan.

    Returns
    -------
    `IonPlan` with tables of beams, layers and spots.

    Raises
    ------
    IonrtError for a file that is no RT Ion Plan, is truncated, has no scan spots, or a folder with none or several plans.

    Valid for scanned beams (protons and ions); reference: DICOM PS3.3 C.8.8.25.
    """
    data = read_all(_plan_file(Path(path)))
    beams, layers, spots = [], [], []
    metersets = _metersets(data)
    for beam in _items(data, "IonBeamSequence"):
        if beam.get("TreatmentDeliveryType", "TREATMENT") not in ("TREATMENT", ""):
            continue
        number = int(beam.BeamNumber)
        rows = _layers(beam, number)
        layers += [row for row, _ in rows]
        spots += [table for _, table in rows]
        beams.append(_beam(beam, number, [row for row, _ in rows], metersets.get(number, (np.nan, np.nan))))
        beams[-1]["patient_position"] = _patient_position(data, beam)
    if not spots:
        raise IonrtError(f"{Path(path).name}: no scan spots with a weight; expected a scanned ion plan with treatment beams")
    table = pd.DataFrame(beams)
    points = pd.concat(spots, ignore_index=True)
    factor = (table["meterset"] / table["final_weight"]).set_axis(table["beam"])
    points["meterset"] = points["weight"] * points["beam"].map(factor).to_numpy(float)
    groups = _items(data, "FractionGroupSequence")
    return IonPlan(
        label=str(data.get("RTPlanLabel", "")),
        fractions=int(groups[0].get("NumberOfFractionsPlanned") or 0) if groups else 0,
        frame_of_reference_uid=str(data.get("FrameOfReferenceUID", "")),
        beams=table,
        layers=pd.DataFrame(layers),
        spots=points,
    )


def _plan_file(path: Path) -> Path:
    """The file itself, or the only RT Ion Plan below a folder."""
    if path.is_dir():
        found = [p for p in sorted(path.rglob("*")) if p.is_file() and _is_plan(p)]
        if len(found) != 1:
            names = ", ".join(p.name for p in found) or "none"
            raise IonrtError(f"{path}: expected one RT Ion Plan, found {len(found)} ({names}); name the file")
        return found[0]
    if not path.is_file():
        raise IonrtError(f"{path}: expected an RT Ion Plan, and the file does not exist")
    header = read_header(path)
    if header is None or header.get("SOPClassUID") != ION_PLAN:
        raise IonrtError(
            f"{path.name}: expected an RT Ion Plan, got {header.get('Modality', '?') if header else 'no DICOM file'}"
        )
    return path


def _is_plan(path: Path) -> bool:
    """Whether a file is an RT Ion Plan."""
    header = read_header(path)
    return header is not None and header.get("SOPClassUID") == ION_PLAN


def _metersets(data: Any) -> dict[int, tuple[float, float]]:
    """Beam number to (meterset, dose) of one fraction."""
    found = {}
    for group in _items(data, "FractionGroupSequence"):
        for beam in _items(group, "ReferencedBeamSequence"):
            found[int(beam.ReferencedBeamNumber)] = (_number(beam, "BeamMeterset"), _number(beam, "BeamDose"))
    return found


def _layers(beam: Any, number: int) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """(row, spots) of each control point that delivers something; energy and spot size carry on until they change."""
    found: list[tuple[dict[str, Any], pd.DataFrame]] = []
    energy, size, tune = np.nan, (np.nan, np.nan), ""
    for point in _items(beam, "IonControlPointSequence"):
        energy = _number(point, "NominalBeamEnergy", energy)
        size = _pair(point, "ScanningSpotSize", size)
        tune = str(point.get("ScanSpotTuneID") or tune)
        weights = np.atleast_1d(np.array(point.get("ScanSpotMetersetWeights", []), dtype=float))
        if not weights.any():
            continue
        places = np.atleast_1d(np.array(point.get("ScanSpotPositionMap", []), dtype=float))
        if places.size != 2 * weights.size:
            raise IonrtError(f"beam {number}: {weights.size} spot weights for {places.size} coordinates; the plan is damaged")
        keep = weights > 0.0
        x, y = places[::2][keep], places[1::2][keep]
        layer, total = len(found), float(weights[keep].sum())
        row = {"beam": number, "layer": layer, "energy": energy, "weight": total, "spots": int(keep.sum()), "size_x": size[0],
               "size_y": size[1], "tune": tune, "paintings": int(point.get("NumberOfPaintings") or 1)}  # fmt: skip
        spots = pd.DataFrame({"beam": number, "layer": layer, "energy": energy, "x": x, "y": y, "weight": weights[keep]})
        found.append((row, spots))
    return found


def _beam(beam: Any, number: int, layers: list[dict[str, Any]], meterset: tuple[float, float]) -> dict[str, Any]:
    """One row of the table of beams."""
    first = _items(beam, "IonControlPointSequence")[0]
    final, total = _number(beam, "FinalCumulativeMetersetWeight"), sum(row["weight"] for row in layers)
    if not np.isclose(final, total, rtol=1e-4):
        warnings.warn(
            f"beam {number}: spot weights add up to {total:g}, the final cumulative weight is {final:g}", stacklevel=3
        )
    z, a, q = _species(beam, number)
    isocentre = [float(v) for v in first.get("IsocenterPosition") or (np.nan,) * 3]
    source = _pair(beam, "VirtualSourceAxisDistances", (np.nan, np.nan))
    snouts = [str(s.get("SnoutID", "")) for s in _items(beam, "SnoutSequence")]
    return {
        "beam": number,
        "name": str(beam.get("BeamName", "")),
        "ion": next((name for name in IONS if (get(name).charge, get(name).mass_number) == (z, a)), ""),
        "z": z,
        "a": a,
        "q": q,
        "meterset_unit": str(beam.get("PrimaryDosimeterUnit", "")),
        "final_weight": final,
        "meterset": meterset[0],
        "beam_dose": meterset[1],
        "gantry_angle": _number(first, "GantryAngle"),
        "couch_angle": _number(first, "PatientSupportAngle"),
        "table_pitch": _tilt(beam, "TableTopPitchAngle"),
        "table_roll": _tilt(beam, "TableTopRollAngle"),
        "table_eccentric": _tilt(beam, "TableTopEccentricAngle"),
        "gantry_pitch": _tilt(beam, "GantryPitchAngle"),
        "angle_change": max(abs(_tilt(beam, k, _number(first, k, 0.0))) for k in TURNING),
        **{f"isocentre_{axis}": value for axis, value in zip("xyz", isocentre, strict=True)},
        "source_x": source[0],
        "source_y": source[1],
        "snout": ", ".join(snouts),
        "snout_position": _number(first, "SnoutPosition"),
        "range_shifters": ", ".join(str(s.get("RangeShifterID", "")) for s in _items(beam, "RangeShifterSequence")),
        **_range_shifter(first, number),
        "layers": len(layers),
        "spots": sum(row["spots"] for row in layers),
    }


def _patient_position(data: Any, beam: Any) -> str:
    """Of the set-up that the beam refers to, or of all where it refers to none; empty where that is not one position."""
    setups, number = _items(data, "PatientSetupSequence"), beam.get("ReferencedPatientSetupNumber")
    mine = [s for s in setups if number is not None and s.get("PatientSetupNumber") == number] or setups
    positions = {str(s.get("PatientPosition") or "").strip().upper() for s in mine}
    return positions.pop() if len(positions) == 1 else ""


def _tilt(beam: Any, keyword: str, zero: float = 0.0) -> float:
    """The largest such angle of the control points against `zero`, -180 to 180 degrees."""
    angles = [_number(p, keyword, zero) - zero for p in _items(beam, "IonControlPointSequence")]
    return max(((a + 180.0) % 360.0 - 180.0 for a in angles), key=abs, default=0.0)


def _range_shifter(point: Any, number: int) -> dict[str, float]:
    """Water-equivalent thickness and distance of the shifters that are in; a shifter of unknown thickness raises."""
    inside = [
        s for s in _items(point, "RangeShifterSettingsSequence") if str(s.get("RangeShifterSetting", "IN")).upper() != "OUT"
    ]
    thickness = [_number(s, "RangeShifterWaterEquivalentThickness") for s in inside]
    if any(np.isnan(t) for t in thickness):
        raise IonrtError(
            f"beam {number}: a range shifter without its water-equivalent thickness; the plan cannot be recomputed"
        )
    distance = [_number(s, "IsocenterToRangeShifterDistance", 0.0) for s in inside]
    return {"range_shifter": float(sum(thickness)), "range_shifter_distance": float(max(distance, default=0.0))}


def _species(beam: Any, number: int) -> tuple[int, int, int]:
    """Atomic number, mass number, charge of the beam's particle."""
    if beam.get("RadiationType") == "PROTON":
        return 1, 1, 1
    values = [beam.get(k) for k in ("RadiationAtomicNumber", "RadiationMassNumber", "RadiationChargeState")]
    if beam.get("RadiationType") != "ION" or values[0] is None or values[1] is None:
        raise IonrtError(
            f"beam {number}: radiation {beam.get('RadiationType')!r} with Z, A, Q {values};"
            " expected PROTON, or ION with Z and A"
        )
    return int(values[0]), int(values[1]), int(values[2] if values[2] is not None else values[0])


def _items(data: Any, keyword: str) -> list[Any]:
    """Items of a sequence, none where it is absent or empty."""
    return list(data.get(keyword) or [])


def _number(data: Any, keyword: str, default: float = np.nan) -> float:
    """A number, `default` where it is absent or empty."""
    value = data.get(keyword)
    return default if value is None or value == "" else float(value)


def _pair(data: Any, keyword: str, default: tuple[float, float]) -> tuple[float, float]:
    """Two numbers, `default` where they are absent."""
    value = data.get(keyword)
    return default if value is None else (float(value[0]), float(value[1]))
