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
    """Refuse what does not lie in the patient's frame of reference.

    Equal FrameOfReferenceUID means equal coordinates; nothing else does. Everything that is placed on a CT (dose, structure,
    plan, registration) comes through here.

    Parameters
    ----------
    patient : Dataset of `read_dicom` (or one of its arrays) with the attribute `frame_of_reference_uid`.
    other : the other object's UID, or an array with that attribute.
    what : the other object in the words of the message, e.g. the name of its file.
    quiet : no warning; for callers whose result carries the returned sentence as its attribute `assumed`.

    Returns
    -------
    what is assumed, "" where both state the same frame.

    Raises
    ------
    IonrtError where both state a frame and the two differ. Where one states none, an `IncompleteWarning` says that the objects
    are taken to share their coordinates.

    Reference: DICOM PS3.3 C.7.4.1.
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
