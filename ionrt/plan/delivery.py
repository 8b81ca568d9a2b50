"""A plan of ours as what a machine delivers: beams, layers and spots, written as RT Ion Plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ionrt import ions
from ionrt.patient.ionplan import IonPlan
from ionrt.plan.engine.influence import BeamInfluence, Influence
from ionrt.plan.setup.beams import Plan
from ionrt.plan.setup.room import FWHM, RADIATION_LENGTH_WATER, highland
from ionrt.plan.setup.scene import scene_without_target
from ionrt.plan.setup.spots import make_view
from ionrt.quantities import IonrtError


def ion_plan_of(
    influence: Influence, weights: xr.DataArray | np.ndarray, patient: xr.Dataset, *, label: str = "ionrt"
) -> IonPlan:
    """Beams, layers and spots of a plan, as `read_ion_plan` returns those of a file; metersets in numbers of particles ("NP").

    Spot size = FWHM in air at the isocentre, behind the range shifter, which stands where the beam's axis enters the patient.
    Weights are particles per fraction; spots without weight are left out.
    """
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != (influence.n_spots,) or not np.isfinite(w).all() or (w < 0.0).any() or not w.any():
        raise IonrtError(
            f"write_ion_plan: expected {influence.n_spots} finite weights >= 0, not all zero, got shape {w.shape} with"
            f" {int((w > 0).sum())} positive ones"
        )
    made = [
        _tables(k, beam, w[part], patient)
        for k, (beam, part) in enumerate(zip(influence.beams, influence.slices(), strict=True), 1)
        if w[part].any()
    ]
    return IonPlan(
        label=label,
        fractions=influence.plan.fractions,
        frame_of_reference_uid=str(patient.attrs.get("frame_of_reference_uid", "")),
        beams=pd.DataFrame([b for b, _, _ in made]),
        layers=pd.concat([x for _, x, _ in made], ignore_index=True),
        spots=pd.concat([x for _, _, x in made], ignore_index=True),
    )


def write_ion_plan(
    plan: Plan,
    influence: Influence,
    weights: xr.DataArray | np.ndarray,
    patient: xr.Dataset,
    path: str | Path,
    *,
    label: str = "ionrt",
    source: str | Path | None = None,
) -> Path:
    """Write a plan as RT Ion Plan (DICOM).

    Parameters
    ----------
    plan : the plan that `influence` was made for.
    influence, weights : its spots and their particles per fraction.
    patient : Dataset of `read_dicom`; gives identity, study, frame of reference and structure set.
    path : file to write; replaced only by a complete one.
    label : of the plan, 16 characters.
    source : folder with the patient's CT, by default `patient.attrs["source"]`.

    Returns
    -------
    The path written. Metersets are numbers of particles; the prescription is that of all fractions in Gy (RBE), with the RBE
        model in the description.

    Raises
    ------
    IonrtError for another plan than the influence's, weights that do not fit, a source without the patient's CT.

    References
    ----------
    DICOM PS3.3 C.8.8.25.
    """
    from ionrt.patient.writing.dicom_plan import write_plan_tables

    if plan != influence.plan:
        raise IonrtError("write_ion_plan: expected the plan that the influence was made for; give influence.plan")
    return write_plan_tables(
        ion_plan_of(influence, weights, patient, label=label),
        patient,
        path,
        prescription=plan.prescription * plan.fractions,
        description=f"RBE model {plan.model}, target {plan.target}; research only",
        source=source,
    )


def _tables(
    number: int, one: BeamInfluence, weights: np.ndarray, patient: xr.Dataset
) -> tuple[dict, pd.DataFrame, pd.DataFrame]:
    """Row of the beam, its layers from the highest energy down, its spots."""
    beam, machine, isotope = one.beam, one.machine, ions.get(one.beam.ion)
    u, v, e = one.spots.per_spot()
    used = np.flatnonzero(weights.astype(np.float32) > 0.0)
    order = used[np.lexsort((u[used], v[used], -machine.energy[e[used]]))]
    energies, layer = np.unique(-e[order], return_inverse=True)
    spots = pd.DataFrame(
        {
            "beam": number,
            "layer": layer,
            "energy": machine.energy[e[order]],
            "x": u[order],
            "y": v[order],
            "weight": weights[order],
        }
    )
    spots["meterset"] = spots["weight"]
    distance = _shifter_distance(one, patient)
    thickness = beam.range_shifter
    theta2 = [highland(beam.ion, float(machine.energy[-k]), thickness / RADIATION_LENGTH_WATER) ** 2 for k in energies]
    behind = np.array(theta2) * (distance**2 + distance * thickness + thickness**2 / 3.0)
    size = FWHM * np.sqrt(machine.air[-energies, 0] + behind)
    layers = pd.DataFrame({"beam": number, "layer": np.arange(energies.size), "energy": machine.energy[-energies]})
    layers["weight"] = spots.groupby("layer")["weight"].sum().to_numpy()
    layers["spots"] = spots.groupby("layer").size().to_numpy()
    layers["size_x"], layers["size_y"], layers["tune"], layers["paintings"] = size, size, "1", 1
    total = float(spots["weight"].sum())
    row = {
        "beam": number, "name": beam.name, "ion": beam.ion, "z": isotope.charge, "a": isotope.mass_number, "q": isotope.charge,
        "meterset_unit": "NP", "final_weight": total, "meterset": total, "beam_dose": np.nan, "beam_dose_type": "",
        **dict.fromkeys(("dose_point_x", "dose_point_y", "dose_point_z"), np.nan), "gantry_angle": beam.gantry,
        "couch_angle": beam.couch, "patient_position": beam.position, "table_pitch": beam.pitch, "table_roll": beam.roll,
        "table_eccentric": 0.0, "gantry_pitch": 0.0, "angle_change": 0.0,
        **dict(zip(("isocentre_x", "isocentre_y", "isocentre_z"), one.isocentre, strict=True)),
        "source_x": beam.room.source_distance[0], "source_y": beam.room.source_distance[1],
        "snout": "", "snout_position": np.nan,
        "range_shifters": f"RS {thickness:g} mm" if thickness else "", "range_shifter": thickness,
        "range_shifter_distance": distance, "hindered": "", "machine": beam.room.name,
        "layers": len(layers), "spots": len(spots),
    }  # fmt: skip
    return row, layers, spots


def _shifter_distance(one: BeamInfluence, patient: xr.Dataset) -> float:
    """Where the axis enters the patient (mm from the isocentre): our beams scatter in no gap behind a range shifter."""
    if not one.beam.range_shifter:
        return 0.0
    scene = scene_without_target(patient, (3.0, 3.0, 3.0))
    return make_view(replace(one.beam, isocentre=one.isocentre), scene).surface(scene)
