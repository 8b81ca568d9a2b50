"""What every variable is: name, unit, whether it adds up; `check` at the door, `stamp` on the way out.

This module is the only writer of ``units``. Arithmetic on labelled arrays keeps attributes, so ``dose**2`` would still
say "Gy": every public function therefore passes its input through `check` and its result through `stamp`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from ionrt import __version__
from ionrt.lazy import IonrtError as IonrtError
from ionrt.lazy import one_of as one_of

Labelled = TypeVar("Labelled", xr.DataArray, xr.Dataset)


@dataclass(frozen=True)
class Quantity:
    """One row of the vocabulary.

    `additive` quantities may be summed over ion, beam, fraction and spot; `carries` names the attributes without
    which a value of this quantity has no meaning (an LET without its definition, a moment without its parameter set).
    """

    unit: str
    long_name: str
    additive: bool = False
    carries: tuple[str, ...] = ()


LET = ("let_definition",)
OWN_DOSE = ("primary",)  # weighted with the `counted_dose` of their particles; the others with the whole dose
WHOLE_DOSE = "primaries' LET weighted with the dose of all particles"
CELL = ("parameter_set",)
GY_RBE = "Gy (RBE)"
LET_LABELS = {
    "primary": "primary ions only",
    "charged": "all charged particles without target fragments",
    "charged_with_target": "all charged particles with target fragments",
}
LET_DEFINITIONS = tuple(LET_LABELS)
RBE_MODELS = {  # how readers know a dose system, and what it is
    "nirs_mkm": ("NIRS-mMKM", "clinical dose relative to a carbon beam, microdosimetric kinetic model for HSG cells"),
    "lem1": ("LEM-I", "local effect model I"),
    "smk": ("SMK", "stochastic microdosimetric kinetic model"),
    "osmk": ("OSMK", "oxygen-effect stochastic microdosimetric kinetic model"),
    "osmk23": ("OSMK 2023", "oxygen-effect stochastic microdosimetric kinetic model of 2023"),
    "lem_kernel": ("LEM tables", "alpha and beta that the base data carry"),
    "constant": ("constant RBE", "1.1 unless stated"),
    **{
        name.partition(" ")[0].lower(): (name, "RBE of protons from LETd and alpha/beta")
        for name in ("McNamara 2015", "Wedenberg 2013", "Carabe 2012", "Rorvik", "Wilkens 2004", "Chen 2012")
    },
    "mairani_helium": ("Mairani 2016", "RBE of helium from LETd and alpha/beta"),
}
CODES = {
    "NIRS_MMKM": "NIRS-mMKM",
    "NIRS_KANAI": "NIRS-Kanai",
    "LEM_IV": "LEM-IV",
    "LEM_I": "LEM-I",
    "FIXED_1.1": "constant RBE 1.1",
    "head_neck": "head and neck",
    "RTOG_EORTC": "RTOG/EORTC",
    "cm3": "cm³",
    "keV/um": "keV/µm",
} | {f"CTCAE{version}": f"CTCAE {version}" for version in (3, 4, 5, 6)}
_SYSTEM, _CODE = (re.compile(rf"(?<![A-Za-z_])({'|'.join(map(re.escape, names))})\b") for names in (RBE_MODELS, CODES))

_FIELD = {  # the additive field
    "dose": Quantity("Gy", "physical dose", additive=True),
    "let_x_dose": Quantity("Gy keV/um", "LET times dose", additive=True, carries=LET),
    "dose_per_let": Quantity("Gy um/keV", "dose over LET, proportional to fluence", additive=True, carries=LET),
    "counted_dose": Quantity("Gy", "dose of the particles that the LET counts", additive=True, carries=LET),
    "high_let_dose": Quantity("Gy", "dose deposited above an LET threshold", additive=True, carries=LET),
    "zstar_x_dose": Quantity("Gy2", "saturation-corrected specific energy times dose", additive=True, carries=CELL),
    "zd_x_dose": Quantity("Gy2", "domain specific energy times dose", additive=True, carries=CELL),
    "zn_x_dose": Quantity("Gy2", "nucleus specific energy times dose", additive=True, carries=CELL),
    "alpha_x_dose": Quantity("1", "alpha times dose", additive=True, carries=CELL),
    "sqrt_beta_x_dose": Quantity("1", "square root of beta times dose", additive=True, carries=CELL),
}
QUANTITIES: dict[str, Quantity] = {
    # patient
    "ct": Quantity("HU", "CT number"),
    "spr": Quantity("1", "stopping-power ratio to water"),
    "structures": Quantity("1", "fraction of the voxel inside the structure"),
    "wepl": Quantity("mm", "water-equivalent path length"),
    # another day
    "displacement": Quantity("mm", "way of a planning point to its place on another day"),
    "jacobian": Quantity("1", "change of volume on the way to another day"),
    "wepl_change": Quantity("mm", "change of the water-equivalent depth of the target's far edge"),
    # directions of a beam
    "wepl_distal": Quantity("mm", "water-equivalent depth of the target's far edge"),
    "wepl_proximal": Quantity("mm", "water-equivalent depth of the target's near edge"),
    "ion_reach": Quantity("mm", "water-equivalent depth of the deepest Bragg peak"),
    "reach_margin": Quantity("mm", "reach beyond the target's far edge"),
    "cut_rays": Quantity("1", "share of the target's rays that enter through an end of the CT"),
    "wepl_gradient": Quantity("1", "change of water-equivalent depth with sideways shift"),
    "wepl_turn": Quantity("mm/degree", "change of water-equivalent depth with direction"),
    "range_error": Quantity("mm", "expected error of the range at the target's far edge"),
    "organ_channel": Quantity("1", "share of the organ that the beam crosses before or beside the target's far edge"),
    "organ_behind": Quantity("1", "share of the organ close behind the target's far edge"),
    "direction_score": Quantity("1", "surrogate for the quality of a direction; lower is better"),
    # beam
    "stopping_power": Quantity("MeV cm2/g", "electronic mass stopping power in water"),
    "csda_range": Quantity("mm", "CSDA range in water"),
    "kinetic_energy": Quantity("MeV/u", "kinetic energy per nucleon"),
    "depth_dose": Quantity("MeV/mm", "energy deposited per depth and primary ion", additive=True),
    "fluence": Quantity("1", "ions per primary ion crossing the plane", additive=True),
    "dose_spectrum": Quantity("1", "share of the dose in the (charge, kinetic energy) bin"),
    "cross_section": Quantity("mb", "cross section"),
    "sigma": Quantity("mm", "lateral standard deviation"),
    "halo_sigma": Quantity("mm", "lateral standard deviation of the halo"),
    "halo_weight": Quantity("1", "share of the depth dose in the halo"),
    "planar_fluence": Quantity("1/mm2", "primary ions per area and fraction"),
    "spot_weight": Quantity("1", "particles per spot and fraction"),
    "ion_share": Quantity("1", "share of the ion"),
    **_FIELD,
    # functions of the field
    "let_d": Quantity("keV/um", "dose-averaged LET", carries=LET),
    "let_t": Quantity("keV/um", "track-averaged LET", carries=LET),
    "let_weighted_dose": Quantity("Gy", "LET-weighted dose", carries=LET),
    "rbe_dose": Quantity(GY_RBE, "RBE-weighted dose", carries=("rbe_model",)),
    "rbe": Quantity("1", "relative biological effectiveness", carries=("rbe_model",)),
    "voxels_outside": Quantity("1", "number of voxels outside the range a model was made for", carries=("rbe_model",)),
    "effect": Quantity("1", "-ln(survival)"),
    "survival": Quantity("1", "surviving fraction"),
    "bed": Quantity("Gy", "biologically effective dose"),
    "eqd": Quantity("Gy", "equieffective dose"),
    "oer": Quantity("1", "oxygen enhancement ratio"),
    # cell models
    "zstar": Quantity("Gy", "dose-mean saturation-corrected specific energy"),
    "zd": Quantity("Gy", "dose-mean specific energy of the domain"),
    "zn": Quantity("Gy", "dose-mean specific energy of the nucleus"),
    "alpha": Quantity("1/Gy", "linear coefficient of the linear-quadratic model"),
    "beta": Quantity("1/Gy2", "quadratic coefficient of the linear-quadratic model"),
    # evaluation
    "gamma_index": Quantity("1", "gamma index"),
    "volume_fraction": Quantity("1", "fraction of the structure's volume"),
    "volume": Quantity("cm3", "volume"),
    "homogeneity_index": Quantity("1", "homogeneity index"),
    "conformity_index": Quantity("1", "conformity index"),
    "integral_dose": Quantity("Gy L", "integral dose", additive=True),
    "integral_rbe_dose": Quantity("Gy (RBE) L", "integral RBE-weighted dose", carries=("rbe_model",)),
    "dose_ratio": Quantity("1", "dose relative to the target"),
}


def number_in(value: Any, what: str, low: float, high: float) -> float:
    """A number of a person's hand, from `low` to `high`; IonrtError for anything else (a text, True, NaN)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not low <= value <= high:
        raise IonrtError(f"{what}: expected a number from {low:g} to {high:g}, got {value!r:.80}")
    return float(value)


FIELD = tuple(_FIELD)
LET_MOMENTS = FIELD[1:4]  # what a definition of LET makes


def system_in_words(text: str) -> str:
    """A text with each dose system as readers know it: ``constant (p); nirs_mkm (C)`` as constant RBE (p); NIRS-mMKM (C)."""
    return _SYSTEM.sub(lambda key: RBE_MODELS[key[0]][0], text)


def codes_in_words(text: str) -> str:
    """Any text with the data dictionary's codes and the units of plain text, as readers know them."""
    return _CODE.sub(lambda code: CODES[code[0]], text)


def check(
    da: xr.DataArray,
    name: str,
    *,
    dims: Iterable[str] | None = None,
    what: str = "",
    **carried: str | None,
) -> xr.DataArray:
    """Return `da` if it can be the quantity `name`; raise otherwise.

    A missing ``units`` is taken as the quantity's own unit, a different one is an error. `dims` are dimensions that must be
    present. Each keyword in `carried` (``let_definition="charged"``) is compared with the attribute when both exist.
    Nothing is computed: values are looked at where they are used.

    Examples
    --------
    >>> let = xr.DataArray([25.0], dims="x", attrs={"units": "MeV/cm"})
    >>> ionrt.quantities.check(let, "let_d")
    Traceback (most recent call last):
    ionrt.IonrtError: let_d: expected dose-averaged LET in keV/um, got units='MeV/cm'; convert it first
    """
    quantity, label = QUANTITIES[name], what or getattr(da, "name", None) or name
    if not isinstance(da, xr.DataArray):
        raise IonrtError(f"{label}: expected an xarray.DataArray of {quantity.long_name}, got {type(da).__name__}")
    unit = da.attrs.get("units", quantity.unit)
    if unit != quantity.unit:
        raise IonrtError(f"{label}: expected {quantity.long_name} in {quantity.unit}, got units={unit!r}; convert it first")
    missing = [d for d in dims or () if d not in da.dims]
    if missing:
        raise IonrtError(f"{label}: expected dimensions {tuple(dims or ())}, got {da.dims}; {missing[0]!r} is missing")
    for key, expected in carried.items():
        came = da.attrs.get(key)
        if expected is not None and came is not None and came != expected:
            raise IonrtError(f"{label}: expected {key}={expected!r}, got {came!r}; compute it again with {key}={expected!r}")
    return da


def defined(da: xr.DataArray, name: str, *, what: str = "") -> xr.DataArray:
    """Return `da` if it says what a value of the quantity `name` must carry; raise otherwise.

    Plain xarray arithmetic on two arrays of different definition leaves a number without one.
    """
    for key in QUANTITIES[name].carries:
        if not da.attrs.get(key):
            raise IonrtError(
                f"{what or name}: {QUANTITIES[name].long_name} without {key}. Arithmetic of two definitions drops it: combine"
                f" fields and take it from their sum; or say which one the value has: .assign_attrs({key}=...)"
            )
    return da


def stamp(da: xr.DataArray, name: str, **attrs: Any) -> xr.DataArray:
    """Name the result and give it its unit and provenance; every public function ends here.

    Attributes of the inputs do not survive: what should be kept is passed in `attrs`. Raises where an attribute
    that the quantity must carry is missing.

    Examples
    --------
    >>> dose = ionrt.quantities.stamp(xr.DataArray([2.0], dims="x"), "dose", ion="C")
    >>> dose.name, dose.attrs["units"], dose.attrs["ion"]
    ('dose', 'Gy', 'C')
    """
    quantity = QUANTITIES[name]
    out = da.copy(deep=False).rename(name)  # a renamed array shares its attributes with the one it came from
    out.attrs = {
        "units": quantity.unit,
        "long_name": quantity.long_name,
        **{k: v for k, v in attrs.items() if v is not None},
        "ionrt_version": __version__,
    }
    return defined(out, name)


def shared_attr(arrays: Iterable[xr.DataArray], key: str) -> str | None:
    """The value of `key` that all arrays share (None where nobody states it); two different values raise."""
    seen: dict[str, str] = {}
    for da in arrays:
        value = da.attrs.get(key)
        if value is not None:
            seen.setdefault(value, str(da.name))
    if len(seen) > 1:
        raise IonrtError(f"{key} differs: {seen}; quantities of different {key} cannot be combined or compared")
    return next(iter(seen), None)


def assumptions(arrays: Iterable[xr.DataArray]) -> str | None:
    """What any of the arrays was assumed to be, each sentence once; None where nothing was."""
    return "; ".join(dict.fromkeys(str(a.attrs["assumed"]) for a in arrays if a.attrs.get("assumed"))) or None


def check_same_grid(a: Labelled, b: Labelled, *, what: str = "grids") -> None:
    """Raise with the first coordinate that differs; alignment is exact, nothing is interpolated silently.

    Examples
    --------
    >>> fine, coarse = (xr.DataArray(np.zeros(n), {"x": np.arange(n) * d}, ["x"]) for n, d in ((6, 2.0), (4, 3.0)))  # mm
    >>> ionrt.quantities.check_same_grid(fine, coarse)
    Traceback (most recent call last):
    ionrt.IonrtError: grids: 6 against 4 voxels along x; resample one onto the other
    """
    for dim in ("z", "y", "x"):
        if (dim in a.dims) != (dim in b.dims):
            raise IonrtError(f"{what}: one has dimension {dim!r}, the other has not")
        if dim not in a.dims:
            continue
        if a.sizes[dim] != b.sizes[dim]:
            raise IonrtError(f"{what}: {a.sizes[dim]} against {b.sizes[dim]} voxels along {dim}; resample one onto the other")
        if dim in a.coords and dim in b.coords:
            apart = np.abs(a[dim].values - b[dim].values)
            if apart.max(initial=0.0) > 1e-6:
                i = int(apart.argmax())
                raise IonrtError(
                    f"{what}: {dim}[{i}] is {float(a[dim][i]):g} mm in one and {float(b[dim][i]):g} mm in the other;"
                    " resample one onto the other"
                )
