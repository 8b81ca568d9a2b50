"""Text of a DICOM object from its bytes: the declared character set, and what to think of it where the bytes do not fit.

Names come in Korean and Japanese sets that are declared, not declared, or declared wrongly. What cannot be read as declared is
read as what its bytes are, and the reader is told so: a guess is never silent.
Reference: DICOM PS3.3 C.12.1.1.2, PS3.5 6.1 and Annexes H, I.
"""

from __future__ import annotations

import re
import unicodedata

# defined terms and the codecs of the same content; those that the standard does not have are written by servers all the same
CODECS = {
    "": "ascii", "ISO_IR 6": "ascii", "ISO_IR 13": "shift_jis", "ISO_IR 100": "latin-1", "ISO_IR 101": "iso8859-2",
    "ISO_IR 109": "iso8859-3", "ISO_IR 110": "iso8859-4", "ISO_IR 126": "iso8859-7", "ISO_IR 127": "iso8859-6",
    "ISO_IR 138": "iso8859-8", "ISO_IR 144": "iso8859-5", "ISO_IR 148": "iso8859-9", "ISO_IR 166": "tis-620",
    "ISO_IR 203": "iso8859-15", "ISO_IR 192": "utf-8", "GB18030": "gb18030", "GBK": "gbk", "ISO_IR 87": "cp932",
    "ISO_IR 149": "cp949", "ISO_IR 58": "gb2312", "ISO_IR 159": "iso2022_jp_2",
}  # fmt: skip
OF_THE_STANDARD = frozenset(CODECS) - {"ISO_IR 87", "ISO_IR 149", "ISO_IR 58", "ISO_IR 159"}
ESCAPES = {
    b"(B": "ascii", b"(J": "shift_jis", b")I": "shift_jis", b"$B": "iso2022_jp", b"$@": "iso2022_jp", b"$(D": "iso2022_jp_2",
    b"$)C": "euc_kr", b"$)A": "gb2312", b"-A": "latin-1", b"-B": "iso8859-2", b"-C": "iso8859-3", b"-D": "iso8859-4",
    b"-F": "iso8859-7", b"-G": "iso8859-6", b"-H": "iso8859-8", b"-L": "iso8859-5", b"-M": "iso8859-9", b"-T": "tis-620",
    b"-b": "iso8859-15",
}  # fmt: skip
IN_G0 = ("iso2022_jp", "iso2022_jp_2")  # seven-bit sets: Python's codec wants the escape sequence itself
ESCAPE = re.compile(rb"\x1b(\$\([A-Z]|\$\)[A-Z]|\$[A-Z@]|[-()][A-Za-z])")
SINGLE_BYTE = frozenset(c for c in CODECS.values() if c.startswith(("latin", "iso8859", "tis")))
LATIN = frozenset(CODECS[f"ISO_IR {n}"] for n in (100, 101, 109, 110, 148, 203))
# a character of UTF-8 without its end
CUT = re.compile(rb"(?:[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})$")


def decode(raw: bytes, declared: tuple[str, ...]) -> tuple[str, str]:
    """Text of an element (normal form C) and a doubt about it, as words that follow a file's name; empty without one."""
    raw = raw.rstrip(b"\0 ")
    if raw.isascii() and b"\x1b" not in raw:
        return _tidy(raw.decode("ascii")), ""
    terms = tuple(t.strip().upper().replace("ISO 2022 IR ", "ISO_IR ").replace("ISO 2022 ", "") for t in declared)
    name = "\\".join(declared) or "none"
    strange = [t for t in terms if t not in CODECS]
    found = None if strange else _strict(raw, [CODECS[t] for t in terms] or ["ascii"])
    if found is not None:
        doubt = (
            "" if set(terms) <= OF_THE_STANDARD or b"\x1b" in raw or "ISO 2022" in name else f"{name} is not in the standard"
        )
        first = CODECS[terms[0]] if terms else "ascii"
        better = _looks_like(raw) if first in SINGLE_BYTE else None
        if better is None or (better[1] != "utf-8" and first not in LATIN):  # two letters of Greek are a character elsewhere
            return _tidy(found), f"{doubt}; read as {found!r}" if doubt else ""
        if better[1] == "utf-8":  # so many bytes that fit by accident do not exist
            return _tidy(better[0]), f"declared character set {name}, but the bytes are UTF-8; read as {better[0]!r}"
        return _tidy(found), f"declared character set {name} gives {found!r}; as {better[1]} it would be {better[0]!r}"
    guess = _guessed(raw) or _guessed(CUT.sub(b"", raw))  # some cut a name at 64 bytes
    text, codec = guess if guess else (raw.decode("ascii", "backslashreplace"), "bytes")
    return _tidy(text), f"text does not fit the declared character set ({name}); taken for {codec}: {text!r}"


def _strict(raw: bytes, codecs: list[str]) -> str | None:
    """The text as declared, None where the bytes do not fit."""
    parts = ESCAPE.split(raw)
    texts = []
    try:
        for escape, part in zip([b"", *parts[1::2]], parts[::2], strict=True):
            codec = ESCAPES.get(escape, "") if escape else codecs[0]
            if codec in IN_G0 and escape:
                texts.append((b"\x1b" + escape + part).decode(codec))
            elif codec == "euc_kr":
                texts.append(part.decode("cp949"))
            else:
                texts.append(part.decode(codec))
    except (UnicodeDecodeError, LookupError):
        return None
    text = "".join(texts)
    return None if any(unicodedata.category(c) == "Cc" and c not in "\t\n\r\f" for c in text) else text


def _looks_like(raw: bytes) -> tuple[str, str] | None:
    """UTF-8, Korean or Japanese text that a single-byte set would swallow without complaint."""
    runs = re.findall(rb"[\x80-\xff]+", raw)
    guess = _guessed(raw) if runs and all(len(run) > 1 for run in runs) else None
    return guess if guess and guess[1] in ("utf-8", "cp949", "euc_jp") else None


def _guessed(raw: bytes) -> tuple[str, str] | None:
    """What undeclared bytes are, most telling first: UTF-8, EUC-JP with kana, Korean syllables, Shift JIS, Latin letters."""
    for codec, fits in (
        ("utf-8", lambda c: True),
        ("euc_jp", None),
        ("euc_kr", lambda c: "\uac00" <= c <= "\ud7a3"),  # the usual syllables: others are two characters of Shift JIS
        ("cp932", lambda c: "\u3040" <= c <= "\u30ff" or "\u4e00" <= c <= "\u9fff" or "\uff61" <= c <= "\uff9f"),
        ("cp949", lambda c: "\uac00" <= c <= "\ud7a3" or "\u4e00" <= c <= "\u9fff" or "\uf900" <= c <= "\ufaff"),
        ("latin-1", str.isalpha),
    ):
        try:
            text = raw.decode(codec)
        except UnicodeDecodeError:
            continue
        wide = [c for c in text if c > "\x7f"]
        if not wide or any(unicodedata.category(c) in ("Cc", "Co", "Cn") for c in wide):
            continue
        kana = sum("\u3041" <= c <= "\u30f6" for c in wide)
        if kana > 0 if fits is None else all(map(fits, wide)):
            return text, codec.replace("euc_kr", "cp949")
    return None


def _tidy(text: str) -> str:
    """One form for one text: composed, no control characters (arrays of text drop a trailing one), no space around."""
    plain = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") and c not in "\n\r\t\f" else c for c in text)
    return unicodedata.normalize("NFC", plain).strip().strip("\ufeff\u200b")
