"""Protocols: what is stated is recomputed, what is simulated is nominal, what is wrong is named."""

from __future__ import annotations

import copy
from pathlib import Path

import dask
import numpy as np
import pytest
import yaml

from ionrt import trial
from ionrt.quantities import IonrtError
from ionrt.trial.designs import DESIGNS, sample_size
from ionrt.trial.reading import from_mapping

FOLDER = Path(__file__).resolve().parents[1] / "trials"
FILES = sorted(FOLDER.glob("*.yaml"))
CONTENT = {p.stem: yaml.safe_load(p.read_text(encoding="utf-8")) for p in FILES}
TESTED = [name for name, c in CONTENT.items() if DESIGNS[c["design"]].simulate]


def changed(name, **keys):
    content = copy.deepcopy(CONTENT[name])
    content.update(keys)
    return content


def test_the_five_protocols_are_there():
    assert set(CONTENT) == {
        "letd_head_neck",
        "recurrent_rectal",
        "pancreas_randomised",
        "chordoma_noninferiority",
        "multi_ion_sarcoma",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_stated_n_equals_recomputed(path):
    protocol = trial.load(path)
    assert protocol.id == path.stem
    assert sample_size(protocol) == protocol.n
    assert protocol.status == "illustrative" and protocol.illustrative and protocol.sources


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("recurrent_rectal", "s1", 0.62),
        ("pancreas_randomised", "hr", 0.70),
        ("pancreas_randomised", "dropout_share", 0.20),
        ("chordoma_noninferiority", "margin", 0.12),
        ("multi_ion_sarcoma", "p1", 0.90),
        ("letd_head_neck", "n_max", 30),
    ],
)
def test_changed_parameter_names_the_difference(name, key, value):
    content = changed(name)
    content["parameters"][key] = value
    with pytest.raises(IonrtError, match=rf"states n = {content['n']}, its parameters give n = \d+ \(difference [+-]\d+\)"):
        from_mapping(content, name=name)


@pytest.mark.parametrize("name", TESTED)
def test_simulation_is_nominal(name):
    """Type I error and power within 3 Monte Carlo standard errors of the design's own calculation."""
    table = trial.simulate(trial.load(FOLDER / f"{name}.yaml"), 4000, seed=11)
    se = np.sqrt(table.nominal * (1 - table.nominal) / 4000)
    assert (np.abs(table.rejected - table.nominal) <= 3 * se).all(), table
    assert table.nominal["null"] <= CONTENT[name]["alpha"] / CONTENT[name]["sided"] + 0.001
    assert table.nominal["alternative"] >= CONTENT[name]["power"] - 1e-3


def test_dose_finding_recommends_the_level_at_the_target():
    table = trial.simulate(trial.load(FOLDER / "letd_head_neck.yaml"), 2000, seed=2)
    best = table.selected.groupby("scenario").idxmax().map(lambda key: key[1])
    expected = {
        "all levels safe": 3,
        "highest at target": 3,
        "middle at target": 2,
        "lowest at target": 1,
        "all levels toxic": 0,
    }
    assert best.to_dict() == expected


def test_same_seed_same_result_on_one_core():
    protocol = trial.load(FOLDER / "pancreas_randomised.yaml")
    with dask.config.set(scheduler="synchronous"):
        alone = trial.simulate(protocol, 200, seed=4)
    assert alone.equals(trial.simulate(protocol, 200, seed=4))
    assert not alone.equals(trial.simulate(protocol, 200, seed=5))


def test_accrual_stopped_early_costs_power_not_alpha():
    protocol = trial.load(FOLDER / "pancreas_randomised.yaml")
    curve = trial.accrual_curve(protocol, [78, 156, 234], n_sim=800, seed=3)
    assert curve.power.is_monotonic_increasing
    assert curve.power[78] < 0.5
    assert (curve.type1 <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / 800)).all()


@pytest.mark.parametrize("design", ["simon", "margin"])
def test_other_designs_simulate_nominally(design):
    """Two stages, and a non-inferiority trial on a hazard ratio with futility looks."""
    if design == "simon":
        content = changed("multi_ion_sarcoma", design="simon", parameters={"p0": 0.1, "p1": 0.3}, n=29, power=0.8)
    else:
        parameters = {"hr": 1.0, "margin": 1.5, "accrual": 48, "follow_up": 24, "control_survival": [0.72, 60]}
        looks = {"information": 3, "spending": "lan_demets_pocock", "beta_spending": "lan_demets_obrien_fleming"}
        content = changed("pancreas_randomised", parameters=parameters, looks=looks, power=0.8, sided=2)
        content["n"] = recomputed(content)
    table = trial.simulate(from_mapping(content), 2000, seed=6)
    se = np.sqrt(table.nominal * (1 - table.nominal) / 2000)
    # futility stops are heeded in the simulation, so the null rejects no more than nominal
    assert (np.abs(table.rejected - table.nominal) <= 3 * se).all(), table
    assert (table.stopped_early > 0).all()


def recomputed(content) -> int:
    with pytest.raises(IonrtError) as caught:
        from_mapping({**content, "n": 1})
    return int(str(caught.value).split("give n = ")[1].split(" ")[0])


def without(name, key):
    content = changed(name)
    del content[key]
    return content


BAD = {
    "unknown key": (changed("recurrent_rectal", endpont={}), "'endpont' does not exist; there are 'endpoint'"),
    "missing key": (without("recurrent_rectal", "time_zero"), "time_zero is missing"),
    "kind of endpoint": (
        changed("recurrent_rectal", endpoint={"name": "OS", "kind": "survivall", "definition": "death"}),
        r"endpoint.kind: expected one of \['rate', 'survival', 'toxicity'\]",
    ),
    "no sources": (changed("recurrent_rectal", sources=[]), "sources: none given"),
    "source without a source": (changed("recurrent_rectal", sources=[{"fact": "x"}]), r"sources\[1\]: source is missing"),
    "empty stratum": (changed("pancreas_randomised", strata={"centre": []}), "'centre' needs at least two levels"),
    "unknown design": (changed("recurrent_rectal", design="simons"), "design: key: 'simons' does not exist; there are 'simon'"),
    "unknown parameter": (changed("multi_ion_sarcoma", parameters={"p0": 0.6, "p2": 0.9}), "'p2' does not exist"),
    "wrong type": (changed("recurrent_rectal", n="32"), "n: expected whole, got str"),
    "ours but none named": (changed("recurrent_rectal", illustrative=[]), "name the parameters that are ours"),
    "planned stratum unknown": (
        changed("pancreas_randomised", analysis={"strata": ["age"], "method": "log-rank"}),
        "'age' is not among the strata",
    ),
    "power out of range": (changed("recurrent_rectal", power=1.2), "power: expected a probability"),
    "alpha out of range": (changed("recurrent_rectal", alpha=0.0), "alpha: expected a probability"),
    "not a mapping": ([1], "expected a mapping"),
    "axis not increasing": (
        changed("letd_head_neck", axis={"quantity": "let_d", "levels": [90, 80, 70], "let_definition": "charged"}),
        "strictly increasing",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_protocol(what):
    content, message = BAD[what]
    with pytest.raises(IonrtError, match=message):
        from_mapping(content)


def test_all_faults_at_once():
    content = changed("recurrent_rectal", colour="blue", n="32")
    del content["title"]
    with pytest.raises(IonrtError, match="3 fault") as caught:
        from_mapping(content)
    assert all(word in str(caught.value) for word in ("colour", "title", "n: expected whole"))


def test_unreadable_file(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("id: [", encoding="utf-8")
    with pytest.raises(IonrtError, match=r"broken.yaml: not readable as YAML"):
        trial.load(path)


def test_stop_accrual_out_of_range():
    with pytest.raises(IonrtError, match="stop_accrual_at"):
        trial.simulate(trial.load(FOLDER / "recurrent_rectal.yaml"), 10, stop_accrual_at=33)


def test_protocols_are_found_by_name():
    assert set(trial.protocols()) == set(CONTENT)
    assert trial.load("recurrent_rectal") == trial.load(FOLDER / "recurrent_rectal.yaml")
    with pytest.raises(IonrtError, match="'recurent_rectal' does not exist; there are 'recurrent_rectal'"):
        trial.load("recurent_rectal")


def test_overview_has_plan_and_simulation():
    table = trial.overview([trial.load("letd_head_neck"), trial.load("recurrent_rectal")], n_sim=400, seed=1)
    assert np.isnan(table.power["letd_head_neck"])
    assert table.power_attained["recurrent_rectal"] == pytest.approx(0.8043, abs=1e-4)
    assert table.attrs["data"] == "SYNTHETIC"
