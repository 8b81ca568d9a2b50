"""LETd and RBE-weighted dose that no file of a study holds, from its RT Ion Plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ionrt.cohort.features import imported_doses
from ionrt.quantities import IonrtError, one_of

MODELS = {"NIRS_MMKM": "nirs_mkm", "SMK": "smk", "LEM_I": "lem1", "FIXED_1.1": "constant"}  # dose systems of the dictionary


def recomputed(
    patient: xr.Dataset,
    folder: str | Path,
    *,
    rbe_model: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    let_definition: str = "charged",
    spacing: float = 3.0,
) -> list[xr.DataArray]:
    r"""LETd and, for a named dose system, the RBE-weighted dose of the course, computed again from the RT Ion Plan.

    Pass it to `patient_features` as ``recompute=functools.partial(recomputed, rbe_model="NIRS_MMKM")``. Where the study has a
    physical plan dose D of n fractions, the recomputed field is multiplied by one factor k, least squares of k d against D / n
    in the high dose: what counts is the delivered dose; the attribute ``source`` then says "recomputed_scaled". Else the plan's
    own number of particles, or the beam dose that it states, counts ("recomputed"); LETd alone needs neither. RBE-weighted dose
    is that of one fraction times n, all fractions alike.

    Parameters
    ----------
    patient : Dataset with CT.
    folder : of the study, with one RT Ion Plan.
    rbe_model : NIRS_MMKM, SMK, LEM_I or FIXED_1.1; None for LETd alone.
    parameters : of the model, where it has any.
    let_definition : of the LETd.
    spacing : of the dose grid [mm].

    Returns
    -------
    ``let_d`` (z, y, x) keV/um and, with `rbe_model`, ``rbe_dose`` (z, y, x) Gy (RBE) with attribute ``rbe_model``; valid as
    `ionrt.recompute` and the model are.

    Raises
    ------
    IonrtError
        As `read_ion_plan` and `ionrt.recompute`; a dose system that cannot be computed, a plan that does not say its number of
        fractions, fixed RBE with parameters of its own.
    """
    from ionrt.let import let_d
    from ionrt.patient import read_ion_plan
    from ionrt.plan.recomputation import factor_to_reference, recompute
    from ionrt.rbe import apply_model

    model = MODELS[one_of(rbe_model, tuple(MODELS), what="rbe_model")] if rbe_model else None
    if model == "constant" and parameters:
        raise IonrtError("rbe_model FIXED_1.1 has no parameters; it is 1.1 everywhere")
    plan = read_ion_plan(folder)
    if plan.fractions < 1:
        raise IonrtError("the plan does not say its number of fractions; dose per fraction is not known")
    delivered = imported_doses(patient, Path(folder)).get("dose")
    found = recompute(
        patient,
        plan,
        spacing=spacing,
        models=(model or "constant",),
        let_definition=let_definition,
        particles_per_mu=None if delivered is None and model else 1e6,
    )
    source = "recomputed"
    if delivered is not None:
        factor = np.float32(factor_to_reference(found["dose"], delivered / plan.fractions))
        found = found.map(lambda da: (da * factor).assign_attrs(da.attrs), keep_attrs=True)
        source = "recomputed_scaled"
    out = [let_d(found).assign_attrs(source=source)]
    if model:
        dose = apply_model(found, model, **(parameters or {}))
        out.append((dose * np.float32(plan.fractions)).assign_attrs(dose.attrs | {"rbe_model": rbe_model, "source": source}))
    return out
