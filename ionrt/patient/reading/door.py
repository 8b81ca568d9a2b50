"""The one door for DICOM: bytes become finite, bounded, typed values, or an IonrtError that names file and element.

Whatever pydicom, zlib, numpy or a decoder raise on a damaged or hostile file is translated here and nowhere else, and sizes are
looked at before memory is taken. A reader asks a `Fields` for what it needs (`number`, `numbers`, `integer`, `text`, `code`,
`items`) and never touches pydicom's own conversion, which accepts NaN, guesses character sets and raises what it likes.

Valid but unusable objects are no errors: they are left out by name (`Notes`), so that one odd object does not stop the rest.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag

from ionrt.patient.reading.charset import decode
from ionrt.patient.reading.notes import Notes
from ionrt.quantities import IonrtError

LARGEST = 1e9  # no length, angle, HU, energy or weight in a file is larger unless its reader says so
MOST_INFLATED = 1 << 29  # bytes of a deflated object
MOST_META = 1 << 20  # bytes of file meta information
DEFLATED = b"1.2.840.10008.1.2.1.99"
DECIMALS = re.compile(rb"[0-9+\-.eE\\ ]*")
BINARY = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "UV": "u8", "SV": "i8", "FL": "f4", "FD": "f8",
          "OF": "f4", "OD": "f8"}  # fmt: skip
WORDS = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"))
DAMAGED = "the file is truncated or damaged"


class Fields:
    """Elements of a DICOM object, or of an item of one of its sequences, as checked values.

    `where` names the file, and below it sequence and item, for messages; `data` is the pydicom Dataset; `notes` collects doubts
    about texts.
    """

    def __init__(self, data: Dataset, where: str, charset: tuple[str, ...] | None = None, notes: Notes | None = None) -> None:
        self.data, self.where, self.notes = data, where, notes
        self.cut = 0  # pixels that lost bits while they were read
        self._outer = charset

    def __contains__(self, keyword: str) -> bool:
        return self._bytes(keyword) is not None

    def error(self, keyword: str, what: str) -> IonrtError:
        """An error about one element."""
        return IonrtError(f"{self.where}: {keyword} {what}")

    # --- numbers

    def numbers(
        self,
        keyword: str,
        count: int | None = None,
        *,
        low: float = -LARGEST,
        high: float = LARGEST,
        default: Any = ...,
        finite: bool = True,
    ) -> Any:
        """All values of a numeric element as float64 array: finite, within `low`..`high`, `count` of them where given.

        `default` is returned for an absent or empty element; without one that is an error. `finite` False admits NaN.
        """
        raw = self._bytes(keyword)
        values = None if raw is None else self._parsed(keyword, *raw)
        if values is None or not values.size:
            if default is ...:
                raise self.error(keyword, f"is missing; {DAMAGED}, export it again")
            return default
        if count is not None and values.size != count:
            raise self.error(keyword, f"has {values.size} value{'s' if values.size > 1 else ''}; expected {count}")
        if np.isinf(values).any() or (finite and np.isnan(values).any()):
            raise self.error(keyword, f"is not finite; {DAMAGED}")
        least, most = np.nanmin(values, initial=high), np.nanmax(values, initial=low)
        if least < low or most > high:
            raise self.error(keyword, f"is {least if least < low else most:g}; expected {low:g} to {high:g}")
        return values

    def number(self, keyword: str, default: Any = ..., *, low: float = -LARGEST, high: float = LARGEST) -> Any:
        """One finite number within `low`..`high`."""
        values = self.numbers(keyword, 1, low=low, high=high, default=default)
        return float(values[0]) if isinstance(values, np.ndarray) else values

    def integer(self, keyword: str, default: Any = ..., *, low: int = -(2**31), high: int = 2**32 - 1) -> Any:
        """One integer within `low`..`high`."""
        values = self.numbers(keyword, 1, low=low, high=high, default=default)
        if not isinstance(values, np.ndarray):
            return values
        if values[0] != np.rint(values[0]):
            raise self.error(keyword, f"is {values[0]:g}; expected an integer")
        return int(values[0])

    # --- texts

    def text(self, keyword: str, default: str = "") -> str:
        """The decoded text of an element; bytes that do not fit the declared character set are noted."""
        known = self.data.get_item(keyword)
        if known is not None and not isinstance(known, RawDataElement) and isinstance(known.value, str):
            return known.value.strip() or default  # an object in memory
        raw = self._bytes(keyword)
        if raw is None:
            return default
        vr, value, _ = raw
        if vr not in WORDS:
            raise self.error(keyword, f"is stored as {vr}; expected text")
        text, doubt = decode(value, self.charset)
        if doubt and self.notes is not None:
            self.notes.assume(f"{self.where}: {keyword}: {doubt}")
        return text or default

    def code(self, keyword: str, default: str = "") -> str:
        """A coded value (CS, UI): ASCII, upper case, without the spaces around; anything else raises."""
        raw = self._bytes(keyword)
        if raw is None:
            return default
        text = raw[1].strip(b" \0")
        if raw[0] not in WORDS or not text.isascii() or any(c < 32 for c in text):
            raise self.error(keyword, f"is no code (stored as {raw[0]}); {DAMAGED}")
        return text.decode("ascii").upper() or default

    def uid(self, keyword: str) -> str:
        """A UID, "" where it is absent; anything but digits and points raises."""
        text = self.code(keyword)
        if not set(text) <= set("0123456789."):
            raise self.error(keyword, f"is no UID; {DAMAGED}")
        return text

    def is_empty(self, keyword: str) -> bool:
        """Whether an element is there and holds nothing."""
        return keyword in self.data and keyword not in self

    def codes(self, keyword: str) -> tuple[str, ...]:
        """All values of a coded element."""
        return tuple(part.strip() for part in self.code(keyword).split("\\")) if self.code(keyword) else ()

    @cached_property
    def charset(self) -> tuple[str, ...]:
        """The declared character sets, those of the object where an item declares none of its own."""
        raw = self._bytes("SpecificCharacterSet")
        if raw is None:
            return self._outer or ()
        return tuple(part.strip() for part in raw[1].decode("ascii", "replace").strip(" \0").split("\\"))

    # --- sequences

    def items(self, keyword: str) -> list[Fields]:
        """Items of a sequence, none where it is absent or empty."""
        try:
            element = self.data.get_item(keyword) and self.data[keyword]
            items = [] if element is None or element.value is None else element.value
            if element is not None and (element.VR != "SQ" or not all(isinstance(i, Dataset) for i in items)):
                raise self.error(keyword, f"is stored as {element.VR}; expected a sequence")
            found = list(items)
        except IonrtError:
            raise
        except Exception as error:  # whatever the parser makes of damaged items
            raise self.error(keyword, f"cannot be read ({in_short(error)}); {DAMAGED}") from error
        return [Fields(item, f"{self.where}: {keyword}[{i + 1}]", self.charset, self.notes) for i, item in enumerate(found)]

    def item(self, keyword: str) -> Fields | None:
        """The first item of a sequence, None where there is none."""
        found = self.items(keyword)
        return found[0] if found else None

    # --- bytes

    def _bytes(self, keyword: str) -> tuple[str, bytes, bool] | None:
        """(VR, bytes, little endian) of an element, None where it is absent or empty."""
        try:
            element = self.data.get_item(keyword)
        except Exception as error:
            raise self.error(keyword, f"cannot be read ({in_short(error)}); {DAMAGED}") from error
        if element is None or element.value is None:
            return None
        if isinstance(element, RawDataElement):
            vr, value, little = element.VR, element.value, element.is_little_endian
        else:  # an object in memory, or an element that was looked at before
            vr, value, little = element.VR, self._again(element), True
        stated = dictionary_VR(keyword)
        if vr in (None, "UN"):
            vr = stated
        if " or " in vr:
            signed = vr == "US or SS" and keyword_value(self.data, "PixelRepresentation") == 1
            vr = "SS" if signed else "US" if vr.startswith("US") else "OB"
        if not isinstance(value, bytes):
            raise self.error(keyword, f"is stored as {vr}; expected {stated}")
        if stated in ("DS", "IS") and vr not in ("DS", "IS"):
            raise self.error(keyword, f"is stored as {vr}; expected {stated}")
        return (vr, value, little) if value.strip(b" \0") or (value and vr not in WORDS) else None

    def _again(self, element: Any) -> Any:
        """The bytes of a converted element."""
        value = element.value
        if isinstance(value, (bytes, Dataset)) or element.VR == "SQ":
            return value
        parts = list(value) if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else [value]
        if element.VR in BINARY:
            return np.array(parts, "<" + BINARY[element.VR]).tobytes()
        words = ["" if v is None else str(getattr(v, "original_string", None) or v) for v in parts]
        encoding = "utf-8" if "ISO_IR 192" in (self._outer or ()) or not all(map(str.isascii, words)) else "ascii"
        return "\\".join(words).encode(encoding)

    def _parsed(self, keyword: str, vr: str, value: bytes, little: bool) -> np.ndarray | None:
        """The numbers that bytes stand for."""
        if vr in BINARY:
            kind = np.dtype(("<" if little else ">") + BINARY[vr])
            if len(value) % kind.itemsize:
                raise self.error(keyword, f"has {len(value)} bytes; expected a multiple of {kind.itemsize}; {DAMAGED}")
            return np.frombuffer(value, kind).astype(float)
        if vr not in ("DS", "IS"):
            raise self.error(keyword, f"is stored as {vr}; expected numbers")
        text = value.strip(b" \0")
        if not DECIMALS.fullmatch(text):
            hint = "; a decimal comma is not allowed" if b"," in text else ""
            raise self.error(keyword, f"holds text that is no number{hint}; {DAMAGED}")
        try:
            return np.array(text.decode("ascii").split("\\"), dtype=float)
        except ValueError as error:
            raise self.error(keyword, f"holds text that is no number; {DAMAGED}") from error


def keyword_value(data: Dataset, keyword: str) -> int | None:
    """An unsigned short by its keyword, None where it is absent or odd; for what decides how another element is read."""
    element = data.get_item(keyword)
    value = getattr(element, "value", None)
    if isinstance(element, RawDataElement):
        return int.from_bytes(value, "little" if element.is_little_endian else "big") if value and len(value) == 2 else None
    return value if isinstance(value, int) else None


def in_short(error: Exception) -> str:
    """What a library said, in one line of bearable length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


# --- files


def files_of(folder: Path) -> Iterator[Path]:
    """Regular files below a folder, sorted; pipes, sockets and devices are not opened, linked folders not entered."""
    found = []
    for base, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(base) / name for name in names if name != "DICOMDIR"]
    for path in sorted(found):
        try:
            if stat.S_ISREG(path.stat().st_mode):
                yield path
        except OSError:  # a link to nothing or in a circle
            continue


def read_dataset(path: Path, keywords: Iterable[str] | None = None, *, pixels: bool = True) -> FileDataset | None:
    """The elements of a file (all, or those named), None where it is not DICOM."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise IonrtError(f"{path.name}: expected a regular file")
        force = _check_start(path)
        tags = None if keywords is None else [Tag(k) for k in keywords]
        return pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=tags, force=force)
    except IonrtError:
        raise
    except InvalidDicomError:
        return None
    except OSError as error:
        if error.errno is not None:
            raise IonrtError(f"{path.name}: cannot be opened ({error.strerror}); check its rights and the disk") from error
        raise IonrtError(f"{path.name}: cannot be read as DICOM ({in_short(error)}); {DAMAGED}") from error
    except Exception as error:  # whatever a damaged file makes the parser raise, depth and memory included
        raise IonrtError(f"{path.name}: cannot be read as DICOM ({in_short(error)}); {DAMAGED}") from error


def _check_start(path: Path) -> bool:
    """Whether a file starts with a data element instead of the 128-byte preamble (old exports); bounds what is deflated."""
    with path.open("rb") as file:
        start = file.read(4096)
        if start[128:132] == b"DICM":
            at, syntax = 132, b""
            while True:  # file meta information: explicit VR, little endian
                if len(start) < at + 12 and len(start) < MOST_META:
                    more = file.read(1 << 16)
                    start += more
                    if not more:
                        break
                group, element, vr = *struct.unpack_from("<HH", start, at), start[at + 4 : at + 6]
                if group != 2 or len(start) < at + 12:
                    break
                long = vr in (b"OB", b"OW", b"UN", b"SQ", b"UT", b"OF", b"UC", b"UR")
                size = struct.unpack_from("<I", start, at + 8)[0] if long else struct.unpack_from("<H", start, at + 6)[0]
                at += 12 if long else 8
                if at + size > MOST_META:
                    raise IonrtError(f"{path.name}: file meta information of more than {MOST_META >> 20} MB; {DAMAGED}")
                while len(start) < at + size and (more := file.read(1 << 16)):
                    start += more
                if element == 0x10:
                    syntax = start[at : at + size].strip(b" \0")
                at += size
            if syntax == DEFLATED:
                file.seek(at)
                _check_inflated(file, path)
            return False
    return start[:2] in (b"\x02\x00", b"\x08\x00") and len(start) >= 8 and start[2:4] < b"\xff\x00"


def _check_inflated(file: Any, path: Path) -> None:
    """Inflate to nowhere and count."""
    inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while (chunk := inflater.unconsumed_tail or file.read(1 << 16)) and not inflater.eof:
        total += len(inflater.decompress(chunk, 1 << 20))
        if total > MOST_INFLATED:
            raise IonrtError(
                f"{path.name}: inflates to more than {MOST_INFLATED >> 20} MB; expected less: store it without deflation"
            )
