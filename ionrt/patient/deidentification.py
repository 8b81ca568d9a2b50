"""De-identify a folder of DICOM objects for the exchange, and prove that nothing of the patient is left."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID
from tqdm import tqdm

from ionrt.files import atomic
from ionrt.patient.dicom_clean import Cleaner, find, texts
from ionrt.patient.dicom_files import Header, read_all, scan
from ionrt.patient.dicom_write import IMPLEMENTATION
from ionrt.quantities import IonrtError

ACCEPTED = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.481.2": "RTDOSE",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
    "1.2.840.10008.5.1.4.1.1.481.5": "RTPLAN",
    "1.2.840.10008.5.1.4.1.1.481.8": "RTPLAN",
    "1.2.840.10008.5.1.4.1.1.66.1": "REG",
}
PAYLOAD = (
    "PixelData", "ContourData", "ScanSpotPositionMap", "ScanSpotMetersetWeights", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "GridFrameOffsetVector", "DoseGridScaling", "RescaleSlope", "RescaleIntercept",
    "IsocenterPosition",
    "NominalBeamEnergy", "GantryAngle", "PatientSupportAngle", "FrameOfReferenceTransformationMatrix",
    "CumulativeMetersetWeight",
)  # fmt: skip
SHORTEST_KEY = 16


def deidentify(folder: str | Path, out: str | Path, *, key: str | bytes, mapping: str | Path | None = None) -> pd.DataFrame:
    """Write a de-identified copy of all CT, RTSTRUCT, RTDOSE, RT plan and registration objects of a folder.

    PS3.15 basic profile with clean descriptors and modified dates. New UID = 2.25.HMAC-SHA256(key, old); patient name and ID
    become one keyed pseudonym; dates move back by a whole number of weeks that belongs to the patient. Private elements and
    free text go; a structure keeps its name where it is one of the nomenclature. Afterwards every element and byte of the
    output is searched for what was taken out, and pixels, contours and spots are compared with the input.

    Parameters
    ----------
    folder : the patient's files (sub-folders included; several patients may lie there).
    out : new or empty folder outside `folder`.
    key : secret of the site, 16 bytes or more; the same key gives the same pseudonyms and UIDs. It must not leave the site.
    mapping : CSV file for the table of old and new (stays at the site, outside `out`); not written by default.

    Returns
    -------
    DataFrame, one row per file: `source`, `file` (name in `out`), `kind`, `reason` (empty, or why the file was refused: scout,
    secondary capture, burned-in annotation, other object).

    Raises
    ------
    IonrtError for a short key, an `out` that is not empty or lies inside `folder` (or the reverse), no acceptable object,
    objects without patient ID and name, or a verification that found something; then nothing is written.

    Valid for the listed objects; pixel data are not altered, so that a head CT still shows a face.
    Reference: DICOM PS3.15 Annex E.
    """
    root, target, secret = _check_places(Path(folder), Path(out), key, mapping)
    headers = scan(root)
    rows, cleaner = [], Cleaner(secret)
    accepted = []
    for header in headers:
        reason = _refusal(header)
        rows.append(
            {
                "source": str(header.path.relative_to(root)),
                "file": "",
                "kind": str(header.get("Modality", "")),
                "reason": reason,
            }
        )
        accepted += [] if reason else [(header, rows[-1])]
    if not accepted:
        raise IonrtError(f"{folder}: no object to de-identify; refused: {', '.join(sorted({r['reason'] for r in rows}))}")
    for header, _ in accepted:  # first everything that identifies, so that each file can be searched for all of it
        cleaner.clean(_parse(header.path, pixels=False))
    identifiers = cleaner.identifiers()
    with atomic(target, folder=True) as place:
        for header, row in tqdm(accepted, desc="de-identify", disable=None):
            row["file"] = _write_one(header.path, place, cleaner, identifiers)
        if mapping is not None:
            table = [{"kind": kind, "old": old, "new": new} for (kind, old), new in sorted(cleaner.mapping.items())]
            pd.DataFrame(table, columns=["kind", "old", "new"]).to_csv(mapping, index=False)
    return pd.DataFrame(rows)


def _check_places(folder: Path, out: Path, key: str | bytes, mapping: str | Path | None) -> tuple[Path, Path, bytes]:
    """Folders apart, nothing to overwrite, a key worth its name."""
    secret = key.encode() if isinstance(key, str) else key
    if len(secret) < SHORTEST_KEY:
        raise IonrtError(
            f"deidentify: expected a key of at least {SHORTEST_KEY} bytes, got {len(secret)};"
            " use secrets.token_hex(32) and keep it"
        )
    root, target = folder.resolve(), out.resolve()
    if target == root or root in target.parents or target in root.parents:
        raise IonrtError(f"deidentify: {out} and {folder} lie within each other; expected two separate folders")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise IonrtError(f"deidentify: {out} is not empty; expected a new or empty folder")
    if mapping is not None and target in Path(mapping).resolve().parents:
        raise IonrtError(f"deidentify: the mapping {mapping} would lie in the output; keep it at the site")
    return root, target, secret


def _refusal(header: Header) -> str:
    """Why an object does not leave the house; empty where it may."""
    kind = str(header.get("SOPClassUID", ""))
    if kind not in ACCEPTED:
        return f"object {UID(kind).name if kind else 'without class'} is not supported"
    if "LOCALIZER" in (header.get("ImageType") or ()):
        return "scout image"
    if header.get("BurnedInAnnotation") == "YES":
        return "burned-in annotation"
    if not str(header.get("PatientID") or header.get("PatientName") or "").strip():
        raise IonrtError(f"{header.path.name}: neither patient ID nor name; a pseudonym needs one of them")
    return ""


def _parse(path: Path, *, pixels: bool) -> Dataset:
    """The whole object, or all but its pixels."""
    return read_all(path) if pixels else pydicom.dcmread(path, stop_before_pixels=True, force=True)


def _write_one(path: Path, folder: Path, cleaner: Cleaner, identifiers: dict[str, str]) -> str:
    """Clean, write, read back, search, compare; the name of the new file."""
    data = _parse(path, pixels=True)
    before, syntax = _payload(data), data.file_meta.get("TransferSyntaxUID", pydicom.uid.ImplicitVRLittleEndian)
    cleaner.clean(data)
    cleaner.scrub(data, identifiers)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.TransferSyntaxUID, meta.ImplementationClassUID = syntax, UID(IMPLEMENTATION)
    meta.ImplementationVersionName = "IONRT"
    data.file_meta, data.preamble = meta, b"\0" * 128
    name = f"{ACCEPTED[data.SOPClassUID]}.{data.SOPInstanceUID}.dcm"
    pydicom.dcmwrite(folder / name, data, enforce_file_format=True)
    _verify(folder / name, before, identifiers, path.name)
    return name


def _verify(path: Path, before: str, identifiers: dict[str, str], source: str) -> None:
    """Search every element and every byte for identifiers; compare the payload."""
    data = read_all(path)
    for part in (data.file_meta, data):
        for _, element in texts(part):
            hit = find(str(element.value), identifiers)
            if hit:
                where = element.keyword or element.tag
                raise IonrtError(f"{source}: an identifier from {identifiers[hit]} is still in {where}; nothing was written")
            if element.tag.is_private:
                raise IonrtError(f"{source}: private element {element.tag} is still there; nothing was written")
    pixels = data.get("PixelData") or b""
    raw = path.read_bytes()
    rest = (raw[: raw.find(pixels)] + raw[raw.find(pixels) + len(pixels) :] if len(pixels) > 64 else raw).lower()
    for identifier, where in identifiers.items():
        if identifier.encode("utf-8", "ignore") in rest:
            raise IonrtError(f"{source}: an identifier from {where} is still in the bytes of the output; nothing was written")
    if _payload(data) != before:
        raise IonrtError(f"{source}: pixels, contours or spots changed on the way; nothing was written")


def _payload(data: Dataset) -> str:
    """A digest of all numbers that carry geometry, image, dose and plan, in their order."""
    digest = hashlib.sha256()
    _add_payload(data, digest)
    return digest.hexdigest()


def _add_payload(data: Dataset, digest: Any) -> None:
    for tag in sorted(data.keys()):
        keyword = pydicom.datadict.keyword_for_tag(tag)
        if keyword in PAYLOAD:
            value = data.get_item(tag).value
            raw = value if isinstance(value, bytes) else np.array(value, dtype=str).tobytes()
            digest.update(keyword.encode() + raw.rstrip(b" \0"))
        elif not tag.is_private and getattr(data.get_item(tag), "VR", None) in ("SQ", None) and data[tag].VR == "SQ":
            for item in data[tag].value or ():
                _add_payload(item, digest)
