"""Registrations: where a planning point lies on another CT, as a Dataset, and as DICOM (Deformable) Spatial Registration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import xarray as xr
from pydicom.dataset import Dataset

from ionrt.patient.ct import CT_IMAGE
from ionrt.patient.geometry.coverage import spacing
from ionrt.patient.geometry.grid import DIMS, layout
from ionrt.patient.reading.dicom_files import Header, read_fields
from ionrt.patient.reading.door import Fields
from ionrt.patient.writing.objects import coded, decimal, item, new_object, save, series_of, uid
from ionrt.quantities import IonrtError, stamp

SPATIAL = "1.2.840.10008.5.1.4.1.1.66.1"
DEFORMABLE = "1.2.840.10008.5.1.4.1.1.66.3"
AXES = ("x", "y", "z")
LARGEST = 200.0  # mm; a longer displacement is another unit or voxel indices
RIGID = 1e-4  # how far the columns of a rotation may be from orthonormal
ONE_MATRIX = (
    "the order in which several matrices act is read in two ways (first to last, and last to first); write their product as one"
)


def matrix_transform(matrix: np.ndarray, **attrs: object) -> xr.Dataset:
    """A rigid or affine transform, :math:`x = A X + t`, from planning points to another CT: ``matrix`` (row, column) [mm, LPS].

    `attrs` are what is known about it, such as ``method``; ``maps`` is "planning to daily" unless said otherwise.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.shape != (4, 4) or not np.isfinite(values).all() or np.abs(values[3] - (0, 0, 0, 1)).max() > 1e-9:
        raise IonrtError(f"transform: expected a finite 4 x 4 matrix with the last row 0 0 0 1, got {values.tolist()}")
    if not np.linalg.det(values) > 1e-6:
        raise IonrtError("transform: the matrix mirrors or flattens space (determinant not above 0); it is no registration")
    return xr.Dataset({"matrix": (("row", "column"), values)}, attrs={"maps": "planning to daily", **attrs})


def field_transform(displacement: np.ndarray, coords: Mapping[str, np.ndarray], **attrs: object) -> xr.Dataset:
    """A deformation, :math:`x = X + u(X)`, from planning points to another CT: ``displacement`` (axis, z, y, x) [mm, LPS].

    Components x, y, z on voxel centres `coords`, NaN where not defined; `attrs` are what is known about it, ``resolution`` (z,
    y, x) [mm] where an axis has one voxel only. More than 200 mm are refused: voxel indices, or another unit.
    """
    u = np.asarray(displacement)
    if u.shape != (3, *(len(coords[d]) for d in DIMS)):
        raise IonrtError(f"transform: expected a displacement (3, z, y, x) on its coordinates, got shape {u.shape}")
    size = float(np.nanmax(np.abs(u), initial=0.0))
    if not size <= LARGEST:
        raise IonrtError(f"transform: displacements of up to {size:g} mm; expected at most {LARGEST:g} (voxels taken for mm?)")
    steps = attrs.pop("resolution", None) or tuple(spacing(np.asarray(coords[d])) for d in DIMS)
    da = xr.DataArray(u, dims=("axis", *DIMS), coords={"axis": list(AXES), **{d: coords[d] for d in DIMS}})
    named = stamp(da, "displacement", resolution=tuple(float(s) for s in steps))  # type: ignore[attr-defined]
    return xr.Dataset({"displacement": named}, attrs={"maps": "planning to daily", **attrs})


def check_transform(transform: xr.Dataset) -> str:
    """ "matrix" or "displacement", whichever the transform has; raises where it is neither or both."""
    kinds = [k for k in ("matrix", "displacement") if isinstance(transform, xr.Dataset) and k in transform]
    if len(kinds) != 1:
        raise IonrtError("transform: expected a Dataset with either matrix (4, 4) or displacement (axis, z, y, x) in mm")
    return kinds[0]


def write_registration(transform: xr.Dataset, path: str | Path, *, fixed: xr.Dataset, moving: xr.Dataset) -> Path:
    r"""Write a transform as Spatial Registration (matrix) or Deformable Spatial Registration (displacement).

    A Spatial Registration holds the way of the *moving* image's points to the fixed one's frame, the inverse of ours; a
    Deformable one the way from the fixed frame to the moving one, as ours.

    Parameters
    ----------
    transform : from points of `fixed` (planning CT) to points of `moving` (daily CT) [mm, LPS].
    path : file to write, replaced only by a complete one.
    fixed, moving : Datasets of `read_dicom`.

    Returns
    -------
    The path.

    Raises
    ------
    IonrtError for no transform, a CT whose files are not to be found.

    References
    ----------
    DICOM PS3.3 C.20.2, C.20.3; PS3.17 annex P.
    """
    kind, images = check_transform(transform), [series_of(p, what="write_registration") for p in (fixed, moving)]
    template = images[0][0]
    frames = [str(one.FrameOfReferenceUID) for one, _ in images]
    series = [str(one.SeriesInstanceUID) for one, _ in images]
    data = new_object(
        template,
        SPATIAL if kind == "matrix" else DEFORMABLE,
        "REG",
        uid(*series, kind, transform[kind].values.tobytes()),
        series=uid(*series, "registration"),
        number=4,
        description=f"{template.get('SeriesDescription', '')} registration",
        frame=frames[0],
    )
    data.ContentLabel, data.ContentDescription, data.ContentCreatorName = "REGISTRATION", "planning -> daily, mm", ""
    data.Laterality = ""
    uids = [sorted(h.code("SOPInstanceUID") for h in files) for _, files in images]
    referenced = [[item(ReferencedSOPClassUID=CT_IMAGE, ReferencedSOPInstanceUID=i) for i in some] for some in uids]
    data.ReferencedSeriesSequence = [
        item(SeriesInstanceUID=s, ReferencedInstanceSequence=r) for s, r in zip(series, referenced, strict=True)
    ]
    if kind == "matrix":
        ways = (np.eye(4), np.linalg.inv(transform["matrix"].values))
        data.RegistrationSequence = [
            _matrix_item(m, f, r) for m, f, r in zip(ways, frames, referenced, strict=True)
        ]  # of the fixed image itself: identity
    else:
        data.DeformableRegistrationSequence = [_grid_item(transform["displacement"], frames[1], referenced[1])]
    return save(data, Path(path))


def read_registration(path: str | Path, *, fixed: xr.Dataset, moving: xr.Dataset) -> xr.Dataset:
    r"""Read a (Deformable) Spatial Registration as the transform from `fixed` (planning CT) to `moving` (daily CT).

    Which way the file's numbers go is settled by the two frames of reference or, where both CTs have one frame, by the series
    that the file refers to; never guessed. A matrix is turned round where needed, a grid is not. Matrices before and after a
    grid are put into the displacement: :math:`u = M_{post} (M_{pre} X + D) - X`.

    Parameters
    ----------
    path : the file.
    fixed, moving : Datasets of `read_dicom`.

    Returns
    -------
    Dataset with ``matrix`` or ``displacement`` [mm, LPS].

    Raises
    ------
    IonrtError for other objects, frames or series that are not those of the two CTs, several matrices, a matrix that is not
    what its type says, a grid of the other direction or of the wrong length.
    """
    data = read_fields(Path(path))
    if (kind := data.code("SOPClassUID")) not in (SPATIAL, DEFORMABLE):
        raise IonrtError(
            f"{data.where}: expected a (Deformable) Spatial Registration, got {data.code('Modality', 'no modality')}"
        )
    place = _placer(data, fixed, moving)
    about = {"method": f"read from {data.where}", "sop_instance_uid": data.code("SOPInstanceUID"), **image_attrs(fixed, moving)}
    if kind == SPATIAL:
        ways: dict[str, np.ndarray] = {}
        for item in data.items("RegistrationSequence"):
            if side := place(item, item.code("FrameOfReferenceUID")):
                if side in ways:
                    raise IonrtError(f"{data.where}: relates points of the {side} CT twice; expected one item for each image")
                ways[side] = _matrix(
                    [m for r in item.items("MatrixRegistrationSequence") for m in r.items("MatrixSequence")], item
                )
        here = data.code("FrameOfReferenceUID")
        for side, image in (("fixed", fixed), ("moving", moving)):
            if side not in ways and here == image.attrs.get("frame_of_reference_uid") and _two_frames(fixed, moving):
                ways[side] = np.eye(4)
        if missing := {"fixed", "moving"} - set(ways):
            raise IonrtError(
                f"{data.where}: relates no points of the {' and the '.join(sorted(missing))} CT; {_known(fixed, moving)}"
            )
        return matrix_transform(np.linalg.inv(ways["moving"]) @ ways["fixed"], **about)
    grids = [i for i in data.items("DeformableRegistrationSequence") if i.items("DeformableRegistrationGridSequence")]
    if len(grids) != 1:
        raise IonrtError(f"{data.where}: expected one deformation grid, found {len(grids)}; write one file per pair of images")
    side = place(grids[0], grids[0].code("SourceFrameOfReferenceUID"))
    if side != "moving":
        whose = "maps daily to planning points" if side == "fixed" else "belongs to other images"
        raise IonrtError(
            f"{data.where}: the grid {whose}; {_known(fixed, moving)}. Read it with fixed and moving exchanged and take"
            " ionrt.adapt.transform.invert, which says how well the inverse fits"
        )
    return _grid_of(grids[0], about)


def image_attrs(fixed: xr.Dataset, moving: xr.Dataset) -> dict[str, str]:
    """Whose images a transform relates: hash, frame and series of both, as attributes of the transform."""
    keys = {"hash": "content_hash", "frame": "frame_of_reference_uid", "series": "series_instance_uid"}
    sides = (("fixed", fixed), ("moving", moving))
    return {f"{s}_{k}": str(i.attrs[long]) for s, i in sides for k, long in keys.items() if i.attrs.get(long)}


def _matrix_item(matrix: np.ndarray, frame: str, images: list[Dataset]) -> Dataset:
    """One item of the Registration Sequence."""
    turned = matrix[:3, :3].T @ matrix[:3, :3]
    kind = "RIGID" if np.abs(turned - np.eye(3)).max() < RIGID else "AFFINE"
    inner = item(
        FrameOfReferenceTransformationMatrix=[decimal(v) for v in matrix.ravel()], FrameOfReferenceTransformationMatrixType=kind
    )
    one = item(MatrixSequence=[inner], RegistrationTypeCodeSequence=[coded("125024", "Image Content-based Alignment")])
    return item(FrameOfReferenceUID=frame, MatrixRegistrationSequence=[one], ReferencedImageSequence=images)


def _grid_item(u: xr.DataArray, frame: str, images: list[Dataset]) -> Dataset:
    """The item of the Deformable Registration Sequence: one total field, x fastest, components together."""
    values = u.transpose(*DIMS, "axis").sel(axis=list(AXES)).values.astype("<f4")
    grid = item(
        ImageOrientationPatient=["1", "0", "0", "0", "1", "0"],
        ImagePositionPatient=[decimal(u[d].values[0]) for d in AXES],
        GridDimensions=[u.sizes[d] for d in AXES],
        GridResolution=[float(s) for s in u.attrs["resolution"][::-1]],
    )
    grid.add_new("VectorGridData", "OF", values.tobytes())
    return item(
        SourceFrameOfReferenceUID=frame,
        ReferencedImageSequence=images,
        RegistrationTypeCodeSequence=[coded("125024", "Image Content-based Alignment")],
        DeformableRegistrationGridSequence=[grid],
    )


def _two_frames(fixed: xr.Dataset, moving: xr.Dataset) -> bool:
    return fixed.attrs.get("frame_of_reference_uid") != moving.attrs.get("frame_of_reference_uid")


def _known(fixed: xr.Dataset, moving: xr.Dataset) -> str:
    named = [f"{s} has frame {i.attrs.get('frame_of_reference_uid')}" for s, i in (("fixed", fixed), ("moving", moving))]
    return "; ".join(named)


def _placer(data: Header, fixed: xr.Dataset, moving: xr.Dataset) -> Callable[[Fields, str], str]:
    """A function that says whose item an item is: "fixed", "moving" or "" (neither)."""
    sides = {"fixed": fixed.attrs, "moving": moving.attrs}
    if _two_frames(fixed, moving):
        frames = {str(a.get("frame_of_reference_uid", "")): side for side, a in sides.items()}
        return lambda item, frame: frames.get(frame, "")
    if fixed.attrs.get("series_instance_uid") == moving.attrs.get("series_instance_uid"):
        raise IonrtError(f"{data.where}: fixed and moving are the same CT series; read the two images that it relates")
    series_of = {
        i.code("ReferencedSOPInstanceUID"): s.code("SeriesInstanceUID")
        for s in data.items("ReferencedSeriesSequence")
        for i in s.items("ReferencedInstanceSequence")
    }
    whose = {str(a.get("series_instance_uid", "")): side for side, a in sides.items()}

    def by_series(item: Fields, frame: str) -> str:
        images = [i.code("ReferencedSOPInstanceUID") for i in item.items("ReferencedImageSequence")]
        found = {whose.get(series_of.get(i, ""), "") for i in images} - {""}
        if len(found) != 1:
            raise IonrtError(
                f"{data.where}: both CTs have one frame of reference and the file does not say by series which it moves;"
                " the direction is not known: export it with references to the images"
            )
        return found.pop()

    return by_series


def _matrix(found: list[Fields], of: Fields) -> np.ndarray:
    """The 16 numbers of the one matrix of an item, checked against its type."""
    if len(found) != 1:
        raise IonrtError(f"{of.where}: expected exactly one matrix, found {len(found)}; {ONE_MATRIX}")
    item = found[0]
    matrix = item.numbers("FrameOfReferenceTransformationMatrix", 16, low=-1e5, high=1e5).reshape(4, 4)
    off = float(np.abs(matrix[:3, :3].T @ matrix[:3, :3] - np.eye(3)).max())
    if item.code("FrameOfReferenceTransformationMatrixType") == "RIGID" and off > RIGID:
        raise IonrtError(
            f"{item.where}: the matrix is called RIGID, but stretches space (R'R is off by {off:.2g}); it is damaged"
        )
    return matrix_transform(matrix)["matrix"].values


def _grid_of(item: Fields, about: dict[str, str]) -> xr.Dataset:
    """The total displacement of a Deformable Registration item."""
    grid = item.items("DeformableRegistrationGridSequence")[0]
    nx, ny, nz = (int(n) for n in grid.numbers("GridDimensions", 3, low=1, high=1e4))
    steps = grid.numbers("GridResolution", 3, low=1e-3, high=1e3)
    flat = grid.numbers("VectorGridData", 3 * nx * ny * nz, low=-LARGEST, high=LARGEST, finite=False)
    cosines = grid.numbers("ImageOrientationPatient", 6, low=-1.01, high=1.01)
    start = grid.numbers("ImagePositionPatient", 3, low=-1e5, high=1e5)
    positions = start + np.arange(nz)[:, None] * steps[2] * np.cross(cosines[:3], cosines[3:])
    form = layout(positions, cosines, (steps[1], steps[0]), (ny, nx), what=grid.where)
    vectors = flat.astype(np.float32).reshape(nz, ny, nx, 3)[form.order]
    u = np.stack([form.arrange(vectors[..., k]) for k in range(3)])
    around = [item.items(f"{w}DeformationMatrixRegistrationSequence") for w in ("Pre", "Post")]
    before, after = (_matrix(found, item) if found else np.eye(4) for found in around)
    if not (np.array_equal(before, np.eye(4)) and np.array_equal(after, np.eye(4))):
        at = np.stack(np.meshgrid(*(form.coords[d] for d in DIMS), indexing="ij")[::-1]).reshape(3, -1)
        moved = before[:3, :3] @ at + before[:3, 3:] + u.reshape(3, -1)
        u = (after[:3, :3] @ moved + after[:3, 3:] - at).reshape(u.shape)
    stored = steps[::-1]  # of slice, row, column
    return field_transform(u, form.coords, resolution=tuple(stored[a] for a in form.axes), **about)
