"""Runs with the interpreter that has the other package: opens what ionrt wrote and leaves what it found as .npz.

Called as: python foreign_readers.py <package> <file or folder> <output.npz>
"""

import sys
from importlib.metadata import version

import numpy as np


def opentps(path):
    """Spots of a proton plan: beam, energy, x, y, meterset."""
    from opentps.core.io.dicomIO import readDicomPlan

    plan = readDicomPlan(path)
    rows = [
        (k, float(layer.nominalEnergy), x, y, mu)
        for k, beam in enumerate(plan.beams, 1)
        for layer in beam.layers
        for (x, y), mu in zip(layer.spotXY, layer.spotMUs, strict=True)
    ]
    beams = [(b.gantryAngle, b.patientSupportAngle, *b.isocenterPosition) for b in plan.beams]
    return {"version": version("opentps-core"), "spots": rows, "beams": beams, "fractions": plan.numberOfFractionsPlanned}


def opentps_registration(path):
    """Matrix of fixed to moving points, or displacement (x, y, z, component) with origin and spacing."""
    from opentps.core.io.dicomIO import readDicomRigidTransform, readDicomVectorField
    from pydicom import dcmread

    about = {"version": version("opentps-core")}
    if "RegistrationSequence" in dcmread(path):
        return about | {"matrix": readDicomRigidTransform(path).tformMatrix}
    field = readDicomVectorField(path)
    return about | {"displacement": field.imageArray, "origin": field.origin, "spacing": field.spacing}


def fredtools(path):
    """Spots of any ion plan; every second control point has no weights."""
    import fredtools as ft

    found = ft.getRNSpots(path)
    rows = found.loc[found["PBMsW"] > 0, ["FNo", "PBnomEnergy", "PBPosX", "PBPosY", "PBMU"]].astype(float)
    first = found.groupby("FNo").first()
    beams = [(r.FGantryAngle, r.FCouchAngle, *r.FIsoPos) for r in first.itertuples()]
    return {"version": version("fredtools"), "spots": rows.to_numpy(), "beams": np.array(beams, float), "fractions": -1}


def pyradplan(path):
    """Dose on the CT's grid and names of the structures; and the same dose written again by it."""
    import SimpleITK as sitk
    from pyRadPlan.io.dicom import DicomExporter, DicomImporter

    source = DicomImporter(path)
    ct = source.load_ct()
    dose, structures = source.load_dose(ct=ct), source.load_cst(ct=ct)
    DicomExporter(path + "_theirs").save(ct=ct, cst=structures, dose=dose)
    volumes = {v.name: float(sitk.GetArrayFromImage(v.mask).sum()) * np.prod(ct.cube_hu.GetSpacing()) for v in structures.vois}
    return {
        "version": version("pyRadPlan"),
        "dose": sitk.GetArrayFromImage(dose),
        "origin": dose.GetOrigin(),
        "names": list(volumes),
        "volumes": list(volumes.values()),
    }


if __name__ == "__main__":
    package, path, out = sys.argv[1:]
    np.savez(out, **{k: np.asarray(v) for k, v in globals()[package](path).items()})
