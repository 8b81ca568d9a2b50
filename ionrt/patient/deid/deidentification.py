"""De-identify a folder of DICOM objects for the exchange, and prove that nothing of the patient is left."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, UID_dictionary
from tqdm import tqdm

from ionrt.files import atomic
from ionrt.patient.deid.allowlist import BINARY, OBJECTS, allowed, left_out, payload, regular, sequence, stored, text
from ionrt.patient.deid.dicom_clean import GENERATED, METHOD, METHODS, Cleaner, Patient, Secret
from ionrt.patient.deid.identifiers import Identifiers
from ionrt.patient.deid.pixel_text import hidden_text, stored_values, why_not
from ionrt.patient.reading.dicom_files import Header, read_all, scan
from ionrt.patient.reading.door import DAMAGED, read_dataset
from ionrt.patient.writing.objects import meta_of
from ionrt.quantities import IonrtError

SHORTEST_KEY, FEWEST_BITS = 16, 48
NUMERIC = ("ROIContourSequence", "IonBeamSequence", "BeamSequence", "ReferencedFrameOfReferenceSequence")
NAMELESS = frozenset(int(Tag(name)) for name in NUMERIC)  # long ones, in which no names are looked for
MADE = ("Item", "ROI", "Beam", "Tolerance", "Snout", "RangeShifter", "Spreader", "Modulator", "Tune")  # names made here
LONGEST_EXPLICIT = 0xFFFE  # bytes of a value with an explicit VR of two length bytes


@dataclass
class _File:
    """One object of the folder: where it is, what it is called outside, why it stays."""

    path: Path
    source: str
    kind: str
    study: str = ""
    patient: str = ""
    instance: str = ""
    digest: str = ""
    reason: str = ""
    file: str = ""
    note: str = ""


def deidentify(folder: str | Path, out: str | Path, *, key: str | bytes, mapping: str | Path | None = None) -> pd.DataFrame:
    """Write a de-identified copy of all CT, RTSTRUCT, RTDOSE, RT plan and registration objects of a folder.

    PS3.15 basic profile with clean descriptors and modified dates, by an allow-list: an attribute stays only where
    `tables/deidentify.csv` names it for its object and place, and its value only where it is valid and regular (a defined term,
    a number in range); texts are the nomenclature's, or made here. New UID = 2.25.HMAC-SHA256(key, old); patient name and ID
    become one keyed pseudonym; dates move back by a whole number of weeks that belongs to the patient, times keep their hour.
    Pixels are written anew from the decoded values. The output is then read back: each element must be one of the list,
    geometry, doses, contours and spots must equal the input, and names, numbers and birth dates are searched once more.

    Parameters
    ----------
    folder : the patient's files (sub-folders included; several patients may lie there).
    out : new or empty folder outside `folder`.
    key : secret of the site, 16 bytes or more, made by chance: `secrets.token_hex(32)`; the same key gives the same pseudonyms
        and UIDs. It must not leave the site.
    mapping : CSV file for the table of old and new (stays at the site, outside `out`); not written by default.

    Returns
    -------
    DataFrame, one row per file: `source`, `file` (name in `out`), `kind`, `reason` (empty, or why the file was refused: scout,
    secondary capture, pixels that may hold text, other object, copy of another file), `left_out` (sequences that have no place
    in the allow-list). For the site: `source` may name the patient.

    Raises
    ------
    IonrtError for a weak key, an `out` that is not empty or lies inside `folder` (or the reverse), no acceptable object, a
    study without patient ID and name, two objects of one SOP instance UID, a value that geometry, dose or plan need and
    that is irregular, or a verification that found something; then nothing is written. No message shows a value.

    Valid for the listed objects; the shape of the body stays, so that a head CT still shows a face.

    References
    ----------
    DICOM PS3.15 Annex E; PS3.3 (defined terms).

    Examples
    --------
    >>> import secrets, ionrt
    >>> key = secrets.token_hex(32)  # once per site; keep it
    >>> ionrt.deidentify("study", "out", key=key)  # doctest: +SKIP
    """
    secret = _secret(key)
    del key  # a traceback that shows local variables must not show it
    root, target = _check_places(Path(folder), Path(out), mapping)
    identifiers = Identifiers()
    files = [_look(header, root, identifiers) for header in scan(root)]
    _refuse_single_planes(files)
    _name_patients(files)
    _refuse_copies(files)
    cleaner = Cleaner(secret, identifiers)
    patients = {name: cleaner.patient(name) for name in sorted({f.patient for f in files if not f.reason})}
    _check_any(files, folder)
    with atomic(target, folder=True) as place:
        for one in tqdm([f for f in files if not f.reason], desc="de-identify", disable=None):
            _write_one(one, place, cleaner, patients[one.patient])
        _check_any(files, folder)
        if mapping is not None:  # the table of old and new, for the eyes of the site alone
            rows = [{"kind": kind, "old": old, "new": new} for (kind, old), new in sorted(cleaner.mapping.items())]
            with atomic(mapping) as table:
                table.touch(mode=0o600)
                pd.DataFrame(rows, columns=["kind", "old", "new"]).to_csv(table, index=False)
    columns = ["source", "file", "kind", "reason", "note"]
    return pd.DataFrame([[getattr(f, name) for name in columns] for f in files], columns=columns)


def _secret(key: str | bytes) -> Secret:
    """A key worth its name: long enough, and no word over and over, no row of letters."""
    raw = key.encode() if isinstance(key, str) else bytes(key)
    unit = raw[: (raw + raw).find(raw, 1)] if raw else raw  # what it repeats
    bits = min(_bits(unit), _bits(bytes((b - a) % 256 for a, b in pairwise(unit))))
    if len(raw) < SHORTEST_KEY or bits < FEWEST_BITS:
        raise IonrtError(
            f"deidentify: expected a key of at least {SHORTEST_KEY} bytes that nobody can guess, got"
            f" {len(raw)} bytes worth {bits:.0f} bits; make one with secrets.token_hex(32) and keep it"
        )
    return Secret(raw)


def _bits(raw: bytes) -> float:
    """Shannon entropy of the bytes of a key, bits."""
    counts = Counter(raw).values()
    return -sum(n * math.log2(n / len(raw)) for n in counts)


def _check_places(folder: Path, out: Path, mapping: str | Path | None) -> tuple[Path, Path]:
    """Folders apart, nothing to overwrite."""
    root, target = folder.resolve(), out.resolve()
    if target == root or root in target.parents or target in root.parents:
        raise IonrtError(f"deidentify: {out} and {folder} lie within each other; expected two separate folders")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise IonrtError(f"deidentify: {out} is not empty; expected a new or empty folder")
    if mapping is not None and target in Path(mapping).resolve().parents:
        raise IonrtError(f"deidentify: the mapping {mapping} would lie in the output; keep it at the site")
    return root, target


def _look(header: Header, root: Path, identifiers: Identifiers) -> _File:
    """What an object is and who it belongs to; its names and numbers go to the identifiers."""
    data = read_dataset(header.path, pixels=False) or Dataset()
    one = _File(header.path, str(header.path.relative_to(root)), text(data, "Modality"))
    try:
        identifiers.collect(data, skip=NAMELESS)
        one.note = ", ".join(left_out(data, OBJECTS.get(text(data, "SOPClassUID"), "")))
    except Exception as error:  # whatever a damaged sequence makes the parser raise
        raise IonrtError(f"{header.path.name}: an element cannot be read; {DAMAGED}, export it again") from error
    kind = text(data, "SOPClassUID")
    if kind not in OBJECTS:
        known = kind in UID_dictionary
        one.reason = f"object {UID(kind).name if known else 'of unknown class' if kind else 'without class'} is not supported"
        one.note = ""
        return one
    one.kind, one.reason = OBJECTS[kind], why_not(data, OBJECTS[kind])
    one.study, one.instance = text(data, "StudyInstanceUID"), text(data, "SOPInstanceUID")
    one.patient = text(data, "PatientID") or (text(data, "PatientName") and f"\0{text(data, 'PatientName')}")
    if one.kind == "CT" and _is_upright(data):
        one.file = text(data, "SeriesInstanceUID")  # until it is known how many slices the series has
    one.note = one.note and f"left out: {one.note}"
    return one


def _is_upright(data: Dataset) -> bool:
    """Whether the plane of an image is not a transverse one."""
    raw = text(data, "ImageOrientationPatient").split("\\")
    try:
        row, column = np.array(raw, dtype=float).reshape(2, 3)
    except ValueError:
        return False
    return bool(abs(np.cross(row, column)[2]) < 0.7)


def _refuse_single_planes(files: list[_File]) -> None:
    """One to three upright images are scouts, whatever they are called; more are a stack."""
    series = Counter(f.file for f in files if f.file)
    for one in files:
        if one.file and not one.reason and series[one.file] <= 3:
            one.reason = "scout image (few images in an upright plane)"
        one.file = ""


def _name_patients(files: list[_File]) -> None:
    """One study has one patient; an object without number or name takes those of its study."""
    studies: dict[str, list[_File]] = defaultdict(list)
    for one in files:
        if not one.reason:
            studies[one.study].append(one)
    for study, members in studies.items():
        found = Counter(f.patient for f in members if f.patient and not f.patient.startswith("\0"))
        found = found or Counter(f.patient for f in members if f.patient)
        if not study or not found:
            raise IonrtError(
                f"{members[0].path.name}: neither patient ID nor name, or no study; a pseudonym needs one of them in each study"
            )
        chosen = max(sorted(found), key=found.__getitem__)
        for one in members:
            if one.patient != chosen and not (one.patient.startswith("\0") and not chosen.startswith("\0")):
                one.note += (
                    "; " * bool(one.note) + "patient ID missing or other than in most of the study, whose pseudonym it gets"
                )
            one.patient = chosen.removeprefix("\0")


def _refuse_copies(files: list[_File]) -> None:
    """Copies of a file are left out; different objects with one instance UID are an error, as one would overwrite the other."""
    seen: dict[str, _File] = {}
    twice = Counter(f.instance for f in files if not f.reason)
    for one in files:
        if one.reason or twice[one.instance] < 2:
            continue
        one.digest = hashlib.sha256(one.path.read_bytes()).hexdigest()
        first = seen.setdefault(one.instance, one)
        if first is not one and first.digest != one.digest:
            raise IonrtError(
                f"{first.source} and {one.source}: different objects with the same SOP instance UID; export them again or"
                " take one away"
            )
        one.reason = "" if first is one else "copy of another file"


def _check_any(files: list[_File], folder: str | Path) -> None:
    if all(f.reason for f in files):
        raise IonrtError(f"{folder}: no object to de-identify; refused: {', '.join(sorted({f.reason for f in files}))}")


def _write_one(one: _File, folder: Path, cleaner: Cleaner, patient: Patient) -> None:
    """Clean, write, read back, search, compare; an object whose pixels may hold text is refused."""
    data = read_all(one.path)
    if one.kind == "CT" and "PixelData" not in data:  # a dose may hold histograms only
        raise IonrtError(f"{one.path.name}: a CT without pixels; the file is damaged, export it again")
    values = stored_values(one.path, data) if one.kind in ("CT", "RTDOSE") and "PixelData" in data else None
    if values is not None:
        one.reason = (
            hidden_text(values, dose=one.kind == "RTDOSE")
            or (cleaner.identifiers.in_bytes(values.tobytes()) and "pixel values spell a name")
            or ""
        )
        if one.reason:
            return
    before = _digest(data, one)
    new = cleaner.clean(data, patient, one.path.name)
    if "SOPInstanceUID" not in new:
        raise IonrtError(f"{one.path.name}: SOPInstanceUID is missing or no UID; {DAMAGED}, export it again")
    if values is not None:
        new.add_new("PixelData", "OW", values.tobytes())
        for keyword, extreme in (("SmallestImagePixelValue", values.min()), ("LargestImagePixelValue", values.max())):
            if keyword in data and values.dtype.itemsize == 2:
                new.add_new(keyword, "SS" if values.dtype.kind == "i" else "US", int(extreme))
    explicit = _fits_explicit(new)
    meta = meta_of(new, ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian)
    _as_they_are(new, implicit=not explicit)
    new.file_meta, new.preamble = meta, b"\0" * 128
    one.file = f"{one.kind}.{new.SOPInstanceUID}.dcm"
    pydicom.dcmwrite(folder / one.file, new, enforce_file_format=True)
    _verify(folder / one.file, one, before, values, cleaner.identifiers, patient)


def _fits_explicit(data: Dataset) -> bool:
    """Whether each value is short enough for an explicit VR."""
    for tag in data.keys():  # noqa: SIM118
        element = data.get_item(tag)
        if element.VR == "SQ":
            if not all(_fits_explicit(item) for item in element.value):
                return False
        elif isinstance(element.value, bytes) and element.VR not in ("OW", "OB") and len(element.value) > LONGEST_EXPLICIT:
            return False
    return True


def _as_they_are(data: Dataset, *, implicit: bool) -> None:
    """Let pydicom write the bytes of each element as they stand, at all depths, instead of reading and forming them again."""
    data.set_original_encoding(implicit, True, data._character_set)
    for tag in data.keys():  # noqa: SIM118
        element = data.get_item(tag)
        for item in element.value if element.VR == "SQ" else ():
            _as_they_are(item, implicit=implicit)


def _digest(data: Dataset, one: _File) -> str:
    """A digest of all numbers and terms that carry geometry, dose and plan, in their order."""
    digest = hashlib.sha256()
    for part in payload(data, one.kind, one.path.name):
        digest.update(part + b"\0")
    return digest.hexdigest()


def _verify(path: Path, one: _File, before: str, values: np.ndarray | None, identifiers: Identifiers, patient: Patient) -> None:
    """What must be equal is equal, each element is one of the list with a regular value, and no identifier is found."""
    data = read_all(path)
    if _digest(data, one) != before:
        raise IonrtError(f"{one.path.name}: geometry, contours, dose or spots changed on the way; nothing was written")
    if values is not None and data.PixelData[: values.nbytes] != values.tobytes():
        raise IonrtError(f"{one.path.name}: pixels changed on the way; nothing was written")
    _search(data, one, "-", identifiers, {patient.alias, METHOD, *(meaning for _, meaning in METHODS)})
    for tag in data.file_meta.keys():  # noqa: SIM118
        if dictionary_VR(tag) == "UI" and not _is_new(stored(data.file_meta, tag, "UI").decode("latin-1")):
            raise IonrtError(f"{one.path.name}: a UID of the input is still in the file meta; nothing was written")


def _search(data: Dataset, one: _File, place: str, identifiers: Identifiers, made: set[str]) -> None:
    """Look at each element of an output with the eyes of somebody who wants to find the patient."""
    rules = allowed(one.kind, place)
    for tag in data.keys():  # noqa: SIM118
        keyword, rule = keyword_for_tag(tag), rules.get(int(tag))
        if rule is not None and rule.name == "pixels":
            continue  # the values that were searched, and their extremes
        problem = ""
        if rule is None:
            problem = "" if place == "-" and keyword in GENERATED else "has no place in the allow-list"
        elif rule.name in ("items", "codes"):
            for item in sequence(data, tag, one.path.name) if rule.name == "items" else ():
                _search(item, one, keyword, identifiers, made)
        else:
            raw = stored(data, int(tag), rule.vr)
            shown = "" if rule.vr in BINARY else raw.decode("latin-1")
            if rule.name in ("number", "terms") and not regular(raw, rule):
                problem = "has an irregular value"
            elif rule.vr in BINARY:
                problem = "holds an identifier" if identifiers.in_bytes(raw) else ""
            elif not (shown.isascii() and shown.isprintable()):
                problem = "holds other than plain text"
            elif rule.vr == "UI" and not all(_is_new(uid) for uid in shown.split("\\") if uid):
                problem = "holds a UID of the input"
            elif rule.vr in ("LO", "SH", "LT", "ST", "UT", "PN") and shown not in made and not _is_made(shown):
                problem = "holds an identifier" if identifiers.hit(shown) else ""
        if problem:
            raise IonrtError(f"{one.path.name}: {keyword or tag} {problem} after cleaning; nothing was written")


def _is_new(uid: str) -> bool:
    return uid.startswith("2.25.") or uid in UID_dictionary


def _is_made(shown: str) -> bool:
    """A name made here: a kind and a running number."""
    kind, _, number = shown.rpartition("_")
    return shown == "DEIDENTIFIED" or (number.isdigit() and kind in MADE)
