"""RT Ion Plan in: beams, energy layers and scan spots as tables."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ionrt.ions import IONS, get
from ionrt.patient.reading.dicom_files import read_fields, read_header
from ionrt.patient.reading.door import Fields, files_of
from ionrt.patient.reading.notes import Notes
from ionrt.quantities import IonrtError

ION_PLAN = "1.2.840.10008.5.1.4.1.1.481.8"
NOT_MODELLED = {  # counts of what stands in the beam and changes its dose
    "NumberOfBlocks": "block", "NumberOfCompensators": "compensator", "NumberOfBoli": "bolus", "NumberOfWedges": "wedge",
}  # fmt: skip
WIDENING = {"NumberOfRangeModulators": "range modulator", "NumberOfLateralSpreadingDevices": "lateral spreading device"}
TILTS = {"table_pitch": "TableTopPitchAngle", "table_roll": "TableTopRollAngle", "table_eccentric": "TableTopEccentricAngle",
         "gantry_pitch": "GantryPitchAngle"}  # fmt: skip
TURNING = ("GantryAngle", "PatientSupportAngle", "TableTopPitchAngle", "TableTopRollAngle", "TableTopEccentricAngle")
MOST_ENERGY = 1000.0  # MeV/u
MOST_FRACTIONS = 1000
NO_GROUP: dict[str, Any] = {"meterset": np.nan, "fractions": 0, "beam_dose": np.nan, "beam_dose_type": ""}
NO_GROUP |= dict.fromkeys(("dose_point_x", "dose_point_y", "dose_point_z"), np.nan)
STILL = 0.01  # mm
FAR = 1e4  # mm: no isocentre, source or snout lies farther
NEAREST_SOURCE = 500.0  # mm: no magnet is nearer
MOST_WEIGHT = 1e14  # particles of a spot, and more than any number of monitor units


@dataclass(frozen=True)
class IonPlan:
    """A delivered or planned scanned-ion plan.

    `beams`: one row per treatment beam: `beam` (number), `name`, `machine` (empty where not stated), `ion` ("p", "C", ...;
    empty for one that ionrt does not know), `z`, `a`, `q`, `meterset_unit` ("NP" particles or "MU"), `final_weight`, `meterset`
    (per fraction), `fractions` (planned of this beam; 0 where not stated), `beam_dose` (Gy; NaN where not stated),
    `beam_dose_type` ("PHYSICAL", "EFFECTIVE"; empty where not stated), `dose_point_x`, `_y`, `_z` (mm, where that dose is
    meant; NaN where not stated),
    `gantry_angle`, `couch_angle` (degrees, IEC 61217), `patient_position` ("HFS", ...; empty where not stated),
    `table_pitch`, `table_roll`, `table_eccentric`, `gantry_pitch` (degrees, the largest of the control points; 0 where not
    stated), `angle_change` (degrees by which gantry or table turn during the beam), `isocentre_x`, `_y`, `_z` (mm, LPS),
    `source_x`, `source_y` (virtual source distance, mm), `snout`, `snout_position` (mm), `range_shifters`, `range_shifter` (mm
    of water, all that are in), `range_shifter_distance` (mm from the isocentre, as stated; 0 without one), `hindered` (what the
    table does not hold: blocks, compensators, boli, wedges, an isocentre or range shifters that change during the beam; empty
    where there is nothing of it, and `recompute` refuses it), `layers`, `spots`.
    `layers`: `beam`, `layer`, `energy` (MeV/u), `weight`, `spots`, `size_x`, `size_y` (FWHM, mm), `tune`, `paintings`.
    `spots`: `beam`, `layer`, `energy` (MeV/u), `x`, `y` (mm at the isocentre, IEC gantry system), `weight`, `meterset`.
    `fractions` is the number that all beams share, 0 where it is not stated or beams differ. `left_out` and `assumed` say what
    is in the file and not here, and what the file leaves open; both warn as well.
    """

    label: str
    fractions: int
    frame_of_reference_uid: str
    beams: pd.DataFrame
    layers: pd.DataFrame
    spots: pd.DataFrame
    left_out: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()


def read_ion_plan(path: str | Path, *, strict: bool = False) -> IonPlan:
    """Read an RT Ion Plan with modulated scanning.

    meterset of a spot = weight * beam meterset / final cumulative weight. Only spots with a weight count: systems write
    a second control point per layer with zero weights.

    Parameters
    ----------
    path : the file, or a folder that holds one RT Ion Plan.
    strict : raise where something would be left out or assumed.

    Returns
    -------
    `IonPlan` with tables of beams, layers and spots.

    Raises
    ------
    IonrtError for a file that is no RT Ion Plan, is damaged, has no scan spots, lacks meterset, isocentre, angles or energies,
    has a beam in two fraction groups, or a folder with none or several plans.

    Valid for scanned beams (protons and ions); reference: DICOM PS3.3 C.8.8.25.
    """
    notes = Notes()
    data = read_fields(_plan_file(Path(path)), notes)
    beams, layers, spots = [], [], []
    groups, twice = _groups(data, notes), Counter(beam.integer("BeamNumber") for beam in data.items("IonBeamSequence"))
    if max(twice.values(), default=0) > 1:
        raise IonrtError(f"{data.where}: beam number {twice.most_common(1)[0][0]} comes twice; the plan is damaged")
    for number in sorted(groups.keys() - twice.keys()):
        notes.leave_out(f"{data.where}: a fraction group names beam {number}, which the plan does not hold")
    for beam in data.items("IonBeamSequence"):
        number, kind = beam.integer("BeamNumber"), beam.code("TreatmentDeliveryType", "TREATMENT")
        if kind != "TREATMENT":
            notes.leave_out(f"{data.where}: beam {number} is no treatment beam ({kind})", quiet=kind == "SETUP")
            continue
        rows = _layers(beam, number, notes)
        layers += [row for row, _ in rows]
        spots += [table for _, table in rows]
        beams.append(_beam(beam, number, [row for row, _ in rows], groups.get(number), notes))
        beams[-1]["patient_position"] = _patient_position(data, beam)
        if not beams[-1]["patient_position"]:
            notes.assume(f"beam {number}: no patient position stated, or more than one", quiet=True)
    if not spots:
        raise IonrtError(f"{data.where}: no scan spots with a weight; expected a scanned ion plan with treatment beams")
    table = pd.DataFrame(beams)
    points = pd.concat(spots, ignore_index=True)
    factor = (table["meterset"] / table["final_weight"]).set_axis(table["beam"])
    points["meterset"] = points["weight"] * points["beam"].map(factor).to_numpy(float)
    if points["meterset"].max() > MOST_WEIGHT:
        raise IonrtError(
            f"{data.where}: a spot of {points['meterset'].max():g}; weights and beam meterset do not fit each other"
        )
    if not data.uid("FrameOfReferenceUID"):
        notes.assume(f"{data.where}: no frame of reference stated", quiet=True)
    fractions = set(table["fractions"])
    if len(fractions) > 1:
        notes.assume(f"{data.where}: beams are planned for different numbers of fractions {sorted(fractions)}; see `beams`")
    return IonPlan(
        label=data.text("RTPlanLabel"),
        fractions=fractions.pop() if len(fractions) == 1 else 0,
        frame_of_reference_uid=data.uid("FrameOfReferenceUID"),
        beams=table,
        layers=pd.DataFrame(layers),
        spots=points,
        **notes.tell(strict=strict),
    )


def _plan_file(path: Path) -> Path:
    """The file itself, or the only RT Ion Plan below a folder."""
    if not os.path.isdir(path) and not os.path.isfile(path):
        raise IonrtError(f"{path}: expected an RT Ion Plan, and the file does not exist")
    headers = {p: read_header(p) for p in (files_of(path) if os.path.isdir(path) else [path])}
    found = [p for p, header in headers.items() if header and header.code("SOPClassUID") == ION_PLAN]
    if len(found) == 1:
        return found[0]
    if path in headers:
        kind = header.code("Modality", "?") if (header := headers[path]) else "no DICOM file"
        raise IonrtError(f"{path.name}: expected an RT Ion Plan, got {kind}")
    names = ", ".join(p.name for p in found) or "none"
    raise IonrtError(f"{path}: expected one RT Ion Plan, found {len(found)} ({names}); name the file")


def _groups(data: Fields, notes: Notes) -> dict[int, dict[str, Any]]:
    """Beam number to what its fraction group says of it."""
    found: dict[int, dict[str, Any]] = {}
    for group in data.items("FractionGroupSequence"):
        fractions = group.integer("NumberOfFractionsPlanned", 0, low=0, high=MOST_FRACTIONS)
        named = group.items("ReferencedBeamSequence")
        if (stated := group.integer("NumberOfBeams", len(named))) != len(named):
            notes.leave_out(
                f"{data.where}: a fraction group names {len(named)} beams and says {stated}; the others are not known"
            )
        for beam in named:
            number = beam.integer("ReferencedBeamNumber")
            if number in found:
                raise IonrtError(
                    f"{data.where}: beam {number} stands in more than one fraction group, or twice in one; its meterset and"
                    " number of fractions are not one: split the plan into one per fraction group"
                )
            point = beam.numbers("BeamDoseSpecificationPoint", 3, default=np.full(3, np.nan), low=-FAR, high=FAR)
            found[number] = {
                "meterset": beam.number("BeamMeterset", np.nan, low=0.0, high=1e15),
                "fractions": fractions,
                "beam_dose": beam.number("BeamDose", np.nan, low=0.0, high=1e5),
                "beam_dose_type": beam.code("BeamDoseType"),
                **{f"dose_point_{axis}": float(value) for axis, value in zip("xyz", point, strict=True)},
            }
    return found


def _layers(beam: Fields, number: int, notes: Notes) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """(row, spots) of each control point that delivers something; energy and spot size carry on until they change."""
    found: list[tuple[dict[str, Any], pd.DataFrame]] = []
    energy, size, tune = np.nan, np.full(2, np.nan), ""
    points = beam.items("IonControlPointSequence")
    stated = beam.integer("NumberOfControlPoints", len(points))
    if stated != len(points) or not points:
        raise IonrtError(f"{beam.where}: {len(points)} control points, and it says {stated}; the plan is damaged")
    _check_energies(points, number, notes)
    for point in points:
        energy = point.number("NominalBeamEnergy", energy, low=0.01, high=MOST_ENERGY)
        size = point.numbers("ScanningSpotSize", 2, default=size, low=0.0, high=1e3)
        tune = point.text("ScanSpotTuneID", tune)
        weights = point.numbers("ScanSpotMetersetWeights", default=np.empty(0), low=0.0, high=MOST_WEIGHT)
        stated = point.integer("NumberOfScanSpotPositions", weights.size)
        if stated != weights.size:
            raise IonrtError(f"beam {number}: {weights.size} spot weights, and it says {stated}; the plan is damaged")
        if not weights.any():
            continue
        places = point.numbers("ScanSpotPositionMap", default=np.empty(0), low=-FAR, high=FAR)
        if places.size != 2 * weights.size:
            raise IonrtError(f"beam {number}: {weights.size} spot weights for {places.size} coordinates; the plan is damaged")
        if not np.isfinite(energy):
            raise point.error("NominalBeamEnergy", "is missing; spots without an energy cannot be delivered")
        keep = weights > 0.0
        x, y = places[::2][keep], places[1::2][keep]
        layer, total = len(found), float(weights[keep].sum())
        paintings = point.integer("NumberOfPaintings", 1, low=0, high=10_000) or 1
        row = {"beam": number, "layer": layer, "energy": energy, "weight": total, "spots": int(keep.sum()), "size_x": size[0],
               "size_y": size[1], "tune": tune, "paintings": paintings}  # fmt: skip
        spots = pd.DataFrame({"beam": number, "layer": layer, "energy": energy, "x": x, "y": y, "weight": weights[keep]})
        found.append((row, spots))
    return found


def _check_energies(points: list[Fields], number: int, notes: Notes) -> None:
    """An energy that is not stated goes on; where a system repeats it at each point and leaves one out, that is said."""
    stated = [point.number("NominalBeamEnergy", None, low=0.01, high=MOST_ENERGY) for point in points]
    if any(point.is_empty("NominalBeamEnergy") for point in points):
        raise IonrtError(f"beam {number}: NominalBeamEnergy of a control point is empty; the plan is damaged")
    if None in stated and any(a is not None and a == b for a, b in pairwise(stated)):
        notes.assume(f"beam {number}: control point {stated.index(None)} states no energy; that of the one before is taken")


def _beam(
    beam: Fields, number: int, layers: list[dict[str, Any]], group: dict[str, Any] | None, notes: Notes
) -> dict[str, Any]:
    """One row of the table of beams."""
    first = (points := beam.items("IonControlPointSequence"))[0]
    final, total = beam.number("FinalCumulativeMetersetWeight", low=0.0, high=1e15), sum(row["weight"] for row in layers)
    if not (final > 0.0 or not layers):
        raise beam.error("FinalCumulativeMetersetWeight", f"is {final:g} for spots that weigh {total:g}; the plan is damaged")
    if not np.isclose(final, total, rtol=1e-4):
        notes.assume(f"beam {number}: spot weights add up to {total:g}, the final cumulative weight is {final:g}")
    if layers and (group is None or np.isnan(group["meterset"])):
        raise IonrtError(
            f"{beam.where}: beam {number} has no meterset in a fraction group; the number of particles is not known"
        )
    group = group or NO_GROUP
    z, a, q = _species(beam, number)
    isocentre = first.numbers("IsocenterPosition", 3, low=-FAR, high=FAR)
    source = beam.numbers("VirtualSourceAxisDistances", 2, default=np.full(2, np.nan), low=0.0, high=1e6)
    for what, missing in (
        ("spot size", any(np.isnan(row["size_x"]) for row in layers)),
        (f"virtual source distance from {NEAREST_SOURCE:g} mm on", not (source > NEAREST_SOURCE).all()),
        ("number of fractions", not group["fractions"]),
        ("setting of a range shifter (taken as in)", any("RangeShifterSetting" not in s for s in _inside(first))),
        ("distance of a range shifter (taken as 0)", any("IsocenterToRangeShifterDistance" not in s for s in _inside(first))),
        ("beam dose", np.isnan(group["beam_dose"])),
    ):
        if missing:
            notes.assume(f"beam {number}: no {what} stated", quiet=True)
    hindered = [word for keyword, word in NOT_MODELLED.items() if beam.integer(keyword, 0)]
    hindered += _changes(points, isocentre, number)
    if beam.integer("NumberOfRangeShifters", 0) and not first.items("RangeShifterSettingsSequence"):
        hindered.append("range shifter that may be in or out")
    if hindered:
        notes.assume(f"beam {number}: {', '.join(hindered)}; the tables do not hold it, and no dose is computed from them")
    if widening := [word for keyword, word in WIDENING.items() if beam.integer(keyword, 0)]:
        notes.assume(f"beam {number}: {', '.join(widening)} in the beam; taken as part of the machine's base data", quiet=True)
    _check_metersets(beam, number, layers, total, group["meterset"], notes)
    snouts = [s.text("SnoutID") for s in beam.items("SnoutSequence")]
    gantry, couch = (first.number(k, low=-360.0, high=360.0) for k in ("GantryAngle", "PatientSupportAngle"))
    return {
        "beam": number,
        "name": beam.text("BeamName"),
        "machine": beam.text("TreatmentMachineName"),
        "ion": next((name for name in IONS if (get(name).charge, get(name).mass_number) == (z, a)), ""),
        "z": z,
        "a": a,
        "q": q,
        "meterset_unit": beam.code("PrimaryDosimeterUnit"),
        "final_weight": final,
        **group,
        "gantry_angle": gantry,
        "couch_angle": couch,
        **{column: _tilt(points, keyword) for column, keyword in TILTS.items()},
        "angle_change": max(abs(_tilt(points, k, first.number(k, 0.0, low=-720.0, high=720.0))) for k in TURNING),
        **{f"isocentre_{axis}": float(value) for axis, value in zip("xyz", isocentre, strict=True)},
        "source_x": source[0],
        "source_y": source[1],
        "snout": ", ".join(snouts),
        "snout_position": first.number("SnoutPosition", np.nan, low=-FAR, high=FAR),
        "range_shifters": ", ".join(s.text("RangeShifterID") for s in beam.items("RangeShifterSequence")),
        **_range_shifter(first, number),
        "hindered": ", ".join(hindered),
        "layers": len(layers),
        "spots": sum(row["spots"] for row in layers),
    }


def _patient_position(data: Fields, beam: Fields) -> str:
    """Of the set-up that the beam refers to, or of all where it refers to none; empty where that is not one position."""
    setups, number = data.items("PatientSetupSequence"), beam.integer("ReferencedPatientSetupNumber", None)
    mine = [s for s in setups if number is not None and s.integer("PatientSetupNumber", None) == number] or setups
    positions = {s.code("PatientPosition") for s in mine}
    return positions.pop() if len(positions) == 1 else ""


def _tilt(points: list[Fields], keyword: str, zero: float = 0.0) -> float:
    """The largest such angle of the control points against `zero`, -180 to 180 degrees."""
    angles = [p.number(keyword, zero, low=-720.0, high=720.0) - zero for p in points]
    return max(((a + 180.0) % 360.0 - 180.0 for a in angles), key=abs, default=0.0)


def _changes(points: list[Fields], isocentre: np.ndarray, number: int) -> list[str]:
    """What the first control point says and a later one takes back."""
    places = [p.numbers("IsocenterPosition", 3, default=isocentre, low=-FAR, high=FAR) for p in points]
    shifters = [_range_shifter(p, number) for p in points[1:] if "RangeShifterSettingsSequence" in p.data]
    moved = any(np.abs(place - isocentre).max() > STILL for place in places)
    other = any(s != _range_shifter(points[0], number) for s in shifters)
    return ["isocentre that moves"] * moved + ["range shifters that change"] * other


def _check_metersets(
    beam: Fields, number: int, layers: list[dict[str, Any]], total: float, meterset: float, notes: Notes
) -> None:
    """What a plan says twice, or leaves open, about the number of particles."""
    cumulative = [p.number("CumulativeMetersetWeight", None, low=0.0, high=1e15) for p in beam.items("IonControlPointSequence")]
    known = np.array([c for c in cumulative if c is not None])
    # each layer begins where the one before ended: its end is its own weight further
    if layers and known.any() and len(known) == len(cumulative):
        ends = np.unique(np.round(known / known.max(), 4))
        own = np.cumsum([0.0, *(row["weight"] for row in layers)]) / total
        if np.abs(own[:, None] - ends).min(axis=1).max() > 1e-3:
            notes.assume(f"beam {number}: cumulative weights and spot weights do not agree; the spots' are taken")
    if layers and meterset == 0.0:
        notes.assume(f"beam {number}: its meterset is 0, so that its spots have no particles")
    if layers and (unit := beam.code("PrimaryDosimeterUnit")) not in ("NP", "MU"):
        notes.assume(f"beam {number}: {f'unit {unit}' if unit else 'no unit'} of its meterset stated; taken as monitor units")
    modes = {beam.code("ScanMode", "MODULATED"), beam.code("ModulatedScanModeType", "STATIONARY")}
    for mode in sorted(modes - {"MODULATED", "MODULATED_SPEC", "STATIONARY"}):
        notes.assume(f"beam {number}: scan mode {mode}; its spots are taken as they are written, each standing still")


def _inside(point: Fields) -> list[Fields]:
    """Settings of the range shifters that are in the beam."""
    return [s for s in point.items("RangeShifterSettingsSequence") if s.text("RangeShifterSetting", "IN").upper() != "OUT"]


def _range_shifter(point: Fields, number: int) -> dict[str, float]:
    """Water-equivalent thickness and distance of the shifters that are in; a shifter of unknown thickness raises."""
    inside = _inside(point)
    thickness = [s.number("RangeShifterWaterEquivalentThickness", np.nan, low=0.0, high=1e3) for s in inside]
    if any(np.isnan(t) for t in thickness):
        raise IonrtError(
            f"beam {number}: a range shifter without its water-equivalent thickness; the plan cannot be recomputed"
        )
    distance = [s.number("IsocenterToRangeShifterDistance", 0.0, low=-FAR, high=FAR) for s in inside]
    return {"range_shifter": float(sum(thickness)), "range_shifter_distance": float(max(distance, default=0.0))}


def _species(beam: Fields, number: int) -> tuple[int, int, int]:
    """Atomic number, mass number, charge of the beam's particle."""
    kind = beam.code("RadiationType")
    if kind == "PROTON":
        return 1, 1, 1
    z, a, q = (
        beam.integer(k, None, low=low, high=300)
        for k, low in (("RadiationAtomicNumber", 1), ("RadiationMassNumber", 1), ("RadiationChargeState", -4))
    )
    if kind != "ION" or z is None or a is None:
        raise IonrtError(f"beam {number}: radiation {kind!r} with Z, A, Q {[z, a, q]}; expected PROTON, or ION with Z and A")
    return z, a, z if q is None else q
