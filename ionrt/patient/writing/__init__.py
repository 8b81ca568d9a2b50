"""DICOM out: doses, plans, phantoms; every file whole or not at all, with the identity of the CT it belongs to."""
