"""The allow-list of de-identification: which attributes may stay, what is a regular value, and the bytes of one."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from ionrt.patient.deid.identifiers import standard_vr
from ionrt.quantities import IonrtError

OBJECTS = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.481.2": "RTDOSE",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
    "1.2.840.10008.5.1.4.1.1.481.5": "RTPLAN",
    "1.2.840.10008.5.1.4.1.1.481.8": "RTPLAN",
    "1.2.840.10008.5.1.4.1.1.66.1": "REG",
}
BINARY = {"US": "u2", "SS": "i2", "US or SS": "i2", "UL": "u4", "SL": "i4", "FL": "f4", "FD": "f8", "AT": "u2", "OW": "u1"}
PLANES = frozenset(("AXIAL", "REFORMATTED", "MPR", "AVERAGE", "VOLUME", "OTHER"))  # third value of the image type
NUMBER = rb" *[+-]?(?:\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})(?:[eE][+-]?\d{1,3})? *"
DECIMALS = re.compile(NUMBER + rb"(?:\\" + NUMBER + rb")*")


@dataclass(frozen=True)
class Rule:
    """What the value of one attribute must be."""

    name: str
    arguments: tuple[str, ...]
    must: bool
    vr: str


def expected(rule: Rule) -> str:
    """A rule in words, for messages; they never show the value."""
    if rule.name == "number":
        low, high, *count = rule.arguments
        return f"{count[0] if count else ''} finite numbers from {low} to {high}".strip()
    return {"terms": "a defined term of the standard", "label": "a number", "uid": "a UID"}.get(rule.name, rule.name)


@cache
def allowed(kind: str, place: str) -> dict[int, Rule]:
    """Tag to rule for one kind of object and the sequence around (- at the top)."""
    with (resources.files("ionrt.patient") / "tables" / "deidentify.csv").open() as file:
        rows = list(csv.reader(line for line in file if not line.startswith("#")))[1:]
    found = {}
    for kinds, places, rule, attributes in rows:
        if (kinds != "all" and kind not in kinds.split()) or place not in places.split():
            continue
        name, *arguments = rule.split(":")
        values = tuple(arguments[0].split("|")) if name.startswith("terms") else tuple(arguments)
        for keyword in attributes.split():
            tag = int(Tag(keyword))
            found[tag] = Rule(name.rstrip("!"), values, name.endswith("!"), dictionary_VR(tag))
    return found


def regular(raw: bytes, rule: Rule) -> bool:
    """Whether a value is valid for its VR and in range, or made of defined terms; empty is regular."""
    if not raw:
        return True
    if rule.name == "terms":
        return all(part.strip(b" \0").decode("latin-1") in (*rule.arguments, "") for part in raw.split(b"\\"))
    values = numbers(raw, rule)
    if values is None or not values.size:
        return False
    low, high = (float(v) for v in rule.arguments[:2])
    count = rule.arguments[2] if len(rule.arguments) > 2 else ""
    if count and (values.size % int(count[:-1]) if count.endswith("n") else values.size != int(count)):
        return False
    return bool(np.isfinite(values).all() and low <= values.min() and values.max() <= high)


def numbers(raw: bytes, rule: Rule) -> np.ndarray | None:
    """The numbers in a value, None where it holds something else."""
    if rule.vr in BINARY:
        code = np.dtype("<" + BINARY[rule.vr])
        return np.frombuffer(raw, code).astype(float) if len(raw) % code.itemsize == 0 else None
    if not DECIMALS.fullmatch(raw):
        return None
    return np.array(raw.split(b"\\"), dtype="S").astype(float)


def stored(data: Dataset, tag: int, vr: str) -> bytes:
    """The bytes of an element in little endian, without what pads them to even length."""
    try:
        element = data.get_item(tag)
        value = element.value
    except Exception as error:  # a type of value that pydicom does not know
        raise IonrtError(f"{keyword_for_tag(tag)} cannot be read; the file is damaged, export it again") from error
    code = "u2" if vr == "US or SS" else BINARY.get(vr)
    if isinstance(element, RawDataElement) and isinstance(value, bytes):
        declared = element.VR not in (None, "UN", vr, "US", "SS", "OB", "OW") and (code or element.VR in BINARY)
        if declared:
            return b"?"  # a number that is declared as a text, or the reverse, is no number
        if code and not element.is_little_endian and len(value) % int(code[1]) == 0:
            value = np.frombuffer(value, f">{code}").astype(f"<{code}").tobytes()
        return value if code else value.strip(b" \0")
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    many = value if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue" else [value]
    if code:
        try:
            pairs = [half for v in many for half in divmod(int(v), 0x10000)] if vr == "AT" else many
            return np.array(pairs, f"<{code}").tobytes()
        except (ValueError, TypeError, OverflowError):
            return b"?"
    return "\\".join(str(v) for v in many).encode("utf-8", "surrogateescape").strip(b" \0")


def text(data: Dataset, keyword: str) -> str:
    """A short text of an object, "" where it is absent."""
    tag = Tag(keyword)
    return stored(data, tag, dictionary_VR(tag)).decode("latin-1").strip(" \0") if tag in data else ""


def sequence(data: Dataset, tag: BaseTag, file: str) -> list[Dataset]:
    """Items of a sequence; a damaged one is refused."""
    try:
        value = data[tag].value
        found = list(value or ())
    except Exception as error:  # whatever a damaged sequence makes the parser raise
        raise IonrtError(f"{file}: {keyword_for_tag(tag)} cannot be read; the file is damaged, export it again") from error
    if not all(isinstance(item, Dataset) for item in found):
        raise IonrtError(f"{file}: {keyword_for_tag(tag)} holds no items; the file is damaged, export it again")
    return found


def payload(data: Dataset, kind: str, file: str, place: str = "-") -> Iterator[bytes]:
    """All values without which an object would be of no use, in their order, and the number of items of each sequence."""
    for tag, rule in sorted(allowed(kind, place).items()):
        if tag not in data:
            continue
        if rule.name == "items":
            parts = sequence(data, Tag(tag), file)
            yield b"%08X %d" % (tag, len(parts))
            for item in parts:
                yield from payload(item, kind, file, keyword_for_tag(tag))
        elif rule.must and rule.name in ("number", "terms"):
            yield b"%08X " % tag + stored(data, tag, rule.vr)


def left_out(data: Dataset, kind: str) -> list[str]:
    """Keywords of the standard's sequences at the top of an object that have no place in the allow-list."""
    tags = [int(tag) for tag in data.keys() if int(tag) not in allowed(kind, "-") and not tag.is_private]  # noqa: SIM118
    return sorted(keyword_for_tag(tag) for tag in tags if standard_vr(tag) == "SQ")
