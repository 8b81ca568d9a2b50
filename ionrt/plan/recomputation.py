"""A delivered or planned RT Ion Plan computed again with our beams: an independent dose check, and LETd."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.files import content_hash
from ionrt.patient.ionplan import NEAREST_SOURCE, IonPlan
from ionrt.patient.reading.frames import check_frame
from ionrt.plan.engine.influence import BeamInfluence, Influence, beam_influence
from ionrt.plan.fields import field
from ionrt.plan.setup.beams import Beam, Plan
from ionrt.plan.setup.geometry import POSITIONS
from ionrt.plan.setup.machine import Machine, make_machine
from ionrt.plan.setup.provenance import of_base, of_patient
from ionrt.plan.setup.room import FWHM, GANTRY_1, RADIATION_LENGTH_WATER, Room, highland
from ionrt.plan.setup.scene import Scene, scene_without_target
from ionrt.plan.setup.spots import given_spots, make_view
from ionrt.quantities import IonrtError, check, one_of

LEAST_SIGMA = 1.0  # mm in vacuum, where the stated spot size leaves nothing beside the range shifter
NEAR_POINT = 6.0  # mm: the mean dose there is compared with the stated beam dose
PROTON_RBE = 1.1
BETTER = "give reference= (a physical dose) or particles_per_mu="
LEVEL = 0.01  # degrees: a gantry that leans, or angles that change during a beam, by less stand still
HIGH_DOSE = 0.5  # of the largest reference dose: voxels that set the factor


def recompute(
    patient: xr.Dataset | None,
    ion_plan: IonPlan,
    *,
    base: Mapping[str, xr.Dataset] | None = None,
    spacing: float | tuple[float, float, float] = 3.0,
    models: Sequence[str] = ("constant",),
    let_definition: str = "charged",
    reference: xr.DataArray | None = None,
    particles_per_mu: float | None = None,
    water_depth: float | None = None,
    lateral_loss: float = 0.002,
    by: str | None = None,
) -> xr.Dataset:
    r"""The additive field of an RT Ion Plan, per fraction.

    D = sum_spots N_s D_s; N_s is the meterset where that is a number of particles, else N_s = k MU_s S(E_ref)/S(E_s), E_ref the
    plan's highest energy of that ion: a monitor chamber counts ionisation, so a monitor unit holds particles in inverse
    proportion to their stopping power. k is not in the file; it comes from `particles_per_mu`, or from `reference`, or from the
    beam doses stated at their point (the isocentre where none is), in this order. A beam dose that does not say its type is
    taken as RBE-weighted (1.1) for protons, as their planning systems state it, and refused for other ions.

    Validity: scanned beams, one direction each; any patient position (HFS with a warning where the plan does not say), table
    angle and tilt, an isocentre per beam. The stated spot size is taken as that in air at the isocentre, behind the range
    shifter; the scattering of the shifter over the gap to the patient is added to that in water.

    Parameters
    ----------
    patient : Dataset with ct or spr (None: a box of water with the isocentre `water_depth` mm deep, by default where the spots
        stop on average)
    water_depth : mm of the isocentre in that box
    ion_plan : of `read_ion_plan`
    base : {ion: Dataset} at the plan's energies (None: `base_data` at them)
    spacing : mm of the dose grid
    models : whose moments are wanted
    let_definition, reference : dose (z, y, x) Gy per fraction
    particles_per_mu : at the plan's highest energy
    lateral_loss : as in `Plan`.
    by : as in `field`.

    Returns
    -------
    a field (z, y, x), with `beam` or `ion` in front where asked for; attribute `normalisation` says what k rests on,
    `particles_per_mu` its value; `assumed` is there where plan or patient states no frame of reference, and says what
    the reader of the plan left out or assumed.

    Raises
    ------
    IonrtError
        An ion that ionrt does not know, energies without base data, no meterset, isocentre or dose to go by, beams that miss
        the patient, an unknown patient position, a pitched gantry, an arc, a patient in another frame of reference, blocks,
        compensators, boli, an isocentre or range shifters that change during a beam.

    References
    ----------
    Hong et al., doi 10.1088/0031-9155/41/8/005; Highland, Nucl Instrum Methods 129 (1975) 497.
    """
    frame = ion_plan.frame_of_reference_uid
    assumed = "" if patient is None else check_frame(patient, frame, what=f"the plan {ion_plan.label!r}", quiet=True)
    assumed = "; ".join(filter(None, (assumed, *ion_plan.left_out, *ion_plan.assumed)))
    beams = [_beam(row) for _, row in ion_plan.beams.iterrows()]
    energies = {
        b.ion: [float(e) for e in np.unique(_layers(ion_plan, [k for k in beams if k.ion == b.ion])["energy"])] for b in beams
    }
    data = {ion: _base(ion, e, base) for ion, e in energies.items()}
    depth = _mean_depth(ion_plan, beams, data) if water_depth is None else water_depth
    patient = _water(beams, depth) if patient is None else patient
    steps = (float(spacing),) * 3 if isinstance(spacing, (int, float)) else tuple(float(s) for s in spacing)
    scene = scene_without_target(patient, steps)  # type: ignore[arg-type]
    # of the plan, only what all beams share counts below: a treatment may have two beams from one direction, or several sources
    plan = Plan(
        (beams[0],),
        "none: spots are given",
        1.0,
        fractions=max(ion_plan.fractions, 1),
        spacing=scene.grid.spacing,
        lateral_loss=lateral_loss,
    )
    made = [
        _recomputed(plan, b, row, ion_plan, scene, data[b.ion])
        for b, (_, row) in zip(beams, ion_plan.beams.iterrows(), strict=True)
    ]
    attrs = {"patient": of_patient(scene), "base": of_base(data)}
    influence = Influence(plan, scene.grid, tuple(b for b, _ in made), data, attrs)
    result = field(influence, np.concatenate([w for _, w in made]), models=models, let_definition=let_definition, by=by)
    result.attrs.pop("target")
    if assumed:
        result.attrs["assumed"] = assumed
    return _normalised(result, ion_plan, beams, reference, particles_per_mu)


def _layers(ion_plan: IonPlan, beams: Sequence[Beam]) -> pd.DataFrame:
    ions = {b.ion for b in beams}
    return ion_plan.layers[ion_plan.layers["beam"].isin(ion_plan.beams.loc[ion_plan.beams["ion"].isin(ions), "beam"])]


def _beam(row: pd.Series) -> Beam:
    """A row of the plan's beams as a beam in a room of its own."""
    position = _position(row)
    if hindered := str(row.get("hindered", "")):
        raise IonrtError(
            f"beam {row['beam']}: {hindered}; expected a beam with nothing in its way but range shifters that stay"
        )
    if not row["ion"]:
        raise IonrtError(f"beam {row['beam']}: Z {row['z']}, A {row['a']} is no ion that ionrt has beams of")
    place = tuple(float(row[f"isocentre_{a}"]) for a in "xyz")
    source = (float(row["source_x"]), float(row["source_y"]))
    given = [float(row[k]) for k in ("gantry_angle", "couch_angle")]
    if not np.isfinite([*place, *given]).all():
        raise IonrtError(f"beam {row['beam']}: isocentre, gantry or couch angle is missing in the plan")
    distance = source if np.isfinite(source).all() and min(source) > NEAREST_SOURCE else GANTRY_1.source_distance
    room = Room(f"as planned, beam {row['beam']}", energies={row["ion"]: (1.0, 1000.0)}, source_distance=distance)
    return Beam(
        row["ion"],
        given[0],
        given[1] + float(row.get("table_eccentric", 0.0)),  # about a vertical axis elsewhere: the isocentre is the patient's
        isocentre=place,  # type: ignore[arg-type]
        room=room,
        range_shifter=float(row["range_shifter"]),
        position=position,
        pitch=float(row.get("table_pitch", 0.0)),
        roll=float(row.get("table_roll", 0.0)),
    )


def _position(row: pd.Series) -> str:
    """The patient's position; raises where the gantry leans or an angle changes during the beam."""
    position = str(row.get("patient_position", ""))
    if not position:
        warnings.warn(f"beam {row['beam']}: the plan states no patient position; taken as HFS", stacklevel=4)
    if abs(lean := float(row.get("gantry_pitch", 0.0))) > LEVEL:
        raise IonrtError(f"beam {row['beam']}: expected an upright gantry, got gantry pitch {lean:g} degrees")
    if (change := float(row.get("angle_change", 0.0))) > LEVEL:
        raise IonrtError(
            f"beam {row['beam']}: gantry or table turns by {change:g} degrees during the beam; expected one direction per beam:"
            " split an arc into its directions"
        )
    return one_of(position or "HFS", tuple(POSITIONS), what=f"beam {row['beam']}: patient position")


def _base(ion: str, energies: list[float], base: Mapping[str, xr.Dataset] | None) -> xr.Dataset:
    """Base data at the plan's energies and no others, so that further ones change nothing."""
    from ionrt.beam import base_data

    if base is None:
        return base_data(ion, energy=energies)
    if ion not in base:
        raise IonrtError(f"base: expected base data of {ion!r}, got those of {', '.join(base) or 'no ion'}")
    found = np.asarray(base[ion]["energy"].values, float)
    nearest = np.abs(found - np.array(energies)[:, None]).argmin(axis=1)
    return base[ion].isel(energy=np.unique(nearest))


def _mean_depth(ion_plan: IonPlan, beams: Sequence[Beam], data: Mapping[str, xr.Dataset]) -> float:
    """Where the spots stop on average, mm of water behind the range shifters."""
    total, weight = 0.0, 0.0
    for beam, (_, row) in zip(beams, ion_plan.beams.iterrows(), strict=True):
        mine = ion_plan.layers[ion_plan.layers["beam"] == row["beam"]]
        peak = data[beam.ion]["dose"].idxmax("depth").sel(energy=mine["energy"].to_numpy(float), method="nearest").values
        total += float(((peak - beam.range_shifter) * mine["weight"]).sum())
        weight += float(mine["weight"].sum())
    return max(total / weight, 1.0)


def _water(beams: Sequence[Beam], depth: float) -> xr.Dataset:
    """A cube of water around the first isocentre."""
    x, y, z = beams[0].isocentre or (0.0, 0.0, 0.0)
    n = 2 * int(np.ceil((depth + 1.0) / 2.0))
    coords = {d: c - depth + depth / n + 2.0 * depth / n * np.arange(n) for d, c in (("z", z), ("y", y), ("x", x))}
    return xr.Dataset({"spr": (("z", "y", "x"), np.ones((n, n, n), np.float32))}, coords=coords)


def _recomputed(
    plan: Plan, beam: Beam, row: pd.Series, ion_plan: IonPlan, scene: Scene, base: xr.Dataset
) -> tuple[BeamInfluence, np.ndarray]:
    """Entries of the plan's spots and the particles of each (of a monitor unit: 1e6 at the plan's highest energy)."""
    from ionrt.beam import stopping_power

    spots = (
        ion_plan.spots[ion_plan.spots["beam"] == row["beam"]].groupby(["x", "y", "energy"], as_index=False)["meterset"].sum()
    )
    meterset = spots["meterset"].to_numpy(float)
    if not (np.isfinite(meterset).all() and meterset.sum() > 0.0):
        raise IonrtError(f"beam {row['beam']}: no meterset in the plan; nothing tells how many particles its spots have")
    table = xr.Dataset(
        coords={k: ("spot", spots[c].to_numpy(float)) for k, c in (("u", "x"), ("v", "y"), ("energy", "energy"))}
    )
    table = table.assign_coords(beam_index=("spot", np.zeros(len(spots), int)))
    view, machine = make_view(beam, scene), make_machine(beam, base)
    machine = replace(machine, air=_in_air(beam, row, ion_plan, machine, view.surface(scene)))
    places, order = given_spots(table, 0, beam, machine)
    particles = meterset[order]
    if row["meterset_unit"] != "NP":
        power = stopping_power(beam.ion, machine.energy).values
        energy = places.per_spot()[2]
        particles = 1e6 * particles * power[-1] / power[energy]  # the last energy is the plan's highest of this ion
    return beam_influence(plan, beam, scene, view, machine, places), particles


def _in_air(beam: Beam, row: pd.Series, ion_plan: IonPlan, machine: Machine, surface: float) -> np.ndarray:
    """Coefficients of 1, w, w2 of the spot's variance (mm2) beside the scattering in water: that of the stated spot, and that
    which the range shifter adds over the gap to the patient."""
    layers = ion_plan.layers[ion_plan.layers["beam"] == row["beam"]]
    stated = np.full(machine.energy.size, np.nan)
    for energy, x, y in layers[["energy", "size_x", "size_y"]].to_numpy(float):
        stated[np.abs(machine.energy - energy).argmin()] = x * y / FWHM**2
    air = machine.air.copy()
    thickness, distance = beam.range_shifter, float(row["range_shifter_distance"])
    lengths = thickness / RADIATION_LENGTH_WATER
    theta2 = np.array([highland(beam.ion, float(e), lengths) ** 2 for e in machine.energy])
    known = np.isfinite(stated) & (stated > 0.0)
    behind = theta2 * (distance**2 + distance * thickness + thickness**2 / 3.0)  # in air at the isocentre
    air[known] = 0.0
    air[known, 0] = np.maximum(stated - behind, LEAST_SIGMA**2)[known]
    gap = max(distance - surface, 0.0) if thickness else 0.0
    air[:, 0] += theta2 * (gap**2 + gap * thickness + 2.0 * gap * surface)
    air[:, 1] -= theta2 * 2.0 * gap
    return air


def _normalised(
    found: xr.Dataset, ion_plan: IonPlan, beams: Sequence[Beam], reference: xr.DataArray | None, particles_per_mu: float | None
) -> xr.Dataset:
    """Multiply everything, all of it linear in the number of particles, by what makes it absolute."""
    units, dose = set(ion_plan.beams["meterset_unit"]), found["dose"]
    dose = dose.sum([d for d in dose.dims if d not in ("z", "y", "x")], keep_attrs=True)
    if units == {"NP"}:
        factor, why = 1.0, "metersets are numbers of particles"
    elif particles_per_mu is not None:
        factor, why = particles_per_mu / 1e6, f"{particles_per_mu:g} particles per monitor unit at the highest energy, as given"
    elif reference is not None:
        factor, why = (
            factor_to_reference(dose, reference),
            f"to the reference dose where that is above {HIGH_DOSE:.0%} of its maximum",
        )
    else:
        factor, why = _to_beam_dose(dose, ion_plan, beams)
    inputs = {"inputs_hash": content_hash(found.attrs["inputs_hash"], float(factor))}
    out = found.map(lambda da: (da * np.float32(factor)).assign_attrs({**da.attrs, **inputs}), keep_attrs=True)
    out.attrs = {**found.attrs, **inputs, "normalisation": why, "plan": ion_plan.label}
    if units != {"NP"}:
        out.attrs["particles_per_mu"] = factor * 1e6
    return out


def factor_to_reference(dose: xr.DataArray, reference: xr.DataArray) -> float:
    """Least-squares factor of a dose in the reference's high-dose voxels that lie on its grid."""
    check(reference, "dose", dims=("z", "y", "x"))
    mine = dose.interp(z=reference["z"], y=reference["y"], x=reference["x"]).values
    theirs = reference.transpose("z", "y", "x").values
    use = np.isfinite(mine) & (theirs >= HIGH_DOSE * theirs.max())
    if not (mine[use] > 0.0).any():
        raise IonrtError(
            "reference: no dose of the plan where the reference has its high dose; check frame of reference and patient"
        )
    return float((mine[use] * theirs[use]).sum(dtype=float) / (mine[use] ** 2).sum(dtype=float))


def _to_beam_dose(dose: xr.DataArray, ion_plan: IonPlan, beams: Sequence[Beam]) -> tuple[float, str]:
    """Sum of the stated beam doses, made physical, over the mean dose around their point; and what that rests on."""
    rows = ion_plan.beams
    stated, protons = float(rows["beam_dose"].sum(min_count=len(beams))), set(rows["ion"]) == {"p"}
    if not (np.isfinite(stated) and stated > 0.0):
        raise IonrtError(f"the plan is in monitor units and states no beam dose: {BETTER}")
    kinds = set(rows["beam_dose_type"]) if "beam_dose_type" in rows else {""}
    if kinds != {"PHYSICAL"} and not protons:
        raise IonrtError(f"the plan is in monitor units and its beam doses are RBE-weighted, or do not say: {BETTER}")
    points = {_dose_point(beam, row) for beam, (_, row) in zip(beams, rows.iterrows(), strict=True)}
    if len(points) > 1:
        raise IonrtError(f"the plan is in monitor units and states its beam doses at several points: {BETTER}")
    x, y, z = points.pop()
    near = (dose["x"] - x) ** 2 + (dose["y"] - y) ** 2 + (dose["z"] - z) ** 2 <= NEAR_POINT**2
    mean = float(dose.where(near).mean())
    if not mean > 0.0:
        raise IonrtError(f"the plan states its beam doses at ({x:g}, {y:g}, {z:g}) mm, where no dose of it is: {BETTER}")
    if kinds == {"PHYSICAL"}:
        return stated / mean, "to the beam doses that the plan states, physical"
    said = "stated as RBE-weighted" if kinds == {"EFFECTIVE"} else "taken as RBE-weighted, which the plan leaves open"
    return stated / PROTON_RBE / mean, f"to the beam doses that the plan states, {said}, over {PROTON_RBE:g}"


def _dose_point(beam: Beam, row: pd.Series) -> tuple[float, ...]:
    """Where a beam's dose is stated; its isocentre where that is left open."""
    stated = tuple(float(row.get(f"dose_point_{axis}", np.nan)) for axis in "xyz")
    return stated if np.isfinite(stated).all() else (beam.isocentre or (0.0, 0.0, 0.0))
