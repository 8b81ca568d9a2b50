"""Contours to volume fractions: closed forms, sampling, published volumes."""

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from ionrt.patient import read_dicom, volumes
from ionrt.patient.geometry.coverage import Contours, coverage
from ionrt.patient.geometry.structures import add_structures, contours, find_structure
from ionrt.quantities import IonrtError

Z = np.arange(5) * 2.0
XY = np.arange(40) * 1.0


def shoelace(ring):
    x, y = ring[:, 0], ring[:, 1]
    return 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def ring(x, y, level):
    return np.column_stack([x, y, np.full(len(x), float(level))])


def circle(cx, cy, radius, level, n=90):
    angle = 2 * np.pi * np.arange(n) / n
    return ring(cx + radius * np.cos(angle), cy + radius * np.sin(angle), level)


def square(level):
    return ring(np.array([5.5, 9.5, 9.5, 5.5]), np.array([5.5, 5.5, 9.5, 9.5]), level)


def drawn(*rings):
    return Contours("s", np.concatenate(rings), np.array([len(r) for r in rings]))


def plane(*rings, grid=XY):
    """Covered area of the plane z = 4, mm2."""
    return coverage(drawn(*rings), Z, grid, grid)[2].astype(float) * (grid[1] - grid[0]) ** 2


def inside_even_odd(rings, x, y):
    """Ray casting, the independent definition of even-odd."""
    inside = np.zeros(x.shape, bool)
    for r in rings:
        for (xa, ya, _), (xb, yb, _) in zip(r, np.roll(r, -1, axis=0), strict=True):
            if ya != yb:
                inside ^= ((ya > y) != (yb > y)) & (x < xa + (y - ya) / (yb - ya) * (xb - xa))
    return inside


def test_square_across_pixels_has_the_shares_of_the_overlap():
    got = plane(ring(np.array([9.75, 12.0, 12.0, 9.75]), np.array([10.0, 10.0, 11.25, 11.25]), 4.0))
    # pixel i covers [i - 0.5, i + 0.5]
    along_x = {10: 0.75, 11: 1.0, 12: 0.5}
    along_y = {10: 0.5, 11: 0.75}
    for (j, b), (i, a) in ((b, a) for b in along_y.items() for a in along_x.items()):
        assert got[j, i] == pytest.approx(a * b, abs=1e-6)
    assert got.sum() == pytest.approx(2.25 * 1.25, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(2, 37), st.floats(2, 37)), min_size=3, max_size=9))
def test_star_shaped_polygon_keeps_its_area(vertices):
    points = np.array(vertices)
    centre = points.mean(0)
    order = np.argsort(np.arctan2(*(points - centre).T[::-1]), kind="stable")  # simple polygon about its centre
    one = ring(*points[order].T, 4.0)
    relative = np.diff(np.unwrap(np.arctan2(*(points[order] - centre).T[::-1])))
    if len(relative) and relative.max(initial=0) >= np.pi - 1e-6:
        return  # the centre lies outside: the sorted ring may cross itself
    assert plane(one).sum() == pytest.approx(shoelace(one), rel=1e-6, abs=1e-3)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_crossing_polygons_follow_even_odd(seed):
    rng = np.random.default_rng(seed)
    rings = [ring(*rng.uniform(3, 20, (2, 6)), 4.0), ring(*rng.uniform(5, 22, (2, 5)), 4.0)]
    fine = (np.arange(40 * 24) + 0.5) / 24 - 0.5
    x, y = np.meshgrid(fine, fine)
    expected = inside_even_odd(rings, x, y).reshape(40, 24, 40, 24).mean((1, 3))
    got = plane(*rings)
    assert np.abs(got - expected).max() < 0.06  # 24 x 24 samples per pixel
    assert got.sum() == pytest.approx(expected.sum(), abs=0.5)


def test_nested_contour_is_a_hole_and_an_island_in_it_counts_again():
    rings = [circle(20, 20, r, 4.0) for r in (15, 10, 4)]
    expected = shoelace(rings[0]) - shoelace(rings[1]) + shoelace(rings[2])
    assert plane(*rings).sum() == pytest.approx(expected, rel=1e-6)


def test_keyhole_equals_nested_contours():
    outer, inner = circle(20, 20, 15, 4.0), circle(20, 20, 8, 4.0)
    keyhole = np.concatenate([outer, outer[:1], inner[:1], inner[:0:-1], inner[:1]])
    np.testing.assert_allclose(plane(keyhole), plane(outer, inner), atol=1e-5)


def test_two_separate_contours_add_and_winding_does_not_matter():
    a, b = circle(10, 10, 5, 4.0), circle(28, 28, 7, 4.0)
    np.testing.assert_allclose(plane(a, b[::-1]), plane(a) + plane(b), atol=1e-6)


def test_part_outside_the_grid_is_cut_off():
    r = circle(0.0, 20.0, 10.0, 4.0, n=2000)  # grid begins at -0.5
    beyond = 100 * np.arccos(0.05) - 0.5 * np.sqrt(100 - 0.25)  # circular segment left of x = -0.5
    assert plane(r).sum() == pytest.approx(np.pi * 100 - beyond, rel=1e-4)


def test_finer_grid_averages_to_the_coarser_one():
    r = circle(19.3, 20.1, 13.37, 4.0)
    fine_grid = (np.arange(80) + 0.5) / 2 - 0.5
    fine = plane(r, grid=fine_grid).reshape(40, 2, 40, 2).sum((1, 3))
    np.testing.assert_allclose(plane(r), fine, atol=1e-6)


def test_planes_reach_half_way_and_end_in_half_slice_caps():
    levels = [square(z) for z in (2.0, 4.0, 6.0)]
    capped = coverage(drawn(*levels), Z, XY, XY)[:, 7, 7]
    np.testing.assert_allclose(capped, [0, 1, 1, 1, 0])
    uncapped = coverage(drawn(*levels), Z, XY, XY, end_caps=False)[:, 7, 7]
    np.testing.assert_allclose(uncapped, [0, 0.5, 1, 0.5, 0])


def test_contours_between_and_off_the_slices_are_shared_out():
    between = coverage(drawn(square(3.0)), Z, XY, XY)[:, 7, 7]  # one plane, slice distance 2: from 2 to 4
    np.testing.assert_allclose(between, [0, 0.5, 0.5, 0, 0])
    every_second = coverage(drawn(square(0.0), square(4.0), square(8.0)), Z, XY, XY)[:, 7, 7]
    np.testing.assert_allclose(every_second, 1.0)  # 4 mm apart throughout: no gaps


def test_a_real_gap_between_two_parts_stays_empty():
    z = np.arange(20) * 2.0
    rings = [square(level) for level in (4.0, 6.0, 8.0, 24.0, 26.0, 28.0)]
    got = coverage(drawn(*rings), z, XY, XY)[:, 7, 7]
    np.testing.assert_allclose(np.nonzero(got)[0], [2, 3, 4, 12, 13, 14])


def test_sagittal_contours_fill_the_same_box():
    z = np.arange(40) * 1.0
    axial = [ring(np.array([10.5, 20.5, 20.5, 10.5]), np.array([5.5, 5.5, 9.5, 9.5]), k) for k in range(12, 18)]
    sagittal = [np.column_stack([np.full(4, float(x)), [5.5, 9.5, 9.5, 5.5], [11.5, 11.5, 17.5, 17.5]]) for x in range(11, 21)]
    np.testing.assert_allclose(coverage(drawn(*sagittal), z, XY, XY), coverage(drawn(*axial), z, XY, XY), atol=1e-6)


def test_oblique_contour_is_refused():
    with pytest.raises(IonrtError, match="oblique"):
        drawn(np.array([[0, 0, 0], [10, 0, 3], [10, 10, 5], [0, 10, 2.0]])).axis()


def patient(*found):
    empty = xr.Dataset(coords={"z": Z, "y": XY, "x": XY})
    return add_structures(empty, list(found), ["ORGAN"] * len(found))


def test_fractions_are_lazy_with_one_block_per_structure():
    def refuse(*args, **kwargs):
        raise AssertionError("computed")

    with dask.config.set(scheduler=refuse):
        p = patient(drawn(circle(20, 20, 8, 4.0)), Contours("empty", np.empty((0, 3)), np.empty(0, np.int64)))
        one = find_structure(p, "s")
        volumes(p)
    assert p.structures.data.chunks == ((1, 1), (5,), (40,), (40,))
    assert one.attrs["units"] == "1"
    assert volumes(p).values == pytest.approx([shoelace(circle(20, 20, 8, 4.0)) * 2 / 1000, 0.0], rel=1e-6)
    assert volumes(p).attrs["units"] == "cm3"


def test_contours_come_back_as_drawn():
    rings = [circle(20, 20, 8, 2.0), circle(20, 20, 9, 4.0)]
    for got, given_ in zip(contours(patient(drawn(*rings)), "s"), rings, strict=True):
        np.testing.assert_array_equal(got, given_)


def test_unknown_structure_lists_the_nearest_first():
    found = [Contours(n, np.empty((0, 3)), np.empty(0, np.int64)) for n in ("Bladder", "GTV", "CTV", "Rectum")]
    with pytest.raises(IonrtError, match=r"'ctv1' does not exist; there are 'CTV', 'GTV'"):
        find_structure(patient(*found), "ctv1")
    with pytest.raises(IonrtError, match="no structure set"):
        contours(xr.Dataset(coords={"z": Z}), "CTV")
    with pytest.raises(IonrtError, match="no structure set"):
        find_structure(xr.Dataset(coords={"z": Z}), "CTV")
    with pytest.raises(IonrtError, match="volumes: the patient has no structures"):
        volumes(xr.Dataset(coords={"z": Z}))


def test_ring_studies(shared):
    """XOR and keyhole rings have the area of the annulus, an empty ROI is empty, the sphere is the prism sum."""
    folder = shared("data/dicom/synthetic_carbon_study")
    series = "2.25.1022455279732611676347690849797028874"
    p = read_dicom(folder, series=series)
    v = {str(n): float(x) for n, x in zip(p.structure.values, volumes(p).values, strict=True)}
    assert 28.20 <= v["RING_XOR"] <= 28.27
    assert v["RING_KEYHOLE"] == pytest.approx(v["RING_XOR"], abs=0.005)
    assert v["EMPTY"] == 0.0
    assert v["GTV"] == pytest.approx(44.53, abs=0.01)  # 3 mm contours; the sphere itself has 44.602
