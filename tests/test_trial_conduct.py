"""Randomisation, minimisation, CONSORT, interim looks and the label of an analysis."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ionrt import trial
from ionrt.quantities import IonrtError
from ionrt.trial.conduct import departures
from ionrt.trial.flow_diagram import consort
from ionrt.trial.kernels import survival_trials
from ionrt.trial.rates import farrington_manning

FOLDER = Path(__file__).resolve().parents[1] / "trials"
ARMS = {"photon": 1, "carbon": 2}
STRATA = {"centre": ["A", "B"], "head": ["yes", "no"]}


def make(seed=1, **options):
    return trial.permuted_blocks(ARMS, seed=seed, n_per_stratum=30, strata=STRATA, **options)


def test_blocks_are_balanced_in_every_stratum():
    whole = make(block_sizes=(6,)).reveal()
    for _, part in whole.groupby(["centre", "head"]):
        for start in range(0, len(part), 6):
            assert part.arm.iloc[start : start + 6].value_counts().to_dict() == {"carbon": 4, "photon": 2}
    open_ended = make().reveal()
    counts = open_ended.groupby(["centre", "head"]).arm.value_counts().unstack()
    assert (counts.carbon == 2 * counts.photon).all(), "a list ends with a whole block"


def test_list_is_reproducible_and_strata_are_independent():
    assert make(3).reveal().equals(make(3).reveal())
    assert not make(3).reveal().equals(make(4).reveal())
    one = trial.permuted_blocks(ARMS, seed=3, n_per_stratum=30, strata={"centre": ["A"]}).reveal()
    two = trial.permuted_blocks(ARMS, seed=3, n_per_stratum=30, strata={"centre": ["A", "B"]}).reveal()
    assert one.arm.tolist() == two[two.centre == "A"].arm.tolist()


def test_the_rest_stays_concealed():
    """The open part holds what was used and nothing else; neither printing, its attributes nor a stored copy show the rest."""
    lists = make()
    whole = lists.reveal()
    first = whole[(whole.centre == "A") & (whole["head"] == "yes")].arm.tolist()
    seen = [lists.allocate(f"p{i}", centre="A", head="yes") for i in range(4)]
    assert seen == first[:4]
    assert list(lists.open.columns) == ["number", "pid", "centre", "head", "arm"]
    assert len(lists.open) == 4
    assert not any(arm in repr(lists) for arm in ARMS)
    assert not any(isinstance(v, (list, tuple)) and len(v) > 4 for k, v in vars(lists).items() if not k.startswith("_"))
    for store in (pickle.dumps, copy.deepcopy):
        with pytest.raises(IonrtError, match="not stored"):
            store(lists)


LONG = 0x9C1F5AB0D1E3447788AA55CC33771199


def test_commitment_is_proved_at_unblinding():
    """Published before: 64 digits; published after: salt and list, through JSON; nothing else fits."""
    lists = make(LONG)
    published = lists.commitment
    for i in range(6):
        lists.allocate(f"p{i}", centre="B", head="no")
    proof = json.loads(json.dumps(lists.proof()))
    assert published == make(LONG).commitment != make(LONG + 1).commitment
    assert trial.verify_randomisation(published, proof)
    assert trial.verify_randomisation(published.upper() + " ", proof, lists.open)
    swapped = lists.open.assign(arm=lambda d: d.arm.map({"photon": "carbon", "carbon": "photon"}))
    assert not trial.verify_randomisation(published, proof, swapped)
    assert not trial.verify_randomisation(published, proof, lists.open.assign(centre="C"))
    for change in (
        lambda p: p["lists"][0]["arms"].__setitem__(0, "carbon" if p["lists"][0]["arms"][0] == "photon" else "photon"),
        lambda p: p.update(salt="00" * 32),
        lambda p: p["ratio"].update(photon=2),
        lambda p: p["lists"].pop(),
        lambda p: p.update(factors=["head", "centre"]),
    ):
        forged = json.loads(json.dumps(proof))
        change(forged)
        assert not trial.verify_randomisation(published, forged)
    for broken in ({}, {"salt": "xy"}, proof | {"salt": "00"}, proof | {"lists": 3}, []):
        with pytest.raises(IonrtError, match="proof: expected"):
            trial.verify_randomisation(published, broken)


def test_a_short_list_is_not_found_by_trying():
    """Two patients, four possible lists: no hash of a list, plain or under a salt made from the list, is the commitment."""
    seeds = [LONG + i for i in range(40)]
    short = [trial.permuted_blocks({"a": 1, "b": 1}, seed=s, n_per_stratum=2, block_sizes=(2,)) for s in seeds]
    by_list: dict[str, set[str]] = {}
    for one in short:
        by_list.setdefault("".join(one.reveal().arm), set()).add(one.commitment)
    assert set(by_list) == {"ab", "ba"}
    assert sum(len(c) for c in by_list.values()) == 40, "the same list under another seed has another commitment"
    for one in short:  # the salt has its bits from the seed, and is not shown before unblinding
        assert one.proof()["salt"] not in repr(one) + str(one.open)
        assert len({s.proof()["salt"] for s in short}) == 40


def test_a_short_seed_commits_to_nothing():
    for seed in (0, 1, 2**64, 2**95 - 1):
        with pytest.raises(IonrtError, match="secret_seed"):
            _ = make(seed).commitment
        assert "seed of a simulation" in repr(make(seed))
    drawn = make(trial.secret_seed())
    assert trial.verify_randomisation(drawn.commitment, drawn.proof())


def test_levels_that_join_to_the_same_text_have_lists_of_their_own():
    strata = {"one": ["a|b", "a"], "two": ["c", "b|c"]}
    whole = trial.permuted_blocks(ARMS, seed=LONG, n_per_stratum=60, strata=strata).reveal()
    first, second = (whole[(whole.one == a) & (whole.two == b)].arm.tolist()[:60] for a, b in (("a|b", "c"), ("a", "b|c")))
    assert first != second
    with pytest.raises(IonrtError, match="combinations of levels"):
        trial.permuted_blocks(ARMS, seed=1, n_per_stratum=1, strata={f"f{i}": ["0", "1"] for i in range(30)})


def test_open_part_leaves_the_next_allocation_open():
    """Two lists that agree on all that is open and differ in the next allocation, for open parts of several lengths."""
    lists = [trial.permuted_blocks({"a": 1, "b": 1}, seed=s, n_per_stratum=6).reveal().arm.tolist() for s in range(800)]
    for shown in (["a"], ["a", "a"], ["a", "a", "b", "b"], ["a", "b", "a", "a", "b"]):
        following = {arms[len(shown)] for arms in lists if arms[: len(shown)] == shown}
        assert following == {"a", "b"}
    closed = [trial.permuted_blocks({"a": 1, "b": 1}, seed=s, n_per_stratum=4, block_sizes=(4,)) for s in range(50)]
    assert {a[2] for a in (c.reveal()["arm"].tolist() for c in closed) if a[:2] == ["a", "a"]} == {"b"}, "a closed set of sizes"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(block_sizes=(4,)), "multiples of 3"),
        (lambda: trial.permuted_blocks({"a": 1}, seed=1, n_per_stratum=4), "at least two arms"),
        (lambda: trial.permuted_blocks(ARMS, seed=1, n_per_stratum=4, strata={"centre": []}), "needs distinct levels"),
        (lambda: make().allocate("p", centre="C", head="yes"), "does not exist"),
        (lambda: make().allocate("p", centre="A"), "expected the factors"),
    ],
)
def test_bad_randomisation(call, message):
    with pytest.raises(IonrtError, match=message):
        call()


def test_allocation_is_final_and_the_list_ends():
    lists = trial.permuted_blocks({"a": 1, "b": 1}, seed=1, n_per_stratum=2, block_sizes=(2,))
    lists.allocate("p1")
    with pytest.raises(IonrtError, match="allocated before"):
        lists.allocate("p1")
    lists.allocate("p2")
    with pytest.raises(IonrtError, match="are used"):
        lists.allocate("p3")


def patients(n, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"centre": rng.choice(["A", "B", "C"], n), "stage": rng.choice(["1", "2", "3", "4"], n)})


def imbalance(allocated, arms, factors):
    """Per factor level, and for all patients first: largest minus smallest (count / ratio)."""
    groups = [("all", allocated), *((f, part) for f in factors for _, part in allocated.groupby(f))]
    rows = [{"factor": f} | {a: int((part["arm"] == a).sum()) for a in arms} for f, part in groups]
    scaled = [[row[a] / r for a, r in arms.items()] for row in rows]
    return pd.DataFrame(rows).assign(range=[max(s) - min(s) for s in scaled])


@pytest.mark.parametrize("arms", [{"a": 1, "b": 1}, ARMS])
def test_minimisation_balances(arms):
    """Measured: the range within any factor level stays far below that of pure chance, and the ratio is kept."""
    df, factors = patients(300), ["centre", "stage"]
    minimised = imbalance(trial.minimise(df, arms=arms, factors=factors, seed=1), arms, factors)
    share = np.array(list(arms.values())) / sum(arms.values())
    pure = [
        imbalance(df.assign(arm=np.random.default_rng(s).choice(list(arms), 300, p=share)), arms=arms, factors=factors)
        for s in range(20)
    ]
    assert minimised.range.max() <= 6
    assert minimised.range[1:].mean() < 0.5 * np.mean([p.range[1:].mean() for p in pure])
    total = minimised.loc[minimised.factor == "all", list(arms)].iloc[0].to_numpy(float)
    assert total / total.sum() == pytest.approx(share, abs=0.02)


def test_minimisation_is_sequential():
    df = patients(60)
    whole, part = (trial.minimise(d, arms=ARMS, factors=["centre"], seed=9).arm.tolist() for d in (df, df.iloc[:25]))
    assert whole[:25] == part


@pytest.mark.parametrize("change", [{"probability": 0.4}, {"factors": ["age"]}, {"factors": []}])
def test_bad_minimisation(change):
    with pytest.raises(IonrtError):
        trial.minimise(patients(5), **{"arms": {"a": 1, "b": 1}, "factors": ["centre"], "seed": 1, **change})


def flow(**change):
    arm = {"allocated": 50, "received": 48, "not_received": {"withdrew": 2}, "lost": 3, "discontinued": 1}
    arm |= {"analysed": 49, "excluded_from_analysis": {"not eligible": 1}}
    counts = {"assessed": 130, "excluded": {"not eligible": 20, "declined": 10}, "randomised": 100}
    counts["arms"] = {"photon": dict(arm), "carbon": {**arm, **change.pop("carbon", {})}}
    return {**counts, **change}


def test_consort_adds_up():
    table = consort(**flow())
    assert table.query("stage == 'analysed'").n.sum() == 98
    assert table.query("stage == 'excluded' and reason == ''").n.item() == 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"assessed": 131}, "assessed 131 is not excluded 30"),
        ({"randomised": 99}, "randomised 99 is not the sum of allocated 100"),
        ({"carbon": {"received": 47}}, "carbon: allocated 50 is not received 47"),
        ({"carbon": {"analysed": 50}}, "carbon: allocated 50 is not analysed 50"),
        ({"carbon": {"lost": 60}}, "exceed allocated"),
        ({"carbon": {"screened": 60}}, "unknown counts"),
    ],
)
def test_consort_that_does_not_add_up(change, message):
    with pytest.raises(IonrtError, match=message):
        consort(**flow(**change))


def test_consort_from_participants():
    df = pd.DataFrame(
        {
            "excluded": ["not eligible", "", "", ""],
            "arm": [None, "photon", "carbon", "carbon"],
            "received": [False, True, True, False],
            "lost": ["", "", "moved", ""],
            "discontinued": [""] * 4,
            "analysed": [False, True, True, False],
            "not_analysed": ["", "", "", "no treatment"],
        }
    )
    table = trial.consort_from(df)
    assert table.query("stage == 'allocated'").set_index("arm").n.to_dict() == {"carbon": 2, "photon": 1}
    assert table.query("reason == 'moved'").n.item() == 1
    with pytest.raises(IonrtError, match="neither"):
        trial.consort_from(df.assign(excluded=""))
    with pytest.raises(IonrtError, match="do not add up"):
        trial.consort_from(df.assign(not_analysed=""))


@pytest.fixture(scope="module")
def protocol():
    return trial.load(FOLDER / "pancreas_randomised.yaml")


def survival_data(n=234, hr=0.62, seed=0, events=None):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame({"arm": rng.permutation(np.repeat(["photon", "carbon"], [n // 3, n - n // 3]))})
    df["centre"], df["head_of_pancreas"] = rng.choice(["A", "B"], n), rng.choice(["yes", "no"], n)
    df["time"] = rng.exponential(1.0, n) * np.where(df.arm == "carbon", 23.5 / hr, 23.5)
    df["event"] = (df.time < 30).astype(int)
    df["time"] = df.time.clip(upper=30)
    if events is not None:
        stop = df.loc[df.event == 1, "time"].nsmallest(events).max()
        df["event"] = ((df.time <= stop) & (df.event == 1)).astype(int)
        df["time"] = df.time.clip(upper=stop)
    return df


def test_one_compiled_replicate_by_hand():
    """The look happens at the second event in calendar time; nobody who enters later counts."""
    entry, life = np.array([[0.0, 1.0, 2.0, 9.0]]), np.array([[3.0, 4.0, 50.0, 1.0]])
    arm, loss = np.array([[0, 0, 1, 1]]), np.full((1, 4), np.inf)
    out = survival_trials(entry, arm, life, loss, np.array([2]), np.array([9.0]), np.array([-np.inf]), 0.0, np.inf)
    assert [int(v[0]) for v in out[:4]] == [1, 0, 2, 3]
    assert out[4][0] == 5.0


def test_interim_bounds_follow_the_information(protocol):
    planned = trial.design_of(protocol)["events_planned"]
    look = trial.interim(protocol, survival_data(events=80))
    assert look.events == 80
    assert look.information == pytest.approx(80 / planned)
    expected = trial.spending_bounds([80 / planned, 1.0], power=0.82).z_efficacy[1]
    assert look.z_efficacy == pytest.approx(expected, abs=1e-9)
    assert trial.interim(protocol, survival_data(hr=0.1, events=80)).decision == "stop for efficacy"
    assert trial.interim(protocol, survival_data(hr=1.0, events=80)).decision == "continue"
    last = trial.interim(protocol, survival_data(hr=0.4, seed=2), previous=(0.3,))
    if last.information == 1.0:
        assert last.decision in ("reject", "do not reject")
    with pytest.raises(IonrtError, match="is not above the earlier look"):
        trial.interim(protocol, survival_data(events=80), previous=(0.6,))


def test_analysis_by_plan_and_off_plan(protocol):
    data = survival_data(seed=4)
    planned = trial.analyse(protocol, data).iloc[0]
    assert planned.status == "as planned" and planned.departs == ""
    assert planned.lower < planned.estimate < planned.upper
    other = trial.analyse(protocol, data, strata=["centre"], method="log-rank").iloc[0]
    assert other.status == "exploratory"
    assert other.departs == "strata, method"
    same = departures(protocol, {"strata": ["head_of_pancreas", "centre"], "method": "Stratified Log-rank"})
    assert same.attrs["status"] == "as planned"
    with pytest.raises(IonrtError, match="is not compared"):
        departures(protocol, {"test": "x"})
    with pytest.raises(IonrtError, match="not in the protocol"):
        trial.analyse(protocol, data.replace({"arm": {"carbon": "neon"}}))


def test_rates_and_single_arm_analyses():
    rates = trial.load(FOLDER / "chordoma_noninferiority.yaml")
    data = pd.DataFrame({"arm": ["proton"] * 58 + ["carbon"] * 58, "success": [1] * 52 + [0] * 6 + [1] * 52 + [0] * 6})
    row = trial.analyse(rates, data).iloc[0]
    assert row.estimate == 0.0 and row.reject and row.p < 0.05 and -0.15 < row.lower < 0.0
    limit = farrington_manning(52, 58, 52, 58, margin=-row.lower)
    assert float(limit) == pytest.approx(1.6448536, abs=1e-5)
    single = trial.load(FOLDER / "recurrent_rectal.yaml")
    for survivors, reject in ((19, True), (18, False)):
        frame = pd.DataFrame({"success": [1] * survivors + [0] * (32 - survivors)})
        assert trial.analyse(single, frame).iloc[0].reject == reject, "the test rejects beyond r = 18 and only there"


@pytest.mark.parametrize("held", [np.nan, 2, "yes"])
@pytest.mark.parametrize("name", ["chordoma_noninferiority", "recurrent_rectal"])
def test_a_success_that_is_missing_is_no_failure(name, held):
    n = 58 if name.startswith("chordoma") else 16
    data = pd.DataFrame({"arm": ["proton"] * n + ["carbon"] * n, "success": [1, 0] * n}).astype({"success": object})
    data.loc[1, "success"] = held
    with pytest.raises(IonrtError, match="column 'success'"):
        trial.analyse(trial.load(FOLDER / f"{name}.yaml"), data)


def test_consort_counts_truth_values_only():
    df = trial.synthetic_participants(trial.load(FOLDER / "pancreas_randomised.yaml"), 3)
    with pytest.raises(IonrtError, match="received holds other than True and False"):
        trial.consort_from(df.assign(received="no"))


def test_synthetic_participants_run_to_plan(protocol):
    df = trial.synthetic_participants(protocol, 3)
    inside = df[df.arm.notna()]
    assert df.attrs["data"] == "SYNTHETIC"
    assert len(inside) == protocol.n
    assert df.equals(trial.synthetic_participants(protocol, 3))
    assert trial.consort_from(df).query("stage == 'assessed'").n.item() == len(df)
    planned = trial.design_of(protocol)
    events = [trial.synthetic_participants(protocol, s).event.sum() for s in range(6)]
    assert np.mean(events) == pytest.approx(protocol.n * planned["p_event"], rel=0.06)


def test_cut_at_events_is_a_calendar_cut(protocol):
    df = trial.synthetic_participants(protocol, 3)
    cut = trial.cut_at_events(df, 50)
    assert cut.event.sum() == 50
    day = (cut.entry + cut.time).max()
    assert cut.entry.max() < day
    whole = df.loc[cut.index]
    earlier = whole.entry + whole.time <= day
    assert cut.time[earlier].equals(whole.time[earlier])
    assert (cut.event[~earlier] == 0).all()
    with pytest.raises(IonrtError, match="expected at most"):
        trial.cut_at_events(df, 1000)


def test_synthetic_participants_need_two_arms():
    with pytest.raises(IonrtError, match="two_arm_survival"):
        trial.synthetic_participants(trial.load("recurrent_rectal"), 1)


def test_comparison_of_designs_in_four_figures():
    """The right level is 2; the 3+3 row is the exact table."""
    curve = [0.10, 0.25, 0.45]
    table = trial.compare_dose_finding({"BOIN": trial.boin(0.25), "3+3": None}, {"truth": curve}, n_sim=300)
    summary = trial.summarise_dose_finding(table, target=0.25)
    exact = trial.three_plus_three(curve)
    row = summary.loc[("truth", "3+3")]
    assert row.right == 2
    assert row.recommended == pytest.approx(exact.selected[2])
    assert row.above_target == pytest.approx(exact.n[3] / exact.n.sum())
    assert row.toxicities == pytest.approx(exact.n[1:] @ np.array(curve))
