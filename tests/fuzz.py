"""Seeded mutation of what comes from outside, for every reader of files ("door") of the project.

A door test is three things: a seed input, a function that reads it, and an oracle::

    def test_door(tmp_path):
        whole = example.read_bytes()
        def attempt(rng):                              # one try: mutate, read, compare
            (tmp_path / "x.json").write_bytes(fuzz.mutate_bytes(rng, whole)[0])
            return fuzz.complaint(read(tmp_path / "x.json"))   # "" where the result is right; else what is wrong with it
        fuzz.hold(attempt, seeds=(1, 2))

`hold` runs `attempt` some dozen times in continuous integration and ``IONRT_FUZZ=N`` times by hand, with other seeds by
``IONRT_FUZZ_SEED=K`` (K is added to each); it counts what happened in five classes, appends the counts to the file named in
``IONRT_FUZZ_TABLE``, and fails on the last three:

clean    a result about which the oracle has nothing to say
refused  an `IonrtError`, whatever it says (its first line must not be empty)
raw      any other exception: a library's, or a slip of ours
silent   a result with which the oracle finds fault, and about which nothing was said
hang     longer than `limit` seconds of processor time

`warned(call)` gives the result and the text of all warnings: an oracle may forgive a change that was announced.
A mutation that makes another *legal* value cannot be told from the truth (a 1 that became a 7): mutators return what they did
and whether the outcome may be legal, so that an oracle can ask for equality, refusal or a word where it is not.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.quantities import IonrtError

CLASSES = ("clean", "refused", "raw", "silent", "hang")
TRIES = 60  # in continuous integration; IONRT_FUZZ=N for more
LIMIT = 10.0  # seconds of processor time for one try

# what numbers turn into: not numbers, not finite, absurd, of the wrong form
BAD_NUMBERS = (
    "-0",
    "1e308",
    "9" * 12,
    "nan",
    "inf",
    "-inf",
    "1e309",
    "1e300",
    "-1e38",
    "abc",
    "1,5",
    "0x10",
    "1.2.3",
    "",
    " ",
    "--5",
    "1e",
    "٣",
    "\x00",
    "A" * 80,
)
BAD_VALUES: tuple[Any, ...] = (
    None, "", " ", "nan", float("nan"), float("inf"), -1, 0, 1e300, -(10**30), [], {}, [[]], "\x00", "A" * 5000, True, [1, 2],
    {"a": 1},    "한글 漢字 かな", "../../x", "<script>", "{boost}", "'; --",
)  # fmt: skip


class Hang(BaseException):
    """Raised by the timer; not an Exception, so that no reader swallows it."""


@dataclass
class Tally:
    """Counts per class and the failing examples: (seed, number of the try, what happened)."""

    counts: Counter = field(default_factory=Counter)
    examples: list[tuple[int, int, str]] = field(default_factory=list)

    def __str__(self) -> str:
        return " ".join(f"{name} {self.counts[name]}" for name in CLASSES)

    @property
    def bad(self) -> int:
        """Number of tries that must not happen."""
        return sum(self.counts[name] for name in CLASSES[2:])


def tries(default: int = TRIES) -> int:
    """How many mutations per seed: `default`, or the number in IONRT_FUZZ."""
    return int(os.environ.get("IONRT_FUZZ") or default)


def run(attempt: Callable[[np.random.Generator], str], *, seeds: Iterable[int] = (1,), n: int | None = None) -> Tally:
    """Run `attempt` n times per seed, each with a generator of its own, so that one try can be repeated alone."""
    tally, fresh = Tally(), int(os.environ.get("IONRT_FUZZ_SEED") or 0)
    for seed in (fresh + s for s in seeds):
        for k in range(tries() if n is None else n):
            kind, said = _once(attempt, seed, k)
            tally.counts[kind] += 1
            if kind in CLASSES[2:]:
                tally.examples.append((seed, k, f"{kind}: {said}"))
    return tally


def hold(attempt: Callable[[np.random.Generator], str], *, seeds: Iterable[int] = (1,), n: int | None = None) -> Tally:
    """`run`, and fail with the first examples where a try was raw, silent or a hang."""
    tally = run(attempt, seeds=seeds, n=n)
    if table := os.environ.get("IONRT_FUZZ_TABLE"):
        with open(table, "a", encoding="utf-8") as file:
            file.write(f"{os.environ.get('PYTEST_CURRENT_TEST', '').split(' ')[0]}\t{tally}\n")
    shown = "\n".join(f"  seed {s}, try {k}: {what}" for s, k, what in tally.examples[:8])
    assert tally.bad == 0, f"{tally}\n{shown}"
    assert tally.counts["clean"] + tally.counts["refused"] > 0
    return tally


def again(attempt: Callable[[np.random.Generator], str], seed: int, k: int) -> str:
    """One try repeated, its exception let through: for the debugger."""
    return attempt(np.random.default_rng((seed, k)))


def _once(attempt: Callable[[np.random.Generator], str], seed: int, k: int) -> tuple[str, str]:
    start = time.process_time()
    try:
        with _alarm(LIMIT), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = attempt(np.random.default_rng((seed, k)))
    except IonrtError as error:
        return ("refused", "") if str(error).strip() else ("raw", "IonrtError without a message")
    except Hang:
        return "hang", f"more than {LIMIT:g} s"
    except Exception as error:
        place = [f for f in traceback.extract_tb(error.__traceback__) if "ionrt" in f.filename and "tests" not in f.filename]
        where = f"{os.path.basename(place[-1].filename)}:{place[-1].lineno}" if place else "?"
        return "raw", f"{type(error).__name__} at {where}: {str(error)[:160]}"
    if time.process_time() - start > LIMIT:
        return "hang", f"{time.process_time() - start:.0f} s"
    return ("silent", said) if said else ("clean", "")


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Interrupt after that much processor time; where the platform has no such timer the time is measured afterwards."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)


def warned(call: Callable[[], Any]) -> tuple[Any, str]:
    """The result of `call` and the text of every warning it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, "\n".join(str(w.message) for w in caught)


# --- oracles


def complaint(result: Any, *, largest: float = 1e15, nan: Iterable[str] = ()) -> str:
    """What is not finite or absurdly large in a result, by name; "" where nothing is. Names in `nan` may hold NaN.

    Looks into arrays, tables, Datasets (with coordinates), dataclasses, dicts and lists."""
    allowed = set(nan)
    for name, values in _leaves(result, ""):
        numbers = np.asarray(values)
        if numbers.dtype.kind not in "fiuc" or not numbers.size:
            continue
        last = name.rsplit(".", 1)[-1]
        if np.isinf(numbers).any() or (np.isnan(numbers).any() and last not in allowed):
            return f"{name} is not finite"
        most = float(np.nan_to_num(np.abs(numbers)).max())
        if most > largest:
            return f"{name} is absurd ({most:g})"
    return ""


def difference(one: Any, other: Any, *, rtol: float = 1e-6) -> str:
    """The first thing by which two results differ ("" where they are the same): names, shapes, texts, numbers."""
    a, b = dict(_leaves(one, "")), dict(_leaves(other, ""))
    if a.keys() != b.keys():
        return f"present in one only: {sorted(a.keys() ^ b.keys())[:4]}"
    for name, values in a.items():
        x, y = np.asarray(values), np.asarray(b[name])
        if x.shape != y.shape:
            return f"{name}: shape {x.shape} became {y.shape}"
        if x.dtype.kind in "fiuc" and y.dtype.kind in "fiuc":
            if not np.allclose(x, y, rtol=rtol, atol=1e-9, equal_nan=True):
                return f"{name} changed"
        elif not np.array_equal(x.astype(str), y.astype(str)):
            return f"{name} changed"
    return ""


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, xr.Dataset):
        for key in value.variables:
            yield f"{name}.{key}", value[key].values
    elif isinstance(value, xr.DataArray):
        yield name or str(value.name), value.values
        for key in value.coords:
            yield f"{name}.{key}", value[key].values
    elif isinstance(value, pd.DataFrame):
        for key in value.columns:
            yield f"{name}.{key}", value[key].to_numpy()
    elif hasattr(value, "__dataclass_fields__"):
        for key in value.__dataclass_fields__:
            yield from _leaves(getattr(value, key), f"{name}.{key}")
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _leaves(one, f"{name}.{key}")
    elif isinstance(value, (list, tuple)) and not all(isinstance(v, (int, float)) for v in value):
        for i, one in enumerate(value):
            yield from _leaves(one, f"{name}[{i}]")
    else:
        yield name, value


# --- mutators: (mutant, what was done, whether the outcome may be legal)


def mutate_bytes(rng: np.random.Generator, whole: bytes) -> tuple[bytes, str, bool]:
    """Damage to any file: bits, bytes, cuts, doubled or lost pieces, numbers in text replaced."""
    data, n = bytearray(whole), len(whole)
    at = int(rng.integers(n))
    size = int(min(n - at, rng.integers(1, 65)))
    kind = ("bit", "byte", "cut", "lost", "double", "zero", "noise", "number", "swap")[rng.integers(9)]
    if kind == "bit":
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == "byte":
        data[at] = int(rng.integers(256))
    elif kind == "cut":
        del data[at:]
    elif kind == "lost":
        del data[at : at + size]
    elif kind == "double":
        data[at:at] = data[at : at + size]
    elif kind == "zero":
        data[at : at + size] = bytes(size)
    elif kind == "noise":
        data[at : at + size] = rng.bytes(size)
    elif kind == "swap":
        other = int(rng.integers(n))
        data[at], data[other] = data[other], data[at]
    else:
        data = bytearray(mutate_text(rng, whole.decode("latin-1"))[0].encode("latin-1", "replace"))
    return bytes(data), f"{kind} at {at}", True


def mutate_text(rng: np.random.Generator, text: str) -> tuple[str, str, bool]:
    """One number of a text file becomes something else, or a line or word is lost, doubled or moved."""
    import re

    numbers = list(re.finditer(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", text))
    lines = text.splitlines(keepends=True)
    kind = ("number", "number", "lost", "double", "swap", "cut")[rng.integers(6)]
    if kind == "number" and numbers:
        hit = numbers[rng.integers(len(numbers))]
        bad = BAD_NUMBERS[rng.integers(len(BAD_NUMBERS))]
        return text[: hit.start()] + bad + text[hit.end() :], f"{hit.group()} -> {bad!r}", False
    i, j = (int(v) for v in rng.integers(max(len(lines), 1), size=2))
    if kind == "lost":
        del lines[i : i + 1]
    elif kind == "double":
        lines[i:i] = lines[i : i + 1]
    elif kind == "swap" and lines:
        lines[i], lines[j] = lines[j], lines[i]
    else:
        return text[: int(rng.integers(len(text) + 1))], "cut", True
    return "".join(lines), f"{kind} line {i}", True


def mutate_table(rng: np.random.Generator, whole: bytes) -> bytes:
    """A CSV file with what spreadsheets, editors and pranks make of one."""
    text = whole.decode("utf-8", "replace")
    kind = rng.integers(13)
    if kind < 4:
        return mutate_text(rng, text)[0].encode()
    at = int(rng.integers(len(text) + 1))
    odd = (
        '"', '""', "\x00", "\r", ",", ";", "\t", "\n\n", "\ufeff", "\u2028", "\u202e", "=1+1", "\x1b[2J", "{x}", "<b>",
        "é" * 300, "," * 5000, "1e308", "-0", "1e999", "9" * 400, "NaN", "NA", "#REF!", "\ud7ff",
    )  # fmt: skip
    if kind < 8:
        return (text[:at] + odd[rng.integers(len(odd))] + text[at:]).encode()
    first, _, rest = text.partition("\n")
    names = first.split(",")
    wide = ",".join([*names, *(f"c{i}" for i in range(20_000))]) + "\n" + rest
    return (
        text.encode("utf-16"),
        wide.encode(),
        (",".join(names[:1] * 2 + names[1:]) + "\n" + rest).encode(),
        text.replace(",", ";").encode(),
        (first + "\n").encode() * int(rng.integers(3)),
    )[kind - 8]


def mutate_json(rng: np.random.Generator, whole: bytes) -> bytes:
    """JSON with keys twice, numbers that are none, and depth without end."""
    text = whole.decode()
    kind = rng.integers(8)
    at = int(rng.integers(len(text)))
    if kind == 0:
        return text.replace('":', '": NaN, "x":', 1).encode()
    if kind == 1:
        return (text[:at] + "[" * 100_000 + text[at:]).encode()
    if kind == 2:
        return text.replace("{", '{"a": 1, "a": 1e999, ', 1).encode()
    if kind == 3:
        return text.encode("utf-16")
    if kind == 4:
        return ('{"exercise":' * 20_000 + "1").encode()
    return mutate_bytes(rng, whole)[0]


def mutate_tree(rng: np.random.Generator, tree: Any) -> tuple[Any, str, bool]:
    """One node of JSON- or YAML-like data is replaced by an odd value, removed, doubled or renamed."""
    tree = deepcopy(tree)
    places = list(_nodes(tree))
    if not places:
        return BAD_VALUES[rng.integers(len(BAD_VALUES))], "all", True
    parent, key = places[rng.integers(len(places))]
    kind = ("value", "value", "value", "lost", "double", "rename", "text")[rng.integers(7)]
    if kind == "lost":
        del parent[key]
    elif kind == "double" and isinstance(parent, list):
        parent.insert(key, deepcopy(parent[key]))
    elif kind == "rename" and isinstance(parent, dict):
        parent[f"{key}_"] = parent.pop(key)
    elif kind == "text":
        parent[key] = str(parent[key])
    else:
        parent[key] = deepcopy(BAD_VALUES[rng.integers(len(BAD_VALUES))])
    return tree, f"{kind} at {key!r}", True


def _nodes(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _nodes(tree[key])


def mutate_dicom(
    rng: np.random.Generator, data: Any, *, also: Callable[[Any], bool] = lambda element: True
) -> tuple[Any, str, bool]:
    """One element of a pydicom Dataset, at any depth (`also` narrows the choice), gets an odd value, another type, or goes.

    The odd values are written as raw bytes, as a damaged or careless file holds them, so that nothing is checked on the way."""
    from pydicom.dataelem import RawDataElement
    from pydicom.dataset import Dataset
    from pydicom.tag import Tag

    data = deepcopy(data)
    places = [(d, e) for d, e in _elements(data) if also(e)]
    parent, element = places[rng.integers(len(places))]
    name, vr = element.keyword or str(element.tag), element.VR

    def raw(value: bytes, vr: str = vr) -> None:
        parent[Tag(element.tag)] = RawDataElement(Tag(element.tag), vr, len(value), value, 0, False, True, True)

    if vr == "SQ":
        kind = ("lost", "empty", "double", "nonsense", "hollow", "deep")[rng.integers(6)]
        if kind == "lost":
            del parent[element.tag]
        elif kind == "empty":
            element.value = []
        elif kind == "double" and len(element.value):
            element.value.append(deepcopy(element.value[rng.integers(len(element.value))]))
        elif kind == "hollow" and len(element.value):
            element.value[rng.integers(len(element.value))] = Dataset()
        elif kind == "deep":  # a thousand items within each other, of undefined length
            raw(b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff" * 1000, "SQ")
        else:
            raw(b"not a sequence", "LO")
        return data, f"{name} {kind}", kind in ("double",)
    kind = ("bad", "bad", "bad", "bad", "lost", "empty", "several", "one", "noise", "vr", "stretch")[rng.integers(11)]
    if kind == "lost":
        del parent[element.tag]
    elif kind == "empty":
        raw(b"")
    elif kind == "noise":
        raw(rng.bytes(int(rng.integers(1, 40)) * 2))
    elif kind == "vr":
        other = ("UN", "LO", "US", "FD", "OB", "PN", "AT")[rng.integers(7)]
        raw(_bytes_of(element), other)
        kind += " " + other
    elif vr in ("OW", "OB", "OF", "UN"):
        raw(rng.bytes(int(rng.integers(0, 2000)) * 2))
        kind = "noise"
    elif kind == "several":
        raw(b"\\".join([_bytes_of(element).strip()] * 2))
    elif kind == "one":
        raw(_bytes_of(element).split(b"\\")[0])
    elif kind == "stretch":
        raw(_bytes_of(element) + b"9" * int(rng.integers(1, 6)))
    elif vr in ("US", "SS", "UL", "SL", "FL", "FD"):
        size = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8}[vr]
        bad = (b"\xff" * size, b"\x00" * size, rng.bytes(size), b"\x00" * (size - 1) + b"\x7f", b"\x01" * (size * 3))
        if vr in ("FL", "FD"):
            floats = np.array([np.nan, np.inf, -np.inf, 1e38], "<f4" if vr == "FL" else "<f8")
            bad = (*bad, *(v.tobytes() for v in floats))
        raw(bad[rng.integers(len(bad))])
    else:
        bad_text = BAD_NUMBERS[rng.integers(len(BAD_NUMBERS))]
        parts = _bytes_of(element).split(b"\\")
        parts[rng.integers(len(parts))] = bad_text.encode("utf-8")
        raw(b"\\".join(parts))
        kind = f"bad {bad_text!r}"
    return data, f"{name} {kind}", vr not in ("DS", "IS", "FL", "FD", "UI") or kind in ("one", "stretch", "noise", "bad '-0'")


def _elements(data: Any) -> Iterator[tuple[Any, Any]]:
    for element in data:
        yield data, element
        if element.VR == "SQ":
            for item in element.value:
                yield from _elements(item)


def _bytes_of(element: Any) -> bytes:
    """The value about as a file holds it."""
    value = element.value
    if isinstance(value, bytes):
        return value
    if element.VR in ("US", "SS", "UL", "SL", "FL", "FD"):
        kind = {"US": "<u2", "SS": "<i2", "UL": "<u4", "SL": "<i4", "FL": "<f4", "FD": "<f8"}[element.VR]
        return np.asarray(value, kind).tobytes()
    parts = value if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue" else [value]
    return "\\".join("" if v is None else str(v) for v in parts).encode("utf-8")
