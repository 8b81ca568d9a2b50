"""What happens to each element of an object that leaves the hospital: PS3.15 table, dates, UIDs, names of structures."""

from __future__ import annotations

import contextlib
import datetime
import hmac
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from ionrt.patient.dicom_dose import COMMENTS
from ionrt.quantities import LET_DEFINITIONS

EDITION = "confidentiality_2025a"
DUMMY = "DEIDENTIFIED"
STANDARD_UID = re.compile(r"1\.2\.840\.10008(\.\d{1,4})+")  # a date or a patient's number would be longer
TEXT = frozenset(("AE", "AS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
NUMBERS = frozenset(("AT", "DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV", "TM", "US or SS"))
# text that the table does not name and that geometry, calibration or meaning of the numbers need
TECHNICAL = frozenset(
    (
        "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "RescaleType", "ConvolutionKernel", "ScanSpotTuneID",
        "SnoutID", "RangeShifterID", "RangeModulatorID", "LateralSpreadingDeviceID", "FixationLightAzimuthalAngle",
        "RangeShifterSetting", "LateralSpreadingDeviceSetting", "RangeModulatorSetting", "CodeValue",
        "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning", "MaterialID",
    )
)  # fmt: skip
TARGET = re.compile(r"(i?(?:GTV|CTV)|ITV|PTV)([pn]?\d{0,2})((?:_(?:Low|Mid|High|\d{3,5}))?)", re.IGNORECASE)
METHODS = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113105", "Clean Descriptors Option"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
)


@dataclass
class Cleaner:
    """Cleans the objects of one site; the same key gives the same pseudonyms, UIDs and date shifts."""

    key: bytes
    removed: dict[str, str] = field(default_factory=dict)  # identifier, where it stood
    names: set[str] = field(default_factory=set)  # those of them that are names or numbers of people
    codes: set[str] = field(default_factory=set)  # coded values met; a removed text may be the same word
    mapping: dict[tuple[str, str], str] = field(default_factory=dict)  # (kind, old), new

    def clean(self, data: Dataset) -> Dataset:
        """De-identify an object in place."""
        patient = str(data.get("PatientID") or data.get("PatientName") or "").strip()
        shift, alias = self.shift(patient), self.pseudonym(patient)
        self._clean_items(data, shift)
        _separate(data)
        data.PatientName, data.PatientID, data.PatientIdentityRemoved = alias, alias, "YES"
        data.DeidentificationMethod = "ionrt: PS3.15 2025a, clean descriptors, modified dates"
        data.DeidentificationMethodCodeSequence = [_code(*method) for method in METHODS]
        data.LongitudinalTemporalInformationModified = "MODIFIED"
        return data

    def uid(self, old: str) -> str:
        """The new UID of an old one; UIDs of the standard itself stay."""
        if not old or STANDARD_UID.fullmatch(old):
            return old
        new = f"2.25.{uuid.UUID(bytes=self._digest('uid', old)[:16], version=4).int}"
        self.mapping["uid", old] = new
        self._note(old, "UID")
        return new

    def pseudonym(self, patient: str) -> str:
        """Name and ID of a patient: 16 hexadecimal digits of the keyed hash."""
        alias = f"ION-{self._digest('patient', patient).hex()[:16].upper()}"
        self.mapping["patient", patient] = alias
        return alias

    def shift(self, patient: str) -> int:
        """Days that the patient's dates move back: 1 to 520 whole weeks, so that intervals and weekdays stay."""
        return 7 * (1 + int.from_bytes(self._digest("dates", patient)[:4], "big") % 520)

    def identifiers(self) -> dict[str, str]:
        """What must not be found again, longest first: removed values that are not ordinary words of the output."""
        kept = " ".join([*_roi_names().values(), DUMMY, *(m for _, m in METHODS), "SYNTHETIC"]).casefold()
        good = {k: v for k, v in self.removed.items() if k not in kept and (k in self.names or k not in self.codes)}
        return dict(sorted(good.items(), key=lambda pair: -len(pair[0])))

    def scrub(self, data: Dataset, identifiers: dict[str, str]) -> None:
        """Blank technical texts and codes that hold an identifier after all."""
        for part, element in texts(data):
            if (element.keyword in TECHNICAL or element.VR == "CS") and find(str(element.value), identifiers):
                part[element.tag].value = DUMMY

    def _clean_items(self, data: Dataset, shift: int) -> None:
        for tag in list(data.keys()):
            if tag.is_private or (self._action(tag) == "X" and _vr(data, tag) not in ("DA", "DT", "TM")):
                self._remove(data, tag)
                continue
            vr = _vr(data, tag)
            if vr in NUMBERS and self._action(tag) == "":
                continue
            self._clean_element(data, tag, vr, shift)

    def _clean_element(self, data: Dataset, tag: BaseTag, vr: str, shift: int) -> None:
        """Everything but private, plainly removed and numeric elements."""
        action, keyword = self._action(tag), keyword_for_tag(tag)
        if vr == "SQ":
            if action == "" or "U" in action or "D" in action:  # references are walked and mapped
                for item in data[tag].value or ():
                    self._clean_items(item, shift)
            else:
                self._collect(data[tag])
                data[tag].value = []
        elif vr == "UI" and "X" not in action:
            data[tag].value = _each(data[tag].value, self.uid)
        elif vr in ("DA", "DT") and (action == "" or _table()[tag_key(tag)][2] == "C"):
            self._replace(data, tag, _each(data[tag].value, lambda value: _moved(str(value), shift)))
        elif vr == "TM" and (action == "" or _table()[tag_key(tag)][2] == "C"):
            return
        elif vr in TEXT:
            self._clean_text(data, tag, keyword, action)
        elif vr == "CS":
            self.codes.update(value.casefold() for value in _values(data[tag].value))
            if action != "" or not re.fullmatch(r"[A-Z0-9_ \\]*", "\\".join(_values(data[tag].value))):
                self._replace(data, tag, DUMMY[:16] if "D" in action else "")
        elif keyword != "PixelData" or action:
            self._remove(data, tag) if action in ("", "X") or vr in ("OB", "OW", "UN") else self._replace(data, tag, None)

    def _clean_text(self, data: Dataset, tag: BaseTag, keyword: str, action: str) -> None:
        """Texts stay only where they are known words; a structure keeps its name if it is a name of the nomenclature."""
        value = data[tag].value
        if keyword == "ROIName":
            self._replace(data, tag, roi_name(str(value or ""), int(data.get("ROINumber") or 0)))
        elif keyword == "BeamName":  # may not be empty in an ion plan
            self._replace(data, tag, f"Beam_{data.get('BeamNumber') or 0}")
        elif self._may_stay(keyword, action, str(value or "")):
            return
        elif keyword in ("PatientName", "PatientID"):
            self._replace(data, tag, None)
        else:
            self._replace(data, tag, DUMMY if "D" in action else None)

    def _may_stay(self, keyword: str, action: str, value: str) -> bool:
        """Technical texts that the table does not name, and comments in ionrt's own words."""
        own = keyword in ("DoseComment", "SeriesDescription") and is_known_comment(value)
        return own or (action == "" and keyword in TECHNICAL)

    def _replace(self, data: Dataset, tag: BaseTag, value: Any) -> None:
        """Put another value, remembering the old one."""
        if data[tag].value != value:
            self._collect(data[tag])
            data[tag].value = value

    def _remove(self, data: Dataset, tag: BaseTag) -> None:
        """Delete an element, remembering what it said; a private one may be unreadable."""
        with contextlib.suppress(Exception):  # unreadable bytes cannot be searched for; they are deleted all the same
            self._collect(data[tag])
        del data[tag]

    def _collect(self, element: DataElement) -> None:
        """Remember values that name someone or something: whole texts, and the parts of person names."""
        if element.VR == "SQ":
            for item in element.value or ():
                for _, inner in texts(item):
                    self._collect(inner)
        elif element.VR in (*TEXT, "UN") or element.keyword == "PatientBirthDate":
            for value in _values(element.value):
                self._note(value, element.keyword or str(element.tag))
                if element.VR == "PN" or element.keyword in ("PatientID", "OtherPatientIDs"):
                    for part in (value, *re.split(r"[\^=\s,]+", value)):
                        self._note(part, element.keyword)
                        self.names.add(part.strip(" \0").casefold())

    def _note(self, value: str, where: str) -> None:
        """An identifier has four characters or more; short numbers are no identifiers."""
        text = value.strip(" \0").casefold()
        if len(text) >= 4 and any(c.isalnum() for c in text) and not re.fullmatch(r"[\d.\s-]{1,5}", text):
            self.removed.setdefault(text, where)

    def _action(self, tag: BaseTag) -> str:
        """Basic-profile action of an attribute; empty where the table does not name it."""
        return _table().get(tag_key(tag), ("", "", ""))[0]

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.new(self.key, f"{kind}:{value}".encode(), "sha256").digest()


def _separate(data: Dataset) -> None:
    """Structures whose names became the same get their numbers."""
    seen: set[str] = set()
    for roi in data.get("StructureSetROISequence") or ():
        if roi.ROIName in seen:
            roi.ROIName = f"ROI_{roi.ROINumber}"
        seen.add(str(roi.ROIName))


def texts(data: Dataset) -> Iterator[tuple[Dataset, DataElement]]:
    """All elements that hold words, names, UIDs or dates, at any depth, with the data set they stand in."""
    for tag in list(data.keys()):
        vr = _vr(data, tag)
        if vr == "SQ":
            for item in data[tag].value or ():
                yield from texts(item)
        elif vr not in NUMBERS and tag_key(tag) != "7FE00010":
            yield data, data[tag]


def find(text: str, identifiers: dict[str, str]) -> str | None:
    """The first identifier that a text holds."""
    folded = text.casefold()
    return next((identifier for identifier in identifiers if identifier in folded), None)


def roi_name(name: str, number: int) -> str:
    """The name in the nomenclature, or a number where it is not one of it."""
    target = TARGET.fullmatch(name.strip())
    if target:
        head = target[1].upper().replace("IGTV", "iGTV").replace("ICTV", "iCTV")
        return head + target[2].lower() + target[3].title()
    return _roi_names().get(_plain(name), f"ROI_{number}")


def is_known_comment(text: str) -> bool:
    """Whether a dose comment consists of words of ionrt's own vocabulary."""
    from ionrt.rbe import MODELS

    allowed = {"dose": {""}, "rbe_dose": set(MODELS), "let_d": set(LET_DEFINITIONS)}
    return any(text.startswith(prefix) and text.removeprefix(prefix) in allowed[name] for name, prefix in COMMENTS.items())


def tag_key(tag: BaseTag) -> str:
    """The tag as the table writes it; repeating groups share one row."""
    key = f"{int(tag):08X}"
    return f"{key[:2]}xx{key[4:]}" if key[:2] in ("60",) else "50xxxxxx" if key[:2] == "50" else key


@cache
def _table() -> dict[str, tuple[str, str, str]]:
    """The standard's table: tag to (basic, descriptors, modified dates)."""
    with (resources.files("ionrt.patient") / "tables" / f"{EDITION}.csv").open() as file:
        rows = pd.read_csv(file, comment="#", dtype=str, keep_default_na=False)
    return {str(tag): (str(a), str(b), str(c)) for tag, a, b, c in rows.itertuples(index=False)}


@cache
def _roi_names() -> dict[str, str]:
    """Plain spelling to name of the nomenclature."""
    with (resources.files("ionrt.patient") / "tables" / "roi_names.csv").open() as file:
        rows = pd.read_csv(file, comment="#", dtype=str, keep_default_na=False)
    return {_plain(spelling): str(name) for name, also in rows.itertuples(index=False) for spelling in (name, *also.split(";"))}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _vr(data: Dataset, tag: BaseTag) -> str:
    """Value representation without converting the element."""
    element = data.get_item(tag)
    if isinstance(element, RawDataElement) and element.VR in (None, "UN"):
        try:
            return dictionary_VR(tag)
        except KeyError:
            return "UN"
    return str(element.VR)


def _values(value: Any) -> list[str]:
    """Value as a list of texts."""
    if value is None:
        return []
    if isinstance(value, bytes):
        return [value.decode("latin-1")]
    return [str(v) for v in value] if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue" else [str(value)]


def _each(value: Any, change: Any) -> Any:
    """Apply to one value or to each of several."""
    if value is None or value == "":
        return value
    values = [change(v) for v in _values(value)]
    return values if len(values) != 1 else values[0]


def _moved(value: str, days: int) -> str:
    """A date or date-time moved back; what is no date is emptied."""
    try:
        date = datetime.datetime.strptime(value[:8], "%Y%m%d").date()
        return (date - datetime.timedelta(days=days)).strftime("%Y%m%d") + value[8:]
    except (ValueError, OverflowError):
        return ""


def _code(value: str, meaning: str) -> Dataset:
    """A code of PS3.16 CID 7050."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item
