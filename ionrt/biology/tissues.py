"""Parameter sets of the cell models: frozen, cited, with how well each is known.

`confidence`: "2+" read in two or more independent sources, "1" in one. A constant known only from memory is not here.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import TypeVar

from ionrt.quantities import IonrtError, one_of

INANIWA_2010 = "Inaniwa et al. 2010, doi 10.1088/0031-9155/55/22/008"
INANIWA_2018 = "Inaniwa and Kanematsu 2018, doi 10.1088/1361-6560/aabede"
INANIWA_2021 = "Inaniwa et al. 2021, doi 10.1088/1361-6560/ac29cc"
INANIWA_2023 = "Inaniwa and Kanematsu 2023, J Radiat Res"
KRAEMER_2006 = "Kraemer and Scholz 2006, doi 10.1088/0031-9155/51/8/001"


@dataclass(frozen=True)
class Mkm:
    """Microdosimetric kinetic model: alpha0 [1/Gy], beta0 [1/Gy2], radii [um], saturation z0 [Gy]."""

    name: str
    cell: str
    alpha0: float
    beta0: float
    domain_radius: float
    nucleus_radius: float
    z0: float
    citation: str
    confidence: str = "2+"


@dataclass(frozen=True)
class Smk(Mkm):
    """Stochastic microdosimetric kinetic model: the fields of `Mkm`, with a free z0."""


@dataclass(frozen=True)
class Osmk:
    """What the oxygen-effect SMK of every year shares: alpha = alpha_l + alpha_s / R [1/Gy] with the radioresistance R,
    beta0 [1/Gy2], radii [um], z0 [Gy], oxygen pressure of half effect `k` [mmHg].
    """

    name: str
    cell: str
    alpha_l: float
    alpha_s: float
    beta0: float
    domain_radius: float
    nucleus_radius: float
    z0: float
    k: float
    _: KW_ONLY
    citation: str
    confidence: str = "1"

    @property
    def alpha0(self) -> float:
        """Initial photon slope of well oxygenated cells, 1/Gy."""
        return self.alpha_l + self.alpha_s


@dataclass(frozen=True)
class Osmk21(Osmk):
    """Oxygen-effect SMK of 2021: R from z_d and pO2 with `z_r` [Gy], `gamma` and the largest R, `r_m`."""

    z_r: float
    gamma: float
    r_m: float


@dataclass(frozen=True)
class Osmk23(Osmk):
    """Oxygen-effect SMK of 2023: oxygen changes domain radius and z0 (factors `f_rd_max`, `f_z0_max` in anoxia, where R =
    `r_max`).
    """

    f_rd_max: float
    f_z0_max: float
    r_max: float


@dataclass(frozen=True)
class Lem1:
    """LEM I: photon alpha_x [1/Gy], beta_x [1/Gy2], transition dose [Gy], nucleus and track core radius [um], r_max = c
    E^1.7 [um].
    """

    name: str
    cell: str
    alpha_x: float
    beta_x: float
    threshold: float
    nucleus_radius: float
    citation: str
    confidence: str = "2+"
    core_radius: float = 0.01
    r_max_coefficient: float = 0.062

    @property
    def s_max(self) -> float:
        """Slope of the photon curve beyond the transition dose, 1/Gy."""
        return self.alpha_x + 2.0 * self.beta_x * self.threshold


@dataclass(frozen=True)
class Kernel:
    """A tissue class of base data that carry alpha and beta themselves: photon `alpha_x` [1/Gy], `beta_x` [1/Gy2].

    `source` names what the tables come from (a machine file, LEM IV): the class is matched by exact alpha_x and beta_x.
    """

    alpha_x: float
    beta_x: float
    source: str

    @property
    def name(self) -> str:
        """A label such as ``kernel alpha_x 0.1 beta_x 0.05 (carbon.mat)``."""
        return f"kernel alpha_x {self.alpha_x:g} beta_x {self.beta_x:g} ({self.source})"

    @property
    def citation(self) -> str:
        """What the numbers come from."""
        return self.source


Tissue = Mkm | Smk | Osmk21 | Osmk23 | Lem1


def saturation_z0(domain_radius: float, nucleus_radius: float, beta0: float) -> float:
    """z0 of the MKM in Gy, (Rn/rd)^2 / sqrt(beta0 [1 + (Rn/rd)^2]); radii in um, beta0 in 1/Gy2 (doi
    10.1088/0031-9155/55/22/008).
    """
    ratio2 = (nucleus_radius / domain_radius) ** 2
    return ratio2 / math.sqrt(beta0 * (1.0 + ratio2))


_SETS: tuple[Tissue, ...] = (
    Mkm("mkm_nirs", "HSG", 0.172, 0.0615, 0.32, 3.9, saturation_z0(0.32, 3.9, 0.0615), INANIWA_2010),
    Mkm("mkm_hsg", "HSG", 0.150, 0.0593, 0.29, 3.9, 55.0, INANIWA_2018),
    Mkm("mkm_v79", "V79", 0.136, 0.0200, 0.24, 3.6, 105.8, INANIWA_2018),
    Smk("smk_hsg", "HSG", 0.174, 0.0568, 0.28, 8.1, 66.0, INANIWA_2018),
    Smk("smk_v79", "V79", 0.103, 0.0210, 0.23, 8.1, 122.0, INANIWA_2018),
    Osmk21("osmk21_hsg", "HSG", 0.00, 0.21, 0.043, 0.23, 8.1, 88.0, 3.0, 28.0, 1.30, 2.9, citation=INANIWA_2021),
    Osmk21("osmk21_v79", "V79", 0.00, 0.10, 0.026, 0.29, 8.1, 98.0, 3.0, 29.0, 1.60, 2.5, citation=INANIWA_2021),
    Osmk21("osmk21_cho", "CHO", 0.01, 0.17, 0.045, 0.35, 8.1, 46.0, 3.0, 9.7, 1.31, 3.1, citation=INANIWA_2021),
    Osmk23("osmk23_cho", "CHO", 0.0, 0.132, 0.0591, 0.41, 8.1, 37.0, 3.0, 2.69, 3.23, 3.51, citation=INANIWA_2023),
    Lem1("lem1_chordoma", "chordoma", 0.1, 0.05, 30.0, 5.0, KRAEMER_2006),
    Lem1("lem1_hsg", "HSG", 0.313, 0.0615, 30.0, 5.0, KRAEMER_2006),
)
TISSUES: dict[str, Tissue] = {t.name: t for t in _SETS}


def any_tissue(tissue: str | Tissue, what: str = "tissue") -> Tissue:
    """A parameter set of any model, by its name in `TISSUES` or as it is."""
    return TISSUES[one_of(tissue, tuple(TISSUES), what=what)] if isinstance(tissue, str) else tissue


Kind = TypeVar("Kind", Mkm, Smk, Osmk21, Osmk23, Lem1, Kernel)


def get_tissue(tissue: str | Tissue | Kernel, kind: type[Kind]) -> Kind:
    """The parameter set `tissue` (a name in `TISSUES` or a set of one's own) if it is of the model `kind`; others raise."""
    if isinstance(tissue, str):
        tissue = TISSUES[one_of(tissue, [n for n, t in TISSUES.items() if isinstance(t, kind)], what=f"{kind.__name__} tissue")]
    if not isinstance(tissue, kind):
        names = [n for n, t in TISSUES.items() if isinstance(t, kind)]
        raise IonrtError(f"tissue: expected a parameter set of {kind.__name__} ({', '.join(names)}), got {tissue!r}")
    return tissue
