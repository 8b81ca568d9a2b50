"""Copies of objects that hold what may leave the hospital: each kind of value as the allow-list says."""

from __future__ import annotations

import datetime
import hmac
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import cast

import numpy as np
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr._concepts_dict import concepts
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID_dictionary

from ionrt.patient.deid.allowlist import (
    BINARY,
    OBJECTS,
    PLANES,
    Rule,
    allowed,
    expected,
    regular,
    sequence,
    stored,
    text,
)
from ionrt.patient.deid.identifiers import Identifiers
from ionrt.patient.dicom_dose import COMMENTS
from ionrt.patient.names import nomenclature
from ionrt.patient.writing.objects import coded
from ionrt.quantities import LET_DEFINITIONS, IonrtError

TARGET = re.compile(r"(i?(?:GTV|CTV)|ITV|PTV)([pn]?\d{0,2})((?:_(?:Low|Mid|High|\d{3,5}))?)", re.IGNORECASE)
KERNEL = re.compile(
    r"(?:[BHTUC]|Br|Bv|Bl|Bf|Hr|Hv|Hc|Hp|Ur|Qr|Sa|Sd|I|J)\d{2}[a-z]{0,2}(?:\\[1-5])?|FC\d{2}|FL\d{2}|Y[A-E]|[A-FL]"
    r"|STANDARD|SOFT|BONE|BONEPLUS|LUNG|DETAIL|EDGE|CHEST"
)
# names of devices that are no more than a kind and a number
DEVICE = re.compile(
    r"(?:RS|RaShi|RangeShifter|Snout|S|Magnet|T|Tune)?[ _-]?(?:\d{1,3}(?:\.\d{1,2})?(?:[ _]?(?:mm|cm))?|[XY])", re.IGNORECASE
)
SETTING = re.compile(r"(?:IN|OUT)|[+-]?\d{1,3}(?:\.\d{1,6})?", re.IGNORECASE)
WORDS = frozenset(
    ("absorbed", "biological", "definition", "dose", "dose-averaged", "effective", "in", "let", "letd", "lett", "of",
     "physical", "proton", "rbe", "rbe-weighted", "relative", "unrestricted", "water", "weighted", "[kev/um]",
     "(kev/um)", "kev/um")
)  # fmt: skip
METHODS = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113105", "Clean Descriptors Option"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
)
METHOD = "ionrt: PS3.15 2025a, clean descriptors, modified dates"
GENERATED = frozenset(
    ("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
     "LongitudinalTemporalInformationModified")
)  # fmt: skip
LARGEST_LABEL = 999  # a structure or beam with a larger number is given another one


class Secret:
    """The key of a site; never shown, so that no log and no traceback holds it."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "Secret()"

    def digest(self, kind: str, value: str) -> bytes:
        """Keyed hash of a value."""
        return hmac.new(self._key, f"{kind}:{value}".encode("utf-8", "surrogateescape"), "sha256").digest()


@dataclass(frozen=True)
class Patient:
    """What replaces the identity of one patient."""

    alias: str
    days: int  # by which all dates move back


@dataclass
class Cleaner:
    """Copies what may stay; the same key gives the same pseudonyms, UIDs and date shifts."""

    key: Secret
    identifiers: Identifiers
    mapping: dict[tuple[str, str], str] = field(default_factory=dict)  # (kind, old), new
    numbered: dict[tuple[str, str], int] = field(default_factory=dict)  # (what, old), new number or name

    def patient(self, name: str) -> Patient:
        """Pseudonym (16 hexadecimal digits of the keyed hash) and shift: 1 to 520 whole weeks, weekdays and intervals stay."""
        alias = f"ION-{self.key.digest('patient', name).hex()[:16].upper()}"
        self.mapping["patient", name] = alias
        return Patient(alias, 7 * (1 + int.from_bytes(self.key.digest("dates", name)[:4], "big") % 520))

    def clean(self, data: Dataset, patient: Patient, file: str) -> Dataset:
        """A new object with what may stay of an old one; `PixelData` is left to the caller."""
        kind = OBJECTS[text(data, "SOPClassUID")]
        new = _Copy(self, kind, patient, file).items(data, "-")
        seen: set[str] = set()
        for roi in new.get("StructureSetROISequence") or ():  # names that became the same get their numbers
            roi.ROIName = self.made("ROI", int(roi.get("ROINumber") or 0)) if roi.ROIName in seen else roi.ROIName
            seen.add(str(roi.ROIName))
        new.PatientName, new.PatientID, new.PatientIdentityRemoved = patient.alias, patient.alias, "YES"
        new.DeidentificationMethod = METHOD
        new.DeidentificationMethodCodeSequence = [coded(value, meaning) for value, meaning in METHODS]
        new.LongitudinalTemporalInformationModified = "MODIFIED"
        return new

    def uid(self, old: str) -> str:
        """The new UID of an old one; those of the standard itself stay."""
        if not old or old in UID_dictionary:
            return old
        new = f"2.25.{uuid.UUID(bytes=self.key.digest('uid', old)[:16], version=4).int}"
        self.mapping["uid", old] = new
        return new

    def number(self, what: str, old: str) -> int:
        """The number of a structure, beam or device: its own where it is small and says nothing else, or the next free one."""
        number = int(float(old))
        if 0 <= number <= LARGEST_LABEL and not self.identifiers.is_number(str(number)):
            return number
        key = (what, str(number))
        if key not in self.numbered:
            new = LARGEST_LABEL + 1 + sum(kind == what for kind, _ in self.numbered)
            while self.identifiers.is_number(str(new)) or new in self.numbered.values():
                new += 1
            self.numbered[key] = new
        return self.numbered[key]

    def device(self, what: str, old: str) -> str:
        """The name of a device where it is a kind and a number, or a name made here; different ones stay different."""
        if DEVICE.fullmatch(old) and not self.identifiers.hit(old):
            return old
        key = (what, old)
        self.numbered.setdefault(key, 1 + sum(kind == what for kind, _ in self.numbered))
        return self.made(what, self.numbered[key])

    def made(self, kind: str, number: int) -> str:
        """A name for a structure, beam or device; of another kind where that word is a patient's name."""
        return f"{'Item' if self.identifiers.hit(kind) else kind}_{number}"


@dataclass(frozen=True)
class _Copy:
    """One object on its way out."""

    cleaner: Cleaner
    kind: str
    patient: Patient
    file: str

    def items(self, data: Dataset, place: str) -> Dataset:
        """The allowed elements of a data set or sequence item, each with a regular value."""
        rules, new = allowed(self.kind, place), Dataset()
        for tag in data.keys():  # noqa: SIM118 (iterating the data set itself would convert every element)
            rule = rules.get(int(tag))
            if rule is None or rule.name == "pixels":
                continue
            if rule.name in ("items", "codes"):
                parts = sequence(data, tag, self.file)
                made = [self.items(i, keyword_for_tag(tag)) for i in parts] if rule.name == "items" else _known_codes(parts)
                new.add_new(tag, "SQ", Sequence(made))
            else:
                self._put(new, tag, rule, self._value(data, tag, rule))
        if place == "StructureSetROISequence" and "ROIName" not in new:
            new.ROIName = self._roi(data, b"")
        return new

    def _put(self, new: Dataset, tag: BaseTag, rule: Rule, value: bytes) -> None:
        vr = "US" if rule.vr == "US or SS" else rule.vr
        if rule.vr == "US or SS" and rule.arguments[0].startswith("-") and np.frombuffer(value, "<i2").min(initial=0) < 0:
            vr = "SS"
        padded = value + (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
        new[tag] = RawDataElement(Tag(tag), vr, len(padded), padded, 0, False, True)

    def _value(self, data: Dataset, tag: BaseTag, rule: Rule) -> bytes:
        """The value that stays; empty where an irregular one is no loss."""
        raw = stored(data, tag, rule.vr)
        keep = rule.name in ("number", "terms")
        value = self._keep(raw, rule) if keep else getattr(self, f"_{rule.name}")(data, raw, *rule.arguments)
        if value is None and rule.must:
            raise IonrtError(
                f"{self.file}: {keyword_for_tag(tag)} holds what it may not hold (expected {expected(rule)});"
                " the object is damaged or hides something; nothing was written"
            )
        return value or b""

    def _keep(self, raw: bytes, rule: Rule) -> bytes | None:
        """A value that stays as it is, None where it is irregular."""
        if not regular(raw, rule):
            return None
        if not rule.must and rule.name != "terms":
            shown = raw.decode("ascii") if rule.vr not in BINARY else str(np.frombuffer(raw, "<" + BINARY[rule.vr]).tolist())
            if any(self.cleaner.identifiers.is_number(part) for part in re.split(r"[\\, \[\]]+", shown) if part):
                return None
        if rule.name == "terms" and rule.vr != "CS" and self.cleaner.identifiers.hit(raw.decode("ascii")):
            return None
        return raw

    def _uid(self, data: Dataset, raw: bytes) -> bytes | None:
        parts = raw.decode("latin-1").split("\\")
        return "\\".join(self.cleaner.uid(part.strip(" \0")) for part in parts).encode() or None

    _class = _uid

    def _empty(self, data: Dataset, raw: bytes) -> bytes:
        return b""

    def _fixed(self, data: Dataset, raw: bytes, value: str) -> bytes:
        return value.encode()

    def _date(self, data: Dataset, raw: bytes) -> bytes:
        return moved(raw.decode("latin-1")[:8], self.patient.days).encode()

    def _time(self, data: Dataset, raw: bytes) -> bytes:
        """The hour; minutes and seconds would lead to one entry of a hospital's log."""
        hour = raw[:2]
        return hour + b"0000" if hour.isdigit() and int(hour) < 24 else b""

    def _datetime(self, data: Dataset, raw: bytes) -> bytes:
        """Date and hour, without a time zone."""
        date = self._date(data, raw)
        return date + self._time(data, raw[8:]) if date else b""

    def _small(self, data: Dataset, raw: bytes) -> bytes:
        """A running number."""
        fits = re.fullmatch(rb" *\d{1,5} *", raw) and not self.cleaner.identifiers.is_number(raw.decode())
        return raw if fits else b""

    def _label(self, data: Dataset, raw: bytes, what: str) -> bytes | None:
        if not re.fullmatch(rb" *[+-]?\d{1,12}(?:\.0*)? *", raw):
            return None
        new = self.cleaner.number(what, raw.decode())
        return raw if new == float(raw) else str(new).encode()

    def _name(self, data: Dataset, raw: bytes, what: str) -> bytes:
        number = {"Beam": "BeamNumber", "Tolerance": "ToleranceTableNumber"}[what]
        return self.cleaner.made(what, self._number_of(data, number, what.lower())).encode()

    def _roi(self, data: Dataset, raw: bytes) -> bytes:
        number = self._number_of(data, "ROINumber", "roi")
        name = roi_name(raw.decode("utf-8", "replace"), number)
        made = name == f"ROI_{number}" or self.cleaner.identifiers.hit(name)
        return (self.cleaner.made("ROI", number) if made else name).encode()

    def _number_of(self, data: Dataset, keyword: str, what: str) -> int:
        raw = stored(data, Tag(keyword), "IS") if keyword in data else b""
        return int(self._label(data, raw, what) or 0)

    def _device(self, data: Dataset, raw: bytes, what: str) -> bytes:
        return self.cleaner.device(what, raw.decode("latin-1")).encode() if raw else b""

    def _known(self, raw: bytes, fits: Callable[[str], object]) -> bytes:
        """A text that fits and names nobody; empty else."""
        value = raw.decode("latin-1").strip()
        return value.encode() if fits(value) and not self.cleaner.identifiers.hit(value) else b""

    def _setting(self, data: Dataset, raw: bytes) -> bytes:
        return self._known(raw, SETTING.fullmatch)

    def _kernel(self, data: Dataset, raw: bytes) -> bytes:
        return self._known(raw, KERNEL.fullmatch)

    def _words(self, data: Dataset, raw: bytes) -> bytes:
        """ionrt's own comments, and texts that consist of words of dose and LET."""
        return self._known(raw, lambda v: is_known_comment(v) or WORDS.issuperset(v.casefold().replace(",", " ").split()))

    def _image_type(self, data: Dataset, raw: bytes) -> bytes:
        """The three values that the standard defines; what a manufacturer adds goes."""
        first, second, third = ([v.strip() for v in raw.decode("latin-1").split("\\")] + ["", "", ""])[:3]
        head = (first if first == "ORIGINAL" else "DERIVED", second if second == "PRIMARY" else "SECONDARY")
        return "\\".join((*head, third if third in PLANES else "AXIAL")).encode()

    def _pointer(self, data: Dataset, raw: bytes) -> bytes | None:
        return raw if raw in (b"\x04\x30\x0c\x00", b"") else None


def roi_name(name: str, number: int) -> str:
    """The name in the nomenclature, or a number where it is not one of it."""
    target = TARGET.fullmatch(name.strip(" \0"))
    if target and not (target[3][1:].isdigit() and (int(target[3][1:]) % 5 or not 100 <= int(target[3][1:]) <= 10000)):
        head = target[1].upper().replace("IGTV", "iGTV").replace("ICTV", "iCTV")
        return head + target[2].lower() + target[3].title()  # a number behind the underscore is a dose in cGy
    return nomenclature(name) or f"ROI_{number}"


def is_known_comment(comment: str) -> bool:
    """Whether a dose comment consists of words of ionrt's own vocabulary."""
    from ionrt.rbe import MODELS

    known = {"dose": {""}, "rbe_dose": set(MODELS), "let_d": set(LET_DEFINITIONS)}
    return any(comment.startswith(prefix) and comment.removeprefix(prefix) in known[name] for name, prefix in COMMENTS.items())


def moved(value: str, days: int) -> str:
    """A date moved back; what is no date is emptied."""
    try:
        date = datetime.datetime.strptime(value, "%Y%m%d").date() if re.fullmatch(r"\d{8}", value) else None
        return (date - datetime.timedelta(days=days)).strftime("%Y%m%d") if date else ""
    except (ValueError, OverflowError):
        return ""


@cache
def _meanings() -> dict[tuple[str, str], str]:
    """(scheme, value) to meaning of the codes that the standard uses (PS3.16)."""
    return {
        (scheme, value): str(meaning)
        for scheme, named in cast("dict[str, dict[str, dict[str, tuple]]]", concepts).items()
        for values in named.values()
        for value, (meaning, _) in values.items()
    }


def _known_codes(items: list[Dataset]) -> list[Dataset]:
    """Codes of the standard's own tables, with the meaning from there, and structure codes that are its names."""
    found = []
    for item in items:
        value, scheme = text(item, "CodeValue"), text(item, "CodingSchemeDesignator")
        meaning = _meanings().get((scheme, value), "")
        if not meaning and scheme == "99VMS_STRUCTCODE" and not roi_name(value, 0).startswith("ROI_"):
            meaning = roi_name(value, 0)
        if meaning:
            found.append(coded(value, meaning[:64], scheme))
    return found
