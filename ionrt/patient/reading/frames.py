"""The one door for frames of reference: what is placed on a CT belongs to the CT's frame, or is refused or left out by name."""

from __future__ import annotations

import warnings

import xarray as xr

from ionrt.patient.reading.notes import IncompleteWarning
from ionrt.quantities import IonrtError


def frame_fault(frame: str, other: str) -> str | None:
    """Why an object of frame `other` may not lie on a CT of frame `frame`: "" where it may, None where one is not stated."""
    if not frame or not other:
        return None
    return "" if frame == other else f"belongs to another frame of reference ({other}) than the CT ({frame})"


def check_frame(
    patient: xr.Dataset | xr.DataArray, other: str | xr.DataArray | xr.Dataset, *, what: str, quiet: bool = False
) -> str:
    """Refuse what does not lie in the patient's frame of reference (DICOM PS3.3 C.7.4.1).

    Equal FrameOfReferenceUID means equal coordinates; nothing else does. Everything that is placed on a CT (dose, structure,
    plan, registration) comes through here. `other` is its UID or an array with that attribute, `what` it in the words of the
    message, e.g. the name of its file.

    Where one side states none, they are taken to share their coordinates: that sentence is returned ("" else) and, unless
    `quiet`, is an `IncompleteWarning`; quiet is for callers whose result carries it as its attribute `assumed`.
    """
    uid = other if isinstance(other, str) else str(other.attrs.get("frame_of_reference_uid", ""))
    fault = frame_fault(str(patient.attrs.get("frame_of_reference_uid", "")), uid)
    if fault:
        raise IonrtError(f"{what} {fault}; expected the same one: register it to this CT or leave it out")
    if fault is not None:
        return ""
    assumed = f"{what}: no frame of reference stated on one side; taken to lie in the patient's"
    if not quiet:
        warnings.warn(assumed, IncompleteWarning, stacklevel=3)
    return assumed
