"""xarray engine: ``xr.open_dataset(folder, engine="dicom-rt")`` opens a study lazily."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xarray as xr
from pydicom.misc import is_dicom
from xarray.backends import BackendEntrypoint


class DicomBackend(BackendEntrypoint):
    """Opens a folder with CT and RTSTRUCT as `read_dicom(folder, lazy=True)` does."""

    description = "DICOM radiotherapy study: CT, structures, dose on one grid"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "series", "structure_set")

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        series: str | None = None,
        structure_set: str | None = None,
    ) -> xr.Dataset:
        """Read headers and contours; slices and fractions stay lazy until they are used."""
        from ionrt.patient.dicom import read_dicom

        patient = read_dicom(Path(filename_or_obj), series=series, structure_set=structure_set, lazy=True)
        for array in patient.data_vars.values():
            if array.chunks is not None:  # what xarray takes with chunks={}
                array.encoding["preferred_chunks"] = {dim: sizes[0] for dim, sizes in array.chunksizes.items()}
        names = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())
        return patient.drop_vars(names, errors="ignore")

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """A folder that holds a file with the DICOM mark."""
        if not isinstance(filename_or_obj, (str, os.PathLike)) or not os.path.isdir(filename_or_obj):
            return False
        return any(is_dicom(e.path) for e in os.scandir(str(filename_or_obj)) if e.is_file())
