"""Calendar dates in text, as they are written in Korea, Japan, China, Europe and the United States."""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby

_MONTHS = (  # English, German, French, Spanish, Italian, Dutch, Portuguese; with the usual short forms
    "january|jan|januar|jän|jänner|janvier|janv|enero|ene|gennaio|gen|januari|janeiro "
    "february|feb|februar|février|févr|febrero|febbraio|februari|fevereiro|fev "
    "march|mar|märz|mär|mrz|mars|marzo|maart|mrt|março april|apr|avril|avr|abril|abr|aprile may|mai|mayo|maggio|mag|mei|maio "
    "june|jun|juni|juin|junio|giugno|giu|junho july|jul|juli|juillet|juil|julio|luglio|lug|julho "
    "august|aug|août|aout|agosto|ago|augustus september|sept|sep|septembre|septiembre|settembre|set|setembro "
    "october|oct|oktober|okt|octobre|octubre|ottobre|ott|outubro|out november|nov|novembre|noviembre|novembro "
    "december|dec|dezember|dez|décembre|déc|diciembre|dic|dicembre|dezembro"
)
_NAMES = sorted({m for month in _MONTHS.split(" ") for m in month.split("|")})


def _names(shortest: int) -> str:
    """The names of at least so many letters, by first letter: most texts that hold none are left after one look."""
    listed = groupby((m for m in _NAMES if len(m) >= shortest), key=lambda m: m[0])
    return "|".join(f"{first}(?:{'|'.join(m[1:] for m in same)})" for first, same in listed)


_NAME = _names(3)
_FOUR = _names(4)  # behind a day with a point
_LONG = _names(5)  # without a year: no "2 may" or "3 mars"
_ROMAN = r"(?:I{1,3}|IV|VI{0,3}|IX|XI{0,2})"
_Y, _M, _D = r"(?:19|20)\d{2}", r"(?:1[0-2]|0?[1-9])", r"(?:3[01]|[12]\d|0?[1-9])"
_M2, _D2, _Y2 = r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])", r"\d{2}"
_SEP = r"\s*[-/.‐‑–·]\s*"
_TIME = r"(?:\d{2}|\d{4}|\d{6}(?:\.\d+)?)?"
_DAY = rf"{_D}(?:st|nd|rd|th|er|\.|º|ª)?"
_GAP = r"[\s\-/.,]*(?:de[l]?\s+|of\s+)?"
_HAN = "[〇零一二三四五六七八九十廿]"
_FORMS = (
    rf"{_Y}{_SEP}{_M}{_SEP}{_D}\.?", rf"{_D}{_SEP}{_D}{_SEP}{_Y}", rf"{_Y}[-/]{_M}", rf"{_Y}\.\s?{_M}\.",
    rf"{_D2}[-/.]{_M2}[-/.]{_Y2}", rf"{_M2}[-/.]{_D2}[-/.]{_Y2}", rf"{_Y2}[-/.]{_M2}[-/.]{_D2}",
    rf"{_M}/{_D}/{_Y2}", rf"{_D}/{_M}/{_Y2}",
    rf"{_Y}{_M2}{_D2}{_TIME}", rf"{_D2}{_M2}{_Y}", rf"{_M2}{_D2}{_Y}", rf"{_Y}-?W\d{{2}}(?:-?\d)?", rf"{_Y}-[0-3]\d{{2}}",
    rf"{_Y2}{_M2}{_D2}-[1-8][\d*]{{6}}",  # a Korean resident number begins with the date of birth
    r"\d{1,4}\s*[年년]\s*\d{1,2}\s*[月월](?:\s*\d{1,2}\s*[日일])?", r"\d{1,2}\s*[月월]\s*\d{1,2}\s*[日일]",
    rf"{_HAN}{{1,5}}年\s*{_HAN}{{1,3}}月(?:\s*{_HAN}{{1,3}}日)?", rf"{_HAN}{{1,3}}月\s*{_HAN}{{1,3}}日",
    r"(?:明治|大正|昭和|平成|令和|民國|民国)\s*(?:\d{1,3}|元)\s*(?:年|[-/.])\s*\d{1,2}\s*(?:月|[-/.])",
    rf"[MTSHR]\s?\d{{1,2}}[-/.]{_M}[-/.]{_D}",
    rf"(?:{_DAY}{_GAP})?(?:{_NAME})\.?{_GAP}'?{_Y}", rf"{_DAY}[\s\-/.]*(?:{_NAME})[\s\-/.,]*'?{_Y2}",
    rf"(?:{_NAME})\.?[\s\-/]+{_DAY}[\s\-/,]*'?(?:{_Y}|{_Y2})", rf"{_Y}[\s\-/.,]*(?:{_NAME})(?:[\s\-/.,]*{_DAY})?",
    rf"{_DAY}\s*(?:de\s+|of\s+)?(?:{_LONG})", rf"(?:{_LONG})\s+{_DAY}", rf"{_D}\.\s?(?:{_FOUR})",
    rf"{_D}\.\s?{_M}\.\s?{_Y2}", rf"'{_Y2}\.\s?{_M}\.\s?{_D}", rf"{_Y2}\.\s{_M}\.\s{_D}",  # 1.3.19, '19.3.1, 19. 3. 1
    rf"{_Y}(?:_{_M2}_|\s{_M2}\s){_D2}", rf"{_D2}(?:_{_M2}_|\s{_M2}\s){_Y}", rf"{_M}/{_Y}",
    rf"{_D}[-.]\s?{_ROMAN}[-.]\s?{_Y}", rf"[明大昭平令]\s?\d{{1,2}}[-/.]{_M}[-/.]{_D}",
    rf"(?:{_NAME})-{_Y2}", rf"{_D}-(?:{_NAME})",  # as spreadsheets show a date: Mar-19, 1-Mar
)  # fmt: skip
DATE = re.compile(r"(?<![0-9A-Za-z])(?:" + "|".join(_FORMS) + r")(?!\d)(?!(?!T\d)[A-Za-z])", re.IGNORECASE)

_SPACE = re.compile(r"\s+")  # runs of spaces would cost time, not find dates


def holds_date(text: str) -> bool:
    """Whether a calendar date stands somewhere in the text; full-width and other scripts' digits count as plain ones."""
    plain = unicodedata.normalize("NFKC", _SPACE.sub(" ", text))
    if not plain.isascii():
        plain = "".join(str(unicodedata.decimal(c, c)) for c in plain)
    return bool(DATE.search(plain))
