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
import re
import signal
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

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
    "\uff11\uff12",  # full-width digits
    "\u22125",  # a typographic minus
    "1_0",
    "1 000",
    "1'000.5",
    "1,000.5",
    "5-Jan",  # what a spreadsheet makes of 5.1
    "#VALUE!",
    "50%",
    "3 mm",
    "1e-320",
)
BAD_VALUES: tuple[Any, ...] = (
    None, "", " ", "nan", float("nan"), float("inf"), -1, 0, 1e300, -(10**30), [], {}, [[]], "\x00", "A" * 5000, True, [1, 2],
    {"a": 1}, "한글 漢字 かな", "../../x", "<script>", "{boost}", "'; --", 1e-300, 5e-324, -0.0, 2**63, 1e9, "1,5",
    "\uff11\uff12", "true", "1e3", "e\u0301", "\ud7ff", {"": ""}, [None], [{}], "2024-02-30", 1.5,
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


def complaint(result: Any, *, largest: float = 1e15, nan: Iterable[str] | None = ()) -> str:
    """What is not finite or absurdly large in a result, by name; "" where nothing is. Names in `nan` may hold NaN (None: all).

    Looks into arrays, tables, Datasets (with coordinates), dataclasses, dicts and lists."""
    allowed = None if nan is None else set(nan)
    for name, values in _leaves(result, ""):
        numbers = np.asarray(values)
        if numbers.dtype.kind not in "fiuc" or not numbers.size:
            continue
        last = name.rsplit(".", 1)[-1]
        if np.isinf(numbers).any() or (allowed is not None and np.isnan(numbers).any() and last not in allowed):
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
    kind = (
        "bit", "byte", "cut", "lost", "double", "zero", "noise", "number", "swap", "ones", "move", "turned", "tail", "front",
        "lines", "seven",
    )[rng.integers(16)]  # fmt: skip
    if kind == "ones":
        data[at : at + size] = b"\xff" * size
    elif kind == "move":
        piece = data[at : at + size]
        del data[at : at + size]
        other = int(rng.integers(len(data) + 1))
        data[other:other] = piece
    elif kind == "turned":
        data[at : at + size] = data[at : at + size][::-1]
    elif kind == "tail":
        data += (rng.bytes(size), bytes(size), whole[:size], b"\x1a", b"\r\n")[rng.integers(5)]
    elif kind == "front":
        data[:0] = (b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b" ", b"HTTP/1.1 200 OK\r\n\r\n", bytes(128))[rng.integers(6)]
    elif kind == "lines":  # what a transfer as text makes of line ends
        old, new = ((b"\n", b"\r\n"), (b"\r\n", b"\n"), (b"\n", b"\r"))[rng.integers(3)]
        data = data.replace(old, new)
    elif kind == "seven":
        data = bytearray(b & 0x7F for b in whole)
    elif kind == "bit":
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
    numbers = list(re.finditer(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", text))
    lines = text.splitlines(keepends=True)
    kind = ("number", "number", "lost", "double", "swap", "cut", "scale", "commas")[rng.integers(8)]
    if kind == "scale" and numbers:  # mm for cm, Gy for cGy, another sign
        hit = numbers[rng.integers(len(numbers))]
        factor = (10.0, 0.1, 100.0, 0.01, 1000.0, -1.0)[rng.integers(6)]
        return (
            text[: hit.start()] + f"{float(hit.group()) * factor:.10g}" + text[hit.end() :],
            f"{hit.group()} x {factor:g}",
            True,
        )
    if kind == "commas":
        return re.sub(r"(?<=\d)\.(?=\d)", ",", text), "decimal commas", True
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
    kind = rng.integers(25)
    if kind < 4:
        return mutate_text(rng, text)[0].encode("utf-8", "replace")
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
    lines = text.splitlines()
    cells = [line.split(",") for line in lines]
    k = int(rng.integers(len(lines)))
    turned = rng.permutation(max(len(row) for row in cells))
    mixed = [
        line.encode("cp949" if i == k else "utf-8", "replace")
        for i, line in enumerate([*lines, "한글" + "," * (len(names) - 1)])
    ]
    serial = re.sub(r"\b\d{4}-\d\d-\d\d\b", lambda hit: str(int(rng.integers(20000, 60000))), text)
    return (
        text.encode("utf-16"),
        wide.encode(),
        (",".join(names[:1] * 2 + names[1:]) + "\n" + rest).encode(),
        text.replace(",", ";").encode(),
        (first + "\n").encode() * int(rng.integers(3)),
        b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),  # from here on: as spreadsheets and editors save it
        text.replace("\n", "\r").encode(),
        ("sep=;\n" + re.sub(r"(?<=\d)\.(?=\d)", ",", text.replace(",", ";"))).encode(),
        re.sub(r"(?<=\d)\.(?=\d)", ",", text.replace(",", ";")).encode("utf-8-sig"),
        "\n".join(f"{line}," for line in lines).encode(),
        "\n".join(",".join(f'"{cell}"' for cell in row) for row in cells).encode(),
        "\n".join(",".join(row[i] for i in turned if i < len(row)) for row in cells).encode(),
        "\n".join([lines[0], *lines[:0:-1]]).encode(),
        (text + "Total" + "," * (len(names) - 1) + "\n").encode(),
        (",".join(f" {name.upper()} " for name in names) + "\n" + rest).encode(),
        b"\n".join(mixed),
        (serial if serial != text else text.encode("utf-16-le").decode("latin-1")).encode("latin-1", "replace"),
    )[kind - 8]


def mutate_frame(rng: np.random.Generator, frame: pd.DataFrame) -> pd.DataFrame:
    """A cell, a column or a row of a frame becomes something else."""
    frame = frame.astype(object).copy()
    row, column = int(rng.integers(len(frame))), int(rng.integers(frame.shape[1]))
    kind = ("cell", "cell", "cell", "swap", "lost", "double", "name", "column", "type", "turned", "same")[rng.integers(11)]
    bad = (*BAD_NUMBERS, *BAD_VALUES)
    if kind == "cell":
        frame.iat[row, column] = bad[rng.integers(len(bad))]
    elif kind == "swap":
        other = int(rng.integers(frame.shape[1]))
        frame.iat[row, column], frame.iat[row, other] = frame.iat[row, other], frame.iat[row, column]
    elif kind == "lost":
        frame = frame.drop(columns=frame.columns[column])
    elif kind == "double":
        frame = pd.concat([frame, frame.iloc[[row]]])
    elif kind == "name":
        frame.columns = [*frame.columns[:column], frame.columns[column - 1], *frame.columns[column + 1 :]]
    elif kind == "type":
        with suppress(Exception):  # what pandas itself cannot make is no input
            column_type = ("float32", "category", "Int64", "datetime64[ns]", "timedelta64[ns]", "bool", "complex")[
                rng.integers(7)
            ]
            frame[frame.columns[column]] = frame[frame.columns[column]].astype(column_type)
    elif kind == "turned":  # other order of the rows, with the index of the old one, or a text as index
        frame = frame.iloc[::-1] if rng.integers(2) else frame.set_index(frame.columns[column], drop=False)
    elif kind == "same":
        frame[frame.columns[column]] = [frame.iat[row, column]] * len(frame)
    else:
        frame[frame.columns[column]] = [bad[rng.integers(len(bad))]] * len(frame)
    return frame


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
    kind = ("value", "value", "value", "lost", "double", "rename", "text", "scale", "swap", "nest", "case")[rng.integers(11)]
    if kind == "lost":
        del parent[key]
    elif kind == "scale" and isinstance(parent[key], (int, float)) and not isinstance(parent[key], bool):
        parent[key] *= (10, 0.1, 1000, 0.001, -1, 1.0000001)[rng.integers(6)]
    elif kind == "swap":  # two places change their values; one may lie within the other
        other, place = places[rng.integers(len(places))]
        one, two = deepcopy(parent[key]), deepcopy(other[place])
        parent[key], other[place] = two, one
    elif kind == "nest":
        parent[key] = ([parent[key]], {key: parent[key]})[rng.integers(2)]
    elif kind == "case" and isinstance(parent, dict) and isinstance(key, str):
        parent[key.swapcase()] = parent.pop(key)
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
    data = deepcopy(data)
    places = [(d, e) for d, e in _elements(data) if also(e)]
    parent, element = places[rng.integers(len(places))]
    name, vr = element.keyword or str(element.tag), element.VR
    if whole := ("charset", "private", "syntax", "class")[rng.integers(4)] if not rng.integers(16) else "":
        _mutate_whole(rng, data, parent, whole)
        return data, whole, True

    def raw(value: bytes, vr: str = vr) -> None:
        parent[Tag(element.tag)] = RawDataElement(Tag(element.tag), vr, len(value), value, 0, False, True, True)

    if vr == "SQ":
        kind = ("lost", "empty", "double", "nonsense", "hollow", "deep", "turned", "fewer", "within")[rng.integers(9)]
        if kind == "lost":
            del parent[element.tag]
        elif kind == "turned":
            element.value = list(element.value)[::-1]
        elif kind == "fewer" and len(element.value):
            del element.value[int(rng.integers(len(element.value)))]
        elif kind == "within" and len(element.value):  # a sequence inside its own item
            element.value[0][element.tag] = deepcopy(element)
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
        return data, f"{name} {kind}", kind in ("double", "turned", "fewer", "within")
    kind = (
        "bad", "bad", "bad", "bad", "lost", "empty", "several", "one", "noise", "vr", "stretch", "scale", "other", "turned",
        "spaces",
    )[rng.integers(15)]  # fmt: skip
    if kind == "scale" and vr in ("DS", "IS", "FL", "FD", "US", "SS", "UL", "SL"):  # cm for mm, cGy for Gy, another sign
        factor = (10.0, 0.1, 0.001, -1.0, 1.001)[rng.integers(5)]
        values = np.atleast_1d(np.asarray(element.value if element.value is not None else [], float)) * factor
        kinds = {"US": "<u2", "SS": "<i2", "UL": "<u4", "SL": "<i4", "FL": "<f4", "FD": "<f8"}
        whole_numbers = vr in ("IS", "US", "SS", "UL", "SL")
        text = "\\".join(str(int(v)) if whole_numbers else f"{v:.8g}" for v in values)
        raw(text.encode() if vr in ("DS", "IS") else values.astype("i8").astype(kinds[vr]).tobytes() if whole_numbers
            else values.astype(kinds[vr]).tobytes())  # fmt: skip
        kind += f" {factor:g}"
    elif kind == "other":  # the value of another element of its kind
        same = [e for _, e in places if vr == e.VR]
        raw(_bytes_of(same[rng.integers(len(same))]))
    elif kind == "turned":
        raw(b"\\".join(_bytes_of(element).split(b"\\")[::-1]))
    elif kind == "spaces":
        raw(b"  " + _bytes_of(element) + b" \0")
    elif kind == "lost":
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
    legal = ("one", "stretch", "noise", "bad '-0'", "bad '1e-320'", "other", "turned", "spaces")
    return data, f"{name} {kind}", vr not in ("DS", "IS", "FL", "FD", "UI") or kind in legal or kind.startswith("scale")


def _mutate_whole(rng: np.random.Generator, data: Any, parent: Any, kind: str) -> None:
    """What concerns a file as a whole: its character set, a vendor's elements, how and as what it says it was written."""
    if kind == "charset":
        sets = (
            "ISO_IR 192",
            "\\ISO 2022 IR 149",
            "ISO_IR 13",
            "\\ISO 2022 IR 87",
            "ISO_IR 100",
            "GB18030",
            "nonsense",
            "ISO_IR 192\\x",
        )
        data.SpecificCharacterSet = sets[rng.integers(len(sets))].split("\\")
        names = [d for d, e in _elements(data) if e.keyword == "ROIName"] or [data]
        code = ("utf-8", "euc_kr", "shift_jis", "latin-1", "iso2022_jp")[rng.integers(5)]
        where = names[rng.integers(len(names))]
        tag, value = Tag("ROIName" if "ROIName" in where else "SeriesDescription"), "간 肝 Lébér".encode(code, "ignore")
        where[tag] = RawDataElement(tag, "LO", len(value), value, 0, False, True, True)
    elif kind == "private":
        block = parent.private_block(0x3249, "Vendor of Something", create=True)
        vr, value = (("LO", "text"), ("UN", rng.bytes(8)), ("OB", rng.bytes(9)), ("FD", float("nan")), ("DS", "1"))[
            rng.integers(5)
        ]
        block.add_new(int(rng.integers(256)), vr, value)
    elif kind == "syntax":
        syntaxes = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90", "1.2.3", "")
        data.file_meta.TransferSyntaxUID = syntaxes[rng.integers(len(syntaxes))]
    else:
        classes = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.481.5", "1.2.3", "")
        data.SOPClassUID = classes[rng.integers(len(classes))]
        if rng.integers(2):
            data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID


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
