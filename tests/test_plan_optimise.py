"""Optimiser: gradients of every objective under every model, target coverage, several ions in one plan."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from plan_fixtures import POINT_ROOM, simple_plan, synthetic_base, water_box
from scipy.optimize import brentq

from ionrt.plan import (
    GEUD,
    Beam,
    DoseVolume,
    MeanDose,
    SquaredDeviation,
    SquaredOverdose,
    SquaredUnderdose,
    default_objectives,
    field,
    influence,
    optimise,
)
from ionrt.plan.moments import Moment
from ionrt.plan.objectives import OBJECTIVE_QUANTITIES
from ionrt.plan.optimiser import Problem, Term
from ionrt.rbe import MODELS

OBJECTIVES = (
    SquaredDeviation("CTV", level=2.0),
    SquaredOverdose("CTV", level=1.9),
    SquaredUnderdose("CTV", level=2.1),
    MeanDose("CTV", level=0.5),
    GEUD("CTV", level=1.0, exponent=8.0),
    GEUD("CTV", level=9.0, exponent=-10.0),
    DoseVolume("CTV", level=1.8, volume=0.3),
    DoseVolume("CTV", level=2.3, volume=0.6, upper=False),
)


class Dense:
    """Columns as a dense matrix, so that the chain rule is tested by itself: out[:, k] = A_k w."""

    def __init__(self, matrices: list[np.ndarray]) -> None:
        self.matrices = matrices

    def forward(self, weights: np.ndarray) -> np.ndarray:
        return np.stack([a @ weights for a in self.matrices], axis=1)

    def backward(self, slopes: np.ndarray) -> np.ndarray:
        return sum(a.T @ slopes[:, k] for k, a in enumerate(self.matrices))


def dense_problem(model, objectives, *, parameters=None, seed=0) -> tuple[Problem, np.ndarray]:
    """30 voxels, 6 spots; moments of the size they have in a carbon field."""
    rng = np.random.default_rng(seed)
    dose = rng.uniform(0.1, 1.0, (30, 6))
    typical = {"let_x_dose": 8.0, "zstar_x_dose": 6.0, "zd_x_dose": 7.0, "zn_x_dose": 0.05, "alpha_x_dose": 0.7}
    names = list(dict.fromkeys([*model.moments, "let_x_dose"]))
    matrices = [dose]
    for name in names:
        # spots differ in quality and zd stays above zstar, as saturation demands
        quality = rng.uniform(0.8, 1.2, 6) if name != "zd_x_dose" else np.full(6, 1.3)
        matrices.append(dose * typical.get(name, 0.2) * quality)
    share = rng.uniform(0.2, 1.0, 30)
    terms = tuple(Term(o, np.arange(30), share / share.sum()) for o in objectives)
    problem = Problem(((Dense(matrices),),), (slice(0, 6),), terms, model, parameters or {}, tuple(Moment(n) for n in names))
    return problem, rng.uniform(0.4, 0.8, 6)


def central_difference(problem: Problem, w: np.ndarray) -> np.ndarray:
    out = np.empty_like(w)
    for j in range(w.size):
        h = 1e-5 * w[j]
        up, down = w.copy(), w.copy()
        up[j] += h
        down[j] -= h
        out[j] = (problem.value_and_gradient(up)[0] - problem.value_and_gradient(down)[0]) / (2.0 * h)
    return out


NEEDED = {"alpha_beta": 3.0, "slope": 0.04, "z0_exponent": 2.0}
PARAMETERS = {n: {k: NEEDED[k] for k in m.defaults if k in NEEDED} for n, m in MODELS.items()}


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{type(o).__name__}-{o.level:g}")
@pytest.mark.parametrize("name", MODELS)
def test_gradient_of_every_objective_under_every_model(objective, name):
    model = MODELS[name]
    problem, w = dense_problem(model, [objective], parameters=PARAMETERS.get(name))
    w = w * brentq(lambda s: np.median(problem.rbe_dose(problem.forward(s * w))) - 2.0, 0.01, 20.0)  # every branch in use
    value, gradient = problem.value_and_gradient(w)
    numeric = central_difference(problem, w)
    assert value > 0.0
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-5 * np.abs(numeric).max())


@pytest.mark.parametrize("quantity", OBJECTIVE_QUANTITIES)
def test_gradient_of_every_quantity(quantity):
    level = {"rbe_dose": 2.0, "dose": 2.0, "let_d": 8.0}[quantity]
    problem, w = dense_problem(MODELS["nirs_mkm"], [SquaredDeviation("CTV", level=level, quantity=quantity)])
    value, gradient = problem.value_and_gradient(w)
    numeric = central_difference(problem, w)
    assert value > 0.0
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-5 * np.abs(numeric).max())


@pytest.fixture(scope="module")
def box_plan():
    patient = water_box((25, 61, 31), target_radius=12.0)
    plan = simple_plan(gantry=(0.0, 90.0))
    got = influence(patient, plan, base={"C": synthetic_base("C")})
    return patient, plan, got, optimise(patient, plan, got)


def test_products_agree_with_finite_differences(box_plan):
    from ionrt.plan.optimiser import make_problem

    patient, plan, got, weights = box_plan
    problem = make_problem(patient, plan, got)
    w = 0.8 * np.asarray(weights) + 1e4  # far from the optimum: the sums over energies are float32
    gradient = problem.value_and_gradient(w)[1]
    direction = np.random.default_rng(0).uniform(0.0, 0.02, w.size) * w
    ahead, behind = (problem.value_and_gradient(w + s * direction)[0] for s in (1.0, -1.0))
    assert (ahead - behind) / 2.0 == pytest.approx(float(gradient @ direction), rel=1e-5)


def test_target_gets_its_prescription(box_plan):
    patient, plan, got, weights = box_plan
    dose = field(got, weights, models=("constant",))["dose"]
    inside = dose.values[patient["structures"].sel(structure="CTV").values >= 0.5]
    assert np.percentile(inside, 5) > 0.97 * plan.prescription  # D95
    assert np.percentile(inside, 98) < 1.05 * plan.prescription  # D2
    assert weights.dims == ("spot",) and float(weights.min()) >= 0.0
    assert set(np.unique(weights["ion"])) == {"C"}


def test_two_ions_in_one_plan_and_each_alone():
    patient = water_box((21, 51, 21), target_radius=10.0)
    beams = (Beam("C", 0.0, room=POINT_ROOM), Beam("He", 0.0, room=POINT_ROOM))
    plan = simple_plan()
    plan = type(plan)(beams, "CTV", 2.0, model="constant", parameters={"rbe": 1.0}, spacing=2.0)
    base = {"C": synthetic_base("C"), "He": synthetic_base("He", energies=np.linspace(50.0, 180.0, 40))}
    got = influence(patient, plan, base=base)
    weights = optimise(patient, plan, got, iterations=40)
    parts = field(got, weights, models=("constant",), by="ion")
    whole = field(got, weights, models=("constant",))
    xr.testing.assert_allclose(parts.sum("ion"), whole.drop_attrs(), rtol=1e-5, atol=1e-6)
    only_carbon = weights.where(weights["ion"] == "C", 0.0)
    np.testing.assert_allclose(
        field(got, only_carbon, models=("constant",))["dose"].values, parts["dose"].sel(ion="C").values, rtol=1e-5
    )


def test_default_objectives_know_target_organs_and_outline():
    made = default_objectives("CTV", 2.0, ["CTV", "RECTUM", "BODY"])
    assert {o.structure for o in made} == {"CTV", "RECTUM", "BODY"}
    assert all(o.level >= 2.0 for o in made if o.structure == "CTV")
