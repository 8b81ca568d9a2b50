"""What names a patient, in the forms it may come back in: the second wall behind the allow-list of de-identification."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
from pydicom.charset import decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

NUMBERS = (
    "PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID", "MedicalRecordLocator", "RequestedProcedureID",
    "FillerOrderNumberImagingServiceRequest", "PlacerOrderNumberImagingServiceRequest", "PatientTelephoneNumbers",
    "ScheduledProcedureStepID", "PerformedProcedureStepID", "ServiceEpisodeID", "InsurancePlanIdentification",
)  # fmt: skip
NUMBER_TAGS = frozenset(int(Tag(keyword)) for keyword in NUMBERS)
BIRTH_TAG = int(Tag("PatientBirthDate"))
CHARSET_TAG = int(Tag("SpecificCharacterSet"))
CODECS = ("utf-8", "latin-1", "cp949", "cp932", "euc_jp", "gb18030", "iso2022_jp")
TITLES = frozenset(
    ("mr", "mrs", "ms", "dr", "prof", "von", "van", "de", "da", "di", "la", "le", "el", "and", "the", "of", "no")
)
ESCAPE = re.compile(rb"\x1b[\x20-\x2f]*[\x30-\x7e]")
SHORTEST_NUMBER, SHORTEST_PART, SHORTEST_NEEDLE = 3, 5, 6  # characters; anything shorter is met by chance


@dataclass
class Identifiers:
    """Names, numbers and birth dates of the people in a folder, ready to be looked for."""

    words: set[str] = field(default_factory=set)  # single names and whole ones, folded
    numbers: set[str] = field(default_factory=set)  # letters and digits only, no zeros in front
    dates: set[str] = field(default_factory=set)  # digits only
    needles: set[bytes] = field(default_factory=set)
    _table: tuple[np.ndarray, set[bytes]] = field(default=(np.zeros(65536, bool), set()), repr=False)

    def collect(self, data: Dataset, *, skip: frozenset[int] = frozenset(), charset: str = "") -> None:
        """Add all person names, numbers and birth dates of an object; `skip` are sequences that hold none."""
        declared = _raw(data.get_item(CHARSET_TAG)) if CHARSET_TAG in data else b""
        charset = declared.decode("ascii", "ignore").strip(" \0") or charset
        for tag in data.keys():  # noqa: SIM118 (iterating the data set itself would convert every element)
            element = data.get_item(tag)
            vr = element.VR if element.VR not in (None, "UN") or tag.is_private else standard_vr(int(tag))
            if vr == "SQ":
                if int(tag) not in skip:
                    for item in data[tag].value or ():
                        self.collect(item, skip=skip, charset=charset)
            elif vr == "PN" or int(tag) in NUMBER_TAGS or int(tag) == BIRTH_TAG:
                self._add(int(tag), str(vr), _raw(element), charset)

    def hit(self, text: str) -> bool:
        """Whether a text holds a name, a number or a birth date: whole words where these are short, else any part."""
        folded = fold(text)
        squeezed = _squeeze(folded)
        parts = {part.lstrip("0") or part for part in re.findall(r"[a-z]+|\d+|[a-z\d]+", folded)} | set(
            re.findall(r"\w+", folded)
        )
        if parts & self.words or parts & self.numbers or squeezed in self.words | self.numbers:
            return True
        digits = re.sub(r"\D", "", folded)
        if any(date in digits for date in self.dates if len(date) == 8) or digits in self.dates:
            return True
        return any(len(known) >= SHORTEST_PART and known in squeezed for known in self.words | self.numbers)

    def is_number(self, text: str) -> bool:
        """Whether a number, as it is written, is one of a patient's numbers or the birth date."""
        digits = re.sub(r"\D", "", text.split(".")[0]) if "." in text else re.sub(r"\D", "", text)
        return digits in self.dates or (digits.lstrip("0") or "0") in self.numbers

    def in_bytes(self, raw: bytes) -> bool:
        """Whether bytes hold a name or number in one of the encodings."""
        if len(raw) > 4096:  # two neighbouring words of any needle must be there: one look instead of hundreds
            met = self._pairs()[np.frombuffer(raw, "<u2", len(raw) // 2)]
            if not (met[:-1] & met[1:]).any():
                return False
        return any(needle in raw for needle in self.needles)

    def _pairs(self) -> np.ndarray:
        """Whether a 16-bit word occurs in a needle, at even or odd places."""
        if len(self._table[1]) != len(self.needles):
            table = np.zeros(65536, dtype=bool)
            for needle in self.needles:
                for start in (0, 1):
                    table[np.frombuffer(needle[start:], "<u2", (len(needle) - start) // 2)] = True
            self._table = (table, set(self.needles))
        return self._table[0]

    def _add(self, tag: int, vr: str, raw: bytes, charset: str) -> None:
        if tag == BIRTH_TAG:
            self._add_date(re.sub(rb"\D", b"", raw).decode())
            return
        for text in _decoded(raw, charset):
            for value in text.split("\\"):
                if vr == "PN":
                    self._add_name(value)
                elif len(number := _squeeze(fold(value)).lstrip("0")) >= SHORTEST_NUMBER:
                    self.numbers.add(number)
                    self._add_needles(value.strip(" \0"))
        for piece in re.split(rb"[\^=\\\s,]+", raw.strip(b" \0")):
            bare = ESCAPE.sub(b"", piece)
            self.needles.update(n for n in (piece, bare) if len(n) >= SHORTEST_NEEDLE)

    def _add_name(self, value: str) -> None:
        for group in value.strip(" \0").split("="):
            parts = [part for part in re.split(r"[\W_\d]+", group) if part]
            words = [fold(part) for part in parts]
            self.words |= {word for word in words if len(word) >= 2 and word not in TITLES}
            self.words |= {"".join(pair) for n in (2, 3) for pair in permutations(words[:4], n) if len("".join(pair)) >= 4}
            whole = group.replace("^", " ").strip()
            for text in {*parts, whole, whole.replace(" ", ""), group}:
                self._add_needles(text)

    def _add_needles(self, text: str) -> None:
        """A text in all encodings and cases, where it is long enough not to be met by chance."""
        for form in {text, text.upper(), text.lower(), text.title()}:
            for codec in CODECS:
                needle = ESCAPE.sub(b"", form.encode(codec, "ignore"))
                if len(needle) >= SHORTEST_NEEDLE and len(set(needle)) > 2:  # one value over and over is no text
                    self.needles.add(needle)

    def _add_date(self, digits: str) -> None:
        if len(digits) == 8 and digits.strip("0"):
            year, month, day = digits[:4], digits[4:6], digits[6:]
            for parts in ((year, month, day), (day, month, year), (month, day, year)):
                self.dates.add("".join(parts))
                self.dates.add("".join(parts).replace(year, year[2:], 1))
            self._add_needles(digits)
            for form in ("{0}-{1}-{2}", "{2}.{1}.{0}", "{1}/{2}/{0}", "{2}/{1}/{0}"):
                self._add_needles(form.format(year, month, day))


def fold(text: str) -> str:
    """Lower case without accents; full-width letters become plain ones."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in plain if not unicodedata.combining(c))


def _squeeze(folded: str) -> str:
    """Letters and digits only."""
    return "".join(c for c in folded if c.isalnum())


def _decoded(raw: bytes, charset: str) -> set[str]:
    """The text under its declared character set and, since declarations are often wrong, as UTF-8 and as plain bytes."""
    encodings = [python_encoding[name] for name in charset.split("\\") if python_encoding.get(name)] or ["latin-1"]
    found = set()
    for codecs in (encodings, ["utf-8"], ["cp949"], ["cp932"], ["gb18030"], ["latin-1"]):
        try:
            found.add(decode_bytes(raw, codecs, {0x5C, 0x5E, 0x3D}) if codecs is encodings else raw.decode(codecs[0]))
        except (UnicodeDecodeError, LookupError, ValueError):
            continue
    return found


def _raw(element: DataElement | RawDataElement) -> bytes:
    """Bytes of an element, as they stand in the file where it was not converted yet."""
    value = element.value
    if isinstance(value, bytes):
        return value
    if value is None:
        return b""
    many = value if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue" else [value]
    return "\\".join(str(v) for v in many).encode("utf-8", "surrogateescape")


def standard_vr(tag: int) -> str:
    """The VR of an element of the standard, UN for others."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"
