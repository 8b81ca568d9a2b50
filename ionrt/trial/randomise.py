"""Random allocation: stratified permuted blocks that stay concealed until used, and minimisation."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ionrt.outcome.columns import stratum_codes
from ionrt.quantities import IonrtError, one_of
from ionrt.trial import limits

SEED_BITS = 128  # a shorter seed can be found by trying all of them against the open part of the list
LEAST_BITS = 96  # below this a seed is one of a simulation (a drawn one is shorter once in 2^32)
MOST_STRATA = 1000  # combinations of levels


def secret_seed() -> int:
    """A seed of 128 random bits for a real trial; keep it where the list is kept, not where patients are enrolled.

    Returns
    -------
    A whole number.
    """
    return secrets.randbits(SEED_BITS)


class Randomisation:
    """A concealed list: shows an allocation only when a patient has been entered; make one with `permuted_blocks`.

    Publish `commitment` before the first patient, keep the seed where the list is kept, publish `proof` at unblinding; then
    anyone can tell with `verify_randomisation` that the list was not changed. The commitment says nothing about the list, short
    as it may be: it is HMAC-SHA256(salt, list), and the salt of 256 bits comes from the seed and stays secret until then.
    """

    def __init__(
        self, lists: Mapping[tuple, list[str]], factors: Sequence[str], arms: Mapping[str, int], seed: int | None = None
    ) -> None:
        self.__lists = {key: tuple(value) for key, value in lists.items()}
        self.__used: list[dict[str, Any]] = []
        self.__seed = seed
        self.factors = tuple(factors)
        self.arms = tuple(arms)
        self.__ratio = dict(arms)

    def __repr__(self) -> str:
        shown = f"commitment {self.commitment[:12]}" if self.__long else "seed of a simulation"
        return f"Randomisation({len(self.__used)} allocated, {len(self.__lists)} strata, {shown})"

    @property
    def __long(self) -> bool:
        return self.__seed is not None and self.__seed.bit_length() >= LEAST_BITS

    @property
    def commitment(self) -> str:
        """64 hexadecimal digits to publish before the first patient.

        Raises
        ------
        IonrtError
            A seed below 96 bits: whoever tries them all would find the list.
        """
        return _commitment(self.proof())

    def proof(self) -> dict[str, Any]:
        """What to publish at unblinding, not before: the salt and the whole list, plain values for JSON.

        `verify_randomisation` takes it.

        Raises
        ------
        IonrtError
            A seed below 96 bits, as `commitment` does.
        """
        if not self.__long:
            raise IonrtError(
                f"seed: a list of a seed below {LEAST_BITS} bits can be found by trying them all, so nothing commits to it;"
                " draw the seed of a real trial with secret_seed()"
            )
        assert self.__seed is not None
        secret = self.__seed.to_bytes((self.__seed.bit_length() + 7) // 8, "big")
        salt = hmac.new(secret, b"ionrt randomisation: salt of the commitment", hashlib.sha256).hexdigest()
        lists = [{"stratum": list(key), "arms": list(arms)} for key, arms in sorted(self.__lists.items())]
        return {"salt": salt, "ratio": self.__ratio, "factors": list(self.factors), "lists": lists}

    def __getstate__(self) -> None:
        raise IonrtError("a randomisation list is not stored with its concealed part; keep the seed and make it again")

    @property
    def open(self) -> pd.DataFrame:
        """The used part: number, pid, stratum factors, arm, in order of allocation."""
        return pd.DataFrame(self.__used, columns=["number", "pid", *self.factors, "arm"])

    def allocate(self, pid: str, **stratum: str) -> str:
        """Enter a patient and reveal the arm.

        Parameters: pid, not used before; one keyword per factor, for instance ``centre="A"``.

        Raises
        ------
        IonrtError
            A patient entered twice, an unknown stratum, or a stratum whose list is used up.
        """
        if any(row["pid"] == pid for row in self.__used):
            raise IonrtError(f"pid {pid!r} was allocated before; an allocation is final")
        if set(stratum) != set(self.factors):
            raise IonrtError(f"stratum: expected the factors {list(self.factors)}, got {sorted(stratum)}")
        key = tuple(stratum[f] for f in self.factors)
        if key not in self.__lists:
            raise IonrtError(f"stratum {dict(stratum)} does not exist")
        place = sum(tuple(row[f] for f in self.factors) == key for row in self.__used)
        if place >= len(self.__lists[key]):
            raise IonrtError(f"stratum {dict(stratum)}: all {place} allocations are used; make a longer list")
        arm = self.__lists[key][place]
        self.__used.append({"number": len(self.__used) + 1, "pid": pid, **stratum, "arm": arm})
        return arm

    def reveal(self) -> pd.DataFrame:
        """The whole list, for the unblinded statistician: stratum factors, place, arm. Not for the enrolling centre."""
        rows = [
            {**dict(zip(self.factors, key, strict=True)), "place": i + 1, "arm": arm}
            for key, arms in self.__lists.items()
            for i, arm in enumerate(arms)
        ]
        return pd.DataFrame(rows)


def _commitment(proof: Mapping[str, Any]) -> str:
    """HMAC of the proof's list under its salt; the text is JSON with sorted keys, so it can be made by any program."""
    opened = {key: value for key, value in proof.items() if key != "salt"}
    text = json.dumps(opened, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hmac.new(bytes.fromhex(proof["salt"]), text.encode("ascii"), hashlib.sha256).hexdigest()


def verify_randomisation(commitment: str, proof: Mapping[str, Any], allocated: pd.DataFrame | None = None) -> bool:
    """Whether a list shown at unblinding is the one that was committed to, and the allocations were taken from it in order.

    Parameters
    ----------
    commitment : published before the first patient (`Randomisation.commitment`).
    proof : published at unblinding (`Randomisation.proof`), also after a round trip through JSON.
    allocated : table of the allocations in their order, with the columns of the factors and `arm` (`Randomisation.open`).

    Returns
    -------
    bool, True where everything fits.

    Raises
    ------
    IonrtError : a proof that is not of this form.

    References
    ----------
    Commitment by HMAC with a secret salt: Halevi & Micali 1996, doi:10.1007/3-540-68697-5_16; RFC 2104, doi:10.17487/RFC2104.
    """
    try:
        if len(bytes.fromhex(proof["salt"])) != 32:
            raise ValueError("the salt has not 32 bytes")
        same = hmac.compare_digest(_commitment(proof), str(commitment).strip().lower())
        lists = {tuple(one["stratum"]): list(one["arms"]) for one in proof["lists"]}
        factors = list(proof["factors"])
    except (KeyError, TypeError, ValueError) as error:
        raise IonrtError(f"proof: expected salt, ratio, factors and lists as of Randomisation.proof(); {error}") from None
    if allocated is None or not same:
        return same
    absent = [c for c in (*factors, "arm") if c not in allocated]
    if absent:
        raise IonrtError(f"allocated: column {absent[0]!r} is missing; expected {[*factors, 'arm']}")
    keys = [tuple(str(v) for v in row) for row in allocated[factors].itertuples(index=False)]
    taken: dict[tuple, list[str]] = {}
    for key, arm in zip(keys, allocated["arm"], strict=True):
        taken.setdefault(key, []).append(arm)
    return all(key in lists and arms == lists[key][: len(arms)] for key, arms in taken.items())


def permuted_blocks(
    arms: Mapping[str, int],
    *,
    seed: int,
    n_per_stratum: int,
    strata: Mapping[str, Sequence[str]] | None = None,
    block_sizes: Sequence[int] | None = None,
) -> Randomisation:
    """Stratified permuted blocks of randomly varying size.

    In every block each arm appears in its ratio. By default a block holds 2, 3, 4, ... times the sum of the ratios with
    probability 1/2, 1/4, 1/8, ...: as longer blocks are always possible, no open part of the list makes the next allocation
    certain (with a closed set of sizes some are: a third with blocks of 4). Each stratum has a random stream of its own, so
    adding a stratum leaves the others as they were.

    Parameters
    ----------
    arms : ratio per arm, for instance {"photon": 1, "carbon": 2}.
    seed : at least 128 random bits for a real trial (`secret_seed`); any whole number for a simulation.
    n_per_stratum : allocations that each stratum can use at least.
    strata : levels per factor; None for one list.
    block_sizes : closed set of sizes, multiples of the sum of the ratios, drawn with equal probability; None for the
        open-ended default.

    Returns
    -------
    A Randomisation.

    Raises
    ------
    IonrtError
        Block sizes that do not fit the ratio, empty strata, fewer than two arms.

    Examples
    --------
    >>> made = ionrt.trial.permuted_blocks({"photon": 1, "carbon": 2}, seed=7, n_per_stratum=6, block_sizes=[6])
    >>> sorted(made.allocate(f"patient {i}") for i in range(6))  # SYNTHETIC; a whole block holds the ratio 1 : 2
    ['carbon', 'carbon', 'carbon', 'carbon', 'photon', 'photon']
    """
    ratio = _ratio(arms)
    unit = sum(ratio.values())
    sizes, chance = _sizes(block_sizes, unit)
    factors = _factors(strata or {})
    n = limits.count(n_per_stratum, "n_per_stratum", most=100_000)
    seed = limits.count(seed, "seed", least=0)
    combinations = math.prod(len(levels) for levels in factors.values())
    if combinations > MOST_STRATA:
        raise IonrtError(
            f"strata: {combinations} combinations of levels; expected at most {MOST_STRATA}, with patients in each"
        )
    lists: dict[tuple, list[str]] = {}
    for key in itertools.product(*factors.values()):
        rng = np.random.default_rng([seed, *_words(_text(key))])
        chosen: list[str] = []
        while len(chosen) < n:
            size = int(rng.choice(sizes, p=chance))
            block = np.repeat(list(ratio), [r * size // unit for r in ratio.values()])
            chosen += [str(a) for a in rng.permutation(block)]
        lists[key] = chosen
    return Randomisation(lists, list(factors), ratio, seed)


def _sizes(block_sizes: Sequence[int] | None, unit: int) -> tuple[list[int], np.ndarray]:
    """Block sizes and their probabilities; the open-ended default is cut where 2^-40 is left."""
    if block_sizes is None:
        chance = 0.5 ** np.arange(1, 41)
        return [unit * (k + 2) for k in range(40)], chance / chance.sum()
    if isinstance(block_sizes, str) or not isinstance(block_sizes, Sequence):
        raise IonrtError(f"block_sizes: expected a list of multiples of {unit}, the sum of the ratios, got {block_sizes!r}")
    sizes = [limits.count(s, "block size", most=10_000) for s in block_sizes]
    if not sizes or any(s % unit for s in sizes):
        raise IonrtError(f"block_sizes: expected multiples of {unit}, the sum of the ratios, got {sizes}")
    return sizes, np.full(len(sizes), 1.0 / len(sizes))


def _text(key: tuple[str, ...]) -> str:
    """The levels in one text, no two keys the same."""
    return json.dumps(key) if any("|" in level for level in key) else "|".join(key)


def _words(text: str) -> list[int]:
    """A stratum's name as random-stream key, the same on every machine."""
    digest = hashlib.sha256(text.encode()).digest()
    return [int.from_bytes(digest[i : i + 4], "big") for i in range(0, 16, 4)]


def _ratio(arms: Mapping[str, int]) -> dict[str, int]:
    if not isinstance(arms, Mapping) or len(arms) < 2:
        raise IonrtError(
            f"arms: expected a ratio for at least two arms, for instance {{'photon': 1, 'carbon': 2}}, got {arms!r}"
        )
    return {str(name): limits.count(r, f"ratio of {name}", most=100) for name, r in arms.items()}


def _factors(strata: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Factors with their levels; none may be empty."""
    if not isinstance(strata, Mapping) or not all(isinstance(v, (list, tuple)) for v in strata.values()):
        raise IonrtError(f"strata: expected the levels of each factor, for instance {{'centre': ['A', 'B']}}, got {strata!r}")
    factors = {}
    for name, levels in strata.items():
        values = [str(v) for v in levels]
        if not values or len(set(values)) != len(values):
            raise IonrtError(f"strata: factor {name!r} needs distinct levels, got {values}")
        factors[str(name)] = values
    return factors


def minimise(
    patients: pd.DataFrame,
    *,
    arms: Mapping[str, int],
    factors: Sequence[str],
    seed: int,
    probability: float = 0.8,
    weights: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Allocate patients in their order so that the factors stay balanced (Pocock and Simon, with unequal ratios).

    For each arm the imbalance is the weighted sum over factors of the range of (patients of the same level) / ratio if the
    patient went there. The arm with the smallest imbalance has `probability`, or for unequal ratios the biased-coin value
    that keeps the ratio; the others share the rest in their ratio.

    Parameters
    ----------
    patients : one row per patient in order of entry, with the columns of `factors`; later rows do not change earlier
        allocations.
    arms : ratio per arm.
    factors : columns that are balanced, without missing values.
    seed : random seed, kept secret in a real trial.
    probability : for the preferred arm, above its share and at most 1 (1 makes allocations predictable).
    weights : weight per factor, 1 by default.

    Returns
    -------
    The table with a column `arm`.

    Raises
    ------
    IonrtError
        Missing columns or values, and a probability that balances nothing.

    References
    ----------
    Pocock & Simon 1975, doi:10.2307/2529712; Han et al. 2009, doi:10.1002/sim.3710.
    """
    ratio = _ratio(arms)
    names, r = list(ratio), np.array(list(ratio.values()), float)
    columns = [one_of(f, list(patients.columns), what="factor") for f in factors]
    if not columns:
        raise IonrtError("factors: expected at least one column to balance")
    if not patients.columns.is_unique:
        raise IonrtError("patients: two columns have one name")
    if patients[columns].isna().any().any():
        raise IonrtError(f"patients: missing values in {patients[columns].columns[patients[columns].isna().any()].tolist()}")
    if not 1.0 / len(r) < probability <= 1.0:
        raise IonrtError(f"probability: expected more than {1 / len(r):.3f} and at most 1, got {probability!r}")
    weight = np.array([limits.positive((weights or {}).get(f, 1.0), f"weight of {f}") for f in columns])
    counts: dict[tuple[str, Any], np.ndarray] = {}
    rng = np.random.default_rng(limits.count(seed, "seed", least=0))
    chosen = []
    for row in zip(*(stratum_codes(patients, column)[0] for column in columns), strict=True):
        keys = list(zip(columns, row, strict=True))
        seen = np.array([counts.setdefault(key, np.zeros(len(r))) for key in keys])
        p = _coin(seen, r, weight, probability, rng)
        arm = int(rng.choice(len(r), p=p))
        for key in keys:
            counts[key][arm] += 1
        chosen.append(names[arm])
    return patients.assign(arm=chosen)


def _coin(seen: np.ndarray, ratio: np.ndarray, weight: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Allocation probabilities of the next patient; seen: counts of the patient's levels (factor, arm)."""
    after = (seen[None, :, :] + np.eye(ratio.size)[:, None, :]) / ratio
    imbalance = np.ptp(after, axis=2) @ weight
    best = np.flatnonzero(imbalance <= imbalance.min() + 1e-12)
    preferred = best[0] if best.size == 1 else rng.choice(best, p=ratio[best] / ratio[best].sum())
    lowest = int(ratio.argmin())
    # with p for the smallest arm, an arm k gets 1 - (1 - p) (sum of the others) / (sum without the smallest)
    high = 1.0 - (1.0 - probability) * (ratio.sum() - ratio[preferred]) / (ratio.sum() - ratio[lowest])
    p = np.where(np.arange(ratio.size) == preferred, high, (1.0 - high) * ratio / (ratio.sum() - ratio[preferred]))
    return p / p.sum()
