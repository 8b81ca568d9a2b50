"""Oxygen: OER of Antonovic, and the oxygen-effect SMK of 2021 and 2023 as pure functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from ionrt.biology.tissues import Osmk21, Osmk23, Smk, get_tissue
from ionrt.files import content_hash
from ionrt.quantities import IonrtError, check, stamp


def _pressure(po2: Any) -> Any:
    """Oxygen partial pressure, mmHg >= 0."""
    if isinstance(po2, xr.DataArray):
        return po2
    value = np.asarray(po2, float)
    if not np.all(value >= 0):
        raise IonrtError(f"po2: expected an oxygen partial pressure >= 0 mmHg, got {po2!r}")
    return value if value.ndim else float(value)


def oer_antonovic(
    let: xr.DataArray | float,
    *,
    po2: Any,
    oer_low: float = 2.92,
    oer_high: float = 1.10,
    let_scale: float = 114.0,
    k: float = 2.5,
) -> xr.DataArray:
    """Oxygen enhancement ratio against LETd and oxygen pressure.

    O(L) = O_high + (O_low - O_high) exp(-(L / L0)^2); O(L, p) = O(L) (K + p) / (K + O(L) p): O(L) in anoxia, 1 at high
    pressure.

    Validity: fitted to in-vitro data, one source.

    Parameters
    ----------
    let : [keV/um] number or ``let_d`` map
    po2 : [mmHg] number or map on its grid
    oer_low, oer_high : [1] limits of low and high LET
    let_scale : L0 [keV/um]
    k : K [mmHg].

    Returns
    -------
    ``oer`` [1] of the common shape; lazy where the input is.

    Raises
    ------
    IonrtError
        Negative pressure or wrong units.

    References
    ----------
    Antonovic et al., J Radiat Res (constants read in one secondary source).

    Examples
    --------
    >>> let = [2.0, 100.0, 300.0]  # keV/um
    >>> ionrt.biology.oer_antonovic(let, po2=0.0).round(2).values.tolist()  # anoxia: high LET needs little oxygen
    [2.92, 1.94, 1.1]
    >>> ionrt.biology.oer_antonovic(let, po2=160.0).round(2).values.tolist()  # air
    [1.01, 1.01, 1.0]
    """
    level = check(let, "let_d") if isinstance(let, xr.DataArray) else xr.DataArray(np.asarray(let, float))
    pressure = _pressure(po2)
    anoxic = oer_high + (oer_low - oer_high) * np.exp(-((level / let_scale) ** 2))
    ratio = anoxic * (1.0 / (1.0 + anoxic * (pressure / k))) * (1.0 + pressure / k)
    return stamp(
        ratio.astype(level.dtype),
        "oer",
        model="antonovic",
        let_definition=level.attrs.get("let_definition"),
        assumed=level.attrs.get("assumed"),
        parameters=f"oer_low={oer_low}, oer_high={oer_high}, let_scale={let_scale} keV/um, K={k} mmHg",
        confidence="1",
        citation="Antonovic et al., J Radiat Res",
    )


def osmk21_resistance(zd: Any, *, po2: Any, tissue: str | Osmk21) -> Any:
    """Radioresistance R = (p + K) / (p + K [(z_d/z_R)^g + 1] / [(z_d/z_R)^g + R_m]) of the OSMK 2021, 1 in air, up to R_m.

    `zd` [Gy] of the domain, `po2` [mmHg]. Inaniwa et al. 2021, doi 10.1088/1361-6560/ac29cc.
    """
    t = get_tissue(tissue, Osmk21)
    p, ratio = _pressure(po2), (zd / t.z_r) ** t.gamma
    return (p + t.k) / (p + t.k * (ratio + 1.0) / (ratio + t.r_m))


def osmk23_at(tissue: str | Osmk23, *, po2: float, z0_exponent: float) -> Smk:
    """The OSMK 2023 at one oxygen pressure [mmHg]: an SMK set with scaled domain radius, z0 and coefficients.

    R = (p + K) / (p + K / R_max); f_rd = 1 + (R - 1)(f_rd,max - 1)/(R_max - 1), f_z0 = [1 + (R - 1)(f_z0,max - 1)/(R_max -
    1)]^m; rd / f_rd, z0 f_z0, alpha0 = alpha_L + alpha_S / R, beta0 / R^2. Inaniwa and Kanematsu 2023, J Radiat Res.

    Validity: one cell line; m (`z0_exponent`) decides how strongly anoxia changes z0 (by 3.2 or by 10). It is 2 in the only
    reading we have, UNCONFIRMED (confidence "?") and therefore without a default.
    """
    t = get_tissue(tissue, Osmk23)
    p = float(_pressure(po2))
    if not (np.isfinite(z0_exponent) and z0_exponent > 0):
        raise IonrtError(f"z0_exponent: expected a number > 0, got {z0_exponent!r}")
    r = (p + t.k) / (p + t.k / t.r_max)
    share = (r - 1.0) / (t.r_max - 1.0)
    f_rd = 1.0 + share * (t.f_rd_max - 1.0)
    f_z0 = (1.0 + share * (t.f_z0_max - 1.0)) ** z0_exponent
    return Smk(
        f"{t.name} at {p:g} mmHg, z0 exponent {z0_exponent:g}",
        t.cell,
        t.alpha_l + t.alpha_s / r,
        t.beta0 / r**2,
        t.domain_radius / f_rd,
        t.nucleus_radius,
        t.z0 * f_z0,
        f"{t.citation}; f_z0 unconfirmed; {content_hash(t, p)}",
        "?",
    )
