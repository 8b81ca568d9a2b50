"""The one place that turns IEC 61217 gantry and table angles and the patient's position into DICOM patient coordinates (LPS).

Beam's eye view (BEV): origin in the isocentre, w towards the source, u to the gantry's right-hand side (left of a supine
patient at gantry 0), v = w x u (to the gantry; superior head first at couch 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numba import njit
from scipy.ndimage import distance_transform_edt

from ionrt.quantities import IonrtError, one_of


@dataclass(frozen=True)
class Grid:
    """Voxel centres along z, y, x (mm, LPS): origin, spacing and number of voxels, each in the order z, y, x."""

    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, da: xr.DataArray | xr.Dataset, *, what: str = "grid") -> Grid:
        """Read from the coordinates, which must ascend uniformly."""
        origin, spacing, shape = [], [], []
        for dim in ("z", "y", "x"):
            if dim not in da.coords:
                raise IonrtError(f"{what}: expected coordinates z, y, x in mm, {dim!r} is missing")
            values = np.asarray(da[dim].values, dtype=np.float64)
            if values.size < 2:
                raise IonrtError(f"{what}: expected at least two voxels along {dim}, got {values.size}")
            step = (values[-1] - values[0]) / (values.size - 1)
            if step <= 0.0 or np.abs(np.diff(values) - step).max() > 1e-3 * abs(step) + 1e-6:
                raise IonrtError(f"{what}: {dim} must ascend in uniform steps; resample the patient first")
            origin.append(float(values[0]))
            spacing.append(float(step))
            shape.append(int(values.size))
        return cls(tuple(origin), tuple(spacing), tuple(shape))  # type: ignore[arg-type]

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape))

    @property
    def voxel_volume(self) -> float:
        """mm3."""
        return float(np.prod(self.spacing))

    def near(self, mask: np.ndarray, distance: float) -> np.ndarray:
        """Voxels (z, y, x) within `distance` mm of those of a mask (flat or not); distances are made around it only."""
        mask = mask.reshape(self.shape)
        out = np.zeros(self.shape, dtype=bool)
        hits = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        if hits[0].size:
            pads = [int(distance / step) + 1 for step in self.spacing]
            box = tuple(slice(max(hit[0] - pad, 0), hit[-1] + pad + 1) for hit, pad in zip(hits, pads, strict=True))
            out[box] = distance_transform_edt(~mask[box], sampling=self.spacing) <= distance + 1e-9
        return out

    def coords(self) -> dict[str, np.ndarray]:
        """Coordinates for a labelled array."""
        return {
            dim: o + s * np.arange(n)
            for dim, o, s, n in zip(("z", "y", "x"), self.origin, self.spacing, self.shape, strict=True)
        }


# Axes X, Y, Z of the table top (IEC 61217: X to the right of one who faces the gantry, Y to it, Z up) as patient axes (LPS);
# the last letter of a decubitus says which side lies on the table.
LEFT, POSTERIOR, SUPERIOR = np.eye(3)
POSITIONS = {
    "HFS": (LEFT, SUPERIOR, -POSTERIOR),
    "HFP": (-LEFT, SUPERIOR, POSTERIOR),
    "HFDR": (POSTERIOR, SUPERIOR, LEFT),
    "HFDL": (-POSTERIOR, SUPERIOR, -LEFT),
    "FFS": (-LEFT, -SUPERIOR, -POSTERIOR),
    "FFP": (LEFT, -SUPERIOR, POSTERIOR),
    "FFDR": (-POSTERIOR, -SUPERIOR, LEFT),
    "FFDL": (POSTERIOR, -SUPERIOR, -LEFT),
}


def bev_axes(gantry: float, couch: float, position: str = "HFS", pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Rows u, v, w of the beam's eye view in LPS (x, y, z); angles in degrees.

    r_patient = P' R_Y(roll)' R_X(pitch)' R_Z(couch)' R_Y(gantry) r_gantry. Of a patient head first and supine, gantry 0 comes
    from anterior and 90 from the left. A couch turned by theta turns the patient, seen from above, counter-clockwise: in the
    patient's system the beam turns the other way about the vertical. The table top pitches about its X and then rolls about its
    own Y axis (positive: clockwise, seen along the axis); in the other order two tilts of 3 degrees differ by 0.16 degrees.

    References
    ----------
    IEC 61217; DICOM PS3.3 C.8.8.25.6.
    """
    about_x, about_y, about_z = np.deg2rad(pitch), np.deg2rad(roll), np.deg2rad(couch)
    g = np.deg2rad(gantry)
    # rows in IEC fixed coordinates
    fixed = np.array([[np.cos(g), 0.0, -np.sin(g)], [0.0, 1.0, 0.0], [np.sin(g), 0.0, np.cos(g)]])
    turned = np.array([[np.cos(about_z), np.sin(about_z), 0.0], [-np.sin(about_z), np.cos(about_z), 0.0], [0.0, 0.0, 1.0]])
    pitched = np.array([[1.0, 0.0, 0.0], [0.0, np.cos(about_x), np.sin(about_x)], [0.0, -np.sin(about_x), np.cos(about_x)]])
    rolled = np.array([[np.cos(about_y), 0.0, -np.sin(about_y)], [0.0, 1.0, 0.0], [np.sin(about_y), 0.0, np.cos(about_y)]])
    return (
        fixed @ (rolled @ pitched @ turned).T @ np.stack(POSITIONS[one_of(position, tuple(POSITIONS), what="patient position")])
    )


@njit(nogil=True, cache=True)
def project(index, origin, spacing, shape, axes, isocentre, source, out):
    """BEV position (u, v in the isocentre plane, w) of the voxels with flat indices `index`, along their own ray."""
    for i in range(index.size):
        flat = index[i]
        x = origin[2] + spacing[2] * (flat % shape[2]) - isocentre[0]
        y = origin[1] + spacing[1] * ((flat // shape[2]) % shape[1]) - isocentre[1]
        z = origin[0] + spacing[0] * (flat // (shape[2] * shape[1])) - isocentre[2]
        w = axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z
        for k in range(2):
            p = axes[k, 0] * x + axes[k, 1] * y + axes[k, 2] * z
            out[i, k] = p * source[k] / (source[k] - w)
        out[i, 2] = w


def to_bev(index: np.ndarray, grid: Grid, axes: np.ndarray, isocentre: np.ndarray, source: np.ndarray) -> np.ndarray:
    """`project` for numpy callers: float64 (n, 3)."""
    out = np.empty((index.size, 3))
    project(index, np.array(grid.origin), np.array(grid.spacing), np.array(grid.shape), axes, isocentre, source, out)
    return out
