"""One number per plan: homogeneity, conformity, integral dose."""

from __future__ import annotations

import xarray as xr

from ionrt.evaluate.histograms import dose_at_volume, mean_value
from ionrt.evaluate.sampling import GRID, kept_attrs, labelled_structures, quantity_of, voxel_volume
from ionrt.patient.reading.frames import check_frame
from ionrt.quantities import IonrtError, check_same_grid, one_of, stamp


def homogeneity(da: xr.DataArray, target: xr.DataArray) -> xr.DataArray:
    r"""Homogeneity index :math:`(D_{2\%} - D_{98\%}) / D_{50\%}`; 0 is a uniform dose.

    ICRU Report 83, eq. 3.8, doi 10.1093/jicru/ndq002.
    """
    d = dose_at_volume(da, target, percent=(2.0, 50.0, 98.0))
    hot, middle, cold = (d.sel(percent=p, drop=True) for p in (2.0, 50.0, 98.0))
    return stamp((hot - cold) / middle.where(middle > 0), "homogeneity_index", **kept_attrs(d))


def conformity(da: xr.DataArray, target: xr.DataArray, *, prescription: float, percent: float = 95.0) -> xr.DataArray:
    r"""Paddick's conformity index :math:`TV_{PI}^2 / (TV \cdot PI)`; 1 is perfect, 0 a miss.

    TV is the volume of the target, PI the volume with at least `percent` of the prescription, TV_PI their intersection.
    Paddick, J. Neurosurg. 93 Suppl 3 (2000) 219, doi 10.3171/jns.2000.93.supplement_3.0219.
    """
    if not prescription > 0:
        raise IonrtError(f"prescription: expected a positive value, got {prescription}")
    da, _ = quantity_of(da)
    if isinstance(target, xr.Dataset):
        raise IonrtError(
            "conformity: expected volume fractions on the dose's grid, e.g. regrid(patient, ...)['structures'], got a Dataset"
        )
    target = labelled_structures(target)
    check_same_grid(da, target, what="dose and target")
    check_frame(target, da, what="the dose", quiet=True)
    volume = xr.DataArray(voxel_volume(da), dims=GRID)
    covered = da >= prescription * percent / 100.0
    both = (target * covered * volume).sum(GRID, dtype=float)
    whole = (target * volume).sum(GRID, dtype=float) * (covered * volume).sum(GRID, dtype=float)
    return stamp(both**2 / whole.where(whole > 0), "conformity_index", **kept_attrs(da), isodose_percent=percent)


def integral_dose(da: xr.DataArray, structures: xr.DataArray) -> xr.DataArray:
    r"""Integral dose :math:`\sum_i w_i D_i V_i`, mean times volume, per structure; density is taken as that of water.

    Parameters
    ----------
    da : ``dose`` [Gy] or ``rbe_dose`` [Gy (RBE)] on (..., z, y, x).
    structures : volume fractions, e.g. the body outline, or what of it lies outside the target.

    Returns
    -------
    DataArray ``integral_dose`` [Gy L] or ``integral_rbe_dose`` [Gy (RBE) L] (..., structure), of the part inside the grid of
    `da`; an empty structure is NaN. The two rank ions differently: a heavier ion needs less physical dose.

    Raises
    ------
    IonrtError
        A quantity that is no dose, NaN, grids that differ.

    Examples
    --------
    >>> centre = [0.0, 100.0]  # mm: eight voxels of 1 L, SYNTHETIC
    >>> dose = xr.DataArray(np.full((2, 2, 2), 5.0), {"z": centre, "y": centre, "x": centre}, ["z", "y", "x"], "dose")  # Gy
    >>> ionrt.evaluate.integral_dose(dose, xr.ones_like(dose)).round(3).values.tolist()  # 5 Gy in 8 L [Gy L]
    [40.0]
    """
    da, name = quantity_of(da)
    named = {"dose": "integral_dose", "rbe_dose": "integral_rbe_dose"}
    one_of(name, list(named), what="integral_dose: quantity")
    mean = mean_value(da, structures)
    litres = 1e-3 * mean["volume"] * (1.0 - mean["outside"])
    return stamp(mean * litres, named[name], **kept_attrs(da))
