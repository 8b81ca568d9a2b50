"""Single-event specific energy: exact integrals, an independent quadrature, converged reference values."""

from __future__ import annotations

import csv
import itertools
import math

import numpy as np
import pytest

from ionrt.biology import TISSUES, specific_energy
from ionrt.biology.specific import closure, single_event_dose
from ionrt.quantities import IonrtError

CONV = 0.1602176634
NODES, WEIGHTS = (x * math.pi / 2 for x in np.polynomial.legendre.leggauss(80))
CHARGE = {"H": 1, "He": 2, "C": 6, "Ne": 10}
PARTICLES = [(1, 1.0, 25.93), (1, 100.0, 0.7247), (2, 10.0, 18.1493), (6, 1.0, 658.663), (6, 100.0, 26.261), (10, 400.0, 30.0)]


def radial_dose(charge, energy, let):
    """Radii, K_p and core dose as published, written out a second time."""
    beta = math.sqrt(1 - 1 / (1 + energy / 931.494) ** 2)
    rc, rp = 0.0116 * beta, max(0.0616 * energy**1.7, 0.0116 * beta)
    kp = 1.25e-4 * (charge * (1 - math.exp(-125 * beta * charge ** (-2 / 3))) / beta) ** 2
    return rc, rp, kp, (CONV * let - 2 * math.pi * kp * math.log(rp / rc)) / (math.pi * rc**2)


def z1_by_arcs(b, radius, rc, rp, kp, dc):
    """The cylinder's mean dose as an integral of arc lengths over the distance from the track."""

    def dose(r):
        return dc if r < rc else (kp / r**2 if r <= rp else 0.0)

    def arc(r):
        return 2 * math.acos(max(-1.0, min(1.0, (r * r + b * b - radius**2) / (2 * r * b))))

    low, high = abs(radius - b), min(radius + b, rp)
    total = 0.0
    if b < radius:
        inner = min(low, rp)
        total += math.pi * dc * min(rc, inner) ** 2
        total += 2 * math.pi * kp * math.log(inner / rc) if inner > rc else 0.0
    edges = np.unique(
        [low, high, *(x for x in (rc, *np.geomspace(rc, high, 12), *(low + rc * np.array([0.1, 1]))) if low < x < high)]
    )
    for a, c in itertools.pairwise(edges):
        # sine substitution: the arc has half powers at both ends of its range
        half, middle = (c - a) / 2, (c + a) / 2
        r = middle + half * np.sin(NODES)
        total += sum(w * x * dose(x) * arc(x) * half * math.cos(u) for w, x, u in zip(WEIGHTS, r, NODES, strict=True))
    return total / (math.pi * radius**2)


@pytest.mark.parametrize(("charge", "energy", "let"), PARTICLES)
def test_single_event_dose_equals_the_integral_over_arcs(charge, energy, let):
    radius, shape = 0.32, radial_dose(charge, energy, let)
    rc, rp = shape[:2]
    points = [1e-3, 0.1, 0.3, 0.32 - 0.4 * rc, 0.32 + 0.7 * rc, 0.33, 0.5, abs(rp - radius) + 0.05, rp + radius - 0.03]
    points = [b for b in points if 0 < b < rp + radius]
    got = single_event_dose(charge, energy, let=let, radius=radius, impact_parameter=points).values
    expected = [z1_by_arcs(b, radius, *shape) for b in points]
    np.testing.assert_allclose(got, expected, rtol=1e-7)


def test_closed_forms_inside_and_outside():
    charge, energy, let, radius = 6, 100.0, 26.261, 0.32
    rc, _, kp, dc = radial_dose(charge, energy, let)
    inside, outside = 0.1, 2.0
    expected = [
        (math.pi * rc**2 * dc + math.pi * kp * math.log((radius**2 - inside**2) / rc**2)) / (math.pi * radius**2),
        kp / radius**2 * math.log(outside**2 / (outside**2 - radius**2)),
    ]
    got = single_event_dose(charge, energy, let=let, radius=radius, impact_parameter=[inside, outside]).values
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("radius", [0.23, 0.41, 3.9, 8.1])
def test_energy_is_conserved(radius):
    z, e, s = np.array(PARTICLES).T
    np.testing.assert_allclose(closure(z, e, let=s, radius=radius).values, 1.0, rtol=0, atol=1e-9)


def test_quadrature_is_converged():
    z, e, s = np.array(PARTICLES).T
    radii = {"domain_radius": 0.32, "nucleus_radius": 3.9, "z0": 48.98}
    few = specific_energy(z, e, let=s, **radii)
    many = specific_energy(z, e, let=s, **radii, points=(60, 120))
    for name in few:
        np.testing.assert_allclose(few[name], many[name], rtol=1e-6)


def test_converged_reference(shared):
    lines = [line for line in shared("reference/biology/specific_energy.csv").read_text().splitlines() if line[0] != "#"]
    rows = list(csv.DictReader(lines))
    z = [CHARGE[r["ion"]] for r in rows]
    e, let = ([float(r[k]) for r in rows] for k in ("energy_MeV_u", "let_keV_um"))
    for name, columns in (
        ("mkm_nirs", {"zstar": "zstar_nirs_Gy"}),
        ("smk_hsg", {"zstar": "zstar_smk_Gy", "zd": "zd_smk_Gy", "zn": "zn_smk_Gy"}),
    ):
        t = TISSUES[name]
        got = specific_energy(z, e, let=let, domain_radius=t.domain_radius, nucleus_radius=t.nucleus_radius, z0=t.z0)
        for variable, column in columns.items():
            written = [r[column] for r in rows]
            rounding = np.array([0.51 * 10.0 ** -len(w.split(".")[1]) for w in written])
            expected = np.array([float(w) for w in written])
            off = np.abs(got[variable].values - expected)
            assert (off <= np.maximum(1e-3 * expected, rounding)).all(), (name, variable, off / expected)


def test_saturation_only_lowers_and_vanishes_for_large_z0():
    z, e, s = np.array(PARTICLES).T
    few = specific_energy(z, e, let=s, domain_radius=0.28, nucleus_radius=8.1, z0=66.0)
    none = specific_energy(z, e, let=s, domain_radius=0.28, nucleus_radius=8.1, z0=1e9)
    assert (few.zstar < few.zd).all()
    np.testing.assert_allclose(none.zstar, few.zd, rtol=1e-6)


def test_labels_and_shapes():
    table = specific_energy([[1], [6]], [10.0, 100.0, 200.0], let=[[4.5, 0.72, 0.45], [164.0, 26.3, 16.2]], **RADII)
    assert table.zstar.dims == ("charge", "energy")
    assert list(table.charge) == [1, 6]
    one = specific_energy(6, 100.0, let=26.261, **RADII)
    assert one.zn.shape == ()
    assert {v.attrs["units"] for v in table.values()} == {"Gy"}


RADII = {"domain_radius": 0.32, "nucleus_radius": 3.9, "z0": 49.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"let": -1.0}, "let"),
        ({"let": 0.001}, "penumbra"),
        ({"domain_radius": 0.0}, "radius"),
        ({"z0": 0.0}, "z0"),
        ({"let": [1.0, 2.0, 3.0], "energy": [1.0, 2.0]}, "shapes"),
    ],
)
def test_bad_input(change, message):
    given = {"charge": 6, "energy": 100.0, "let": 26.261, **RADII, **change}
    with pytest.raises(IonrtError, match=message):
        specific_energy(given.pop("charge"), given.pop("energy"), **given)
