"""The helper that mutates inputs sees what it should see."""

import fuzz
import numpy as np
import pytest

from ionrt.quantities import IonrtError


def test_each_class_is_counted():
    def attempt(rng):
        match int(rng.integers(4)):
            case 0:
                return ""
            case 1:
                raise IonrtError("expected this, got that")
            case 2:
                raise KeyError("raw")
        return "changed"

    tally = fuzz.run(attempt, seeds=(1, 2), n=40)
    assert sum(tally.counts.values()) == 80 and all(tally.counts[k] > 5 for k in ("clean", "refused", "raw", "silent"))
    assert tally.bad == len(tally.examples) == tally.counts["raw"] + tally.counts["silent"]
    with pytest.raises(AssertionError, match="seed 1, try"):
        fuzz.hold(attempt, n=40)
    seed, k, what = next(e for e in tally.examples if e[2].startswith("silent"))
    assert fuzz.again(attempt, seed, k) == what.removeprefix("silent: ")


def test_a_loop_without_end_is_a_hang(monkeypatch):
    monkeypatch.setattr(fuzz, "LIMIT", 0.05)

    def attempt(rng):
        while True:
            pass

    assert fuzz.run(attempt, n=1).counts["hang"] == 1


def test_oracles_see_what_is_not_finite_and_what_differs():
    assert fuzz.complaint({"a": np.ones(3)}) == ""
    assert fuzz.complaint({"a": [1.0, np.nan]}) == ".a is not finite" and fuzz.complaint({"a": np.nan}, nan=("a",)) == ""
    assert "absurd" in fuzz.complaint({"a": np.array([1e20])})
    assert fuzz.difference({"a": np.ones(3)}, {"a": np.ones(3)}) == ""
    assert "changed" in fuzz.difference({"a": np.ones(3)}, {"a": np.ones(3) * 2}) and "one only" in fuzz.difference(
        {"a": 1}, {"b": 1}
    )


def test_mutators_change_something_and_repeat_with_their_seed():
    tree = {"a": [1, 2.5, {"b": "text"}], "c": None}
    whole = b"name,value\nx,1.5\ny,2.5\n" * 20
    changed = 0
    for k in range(100):
        one, two = (fuzz.mutate_tree(np.random.default_rng(k), tree)[0] for _ in range(2))
        assert repr(one) == repr(two)
        changed += repr(one) != repr(tree)
        assert fuzz.mutate_bytes(np.random.default_rng(k), whole)[0] == fuzz.mutate_bytes(np.random.default_rng(k), whole)[0]
    assert changed > 80 and tree == {"a": [1, 2.5, {"b": "text"}], "c": None}
