"""What a structure is, by its name."""

from __future__ import annotations

EXTERNAL_NAMES = ("body", "external", "skin", "outline", "patient")
TARGET_NAMES = ("gtv", "ctv", "itv", "ptv")
SUBTRACTED = ("bladder", "bowel", "brain", "heart", "kidney", "liver", "lung", "pancreas", "rectum", "stomach", *EXTERNAL_NAMES)


def is_external(name: str) -> bool:
    """Whether a structure is the patient's outline, by its usual names."""
    return name.strip().lower() in EXTERNAL_NAMES


def is_target(name: str) -> bool:
    """Whether a structure is a target volume (GTV, CTV, ITV, PTV), by its name; an organ less the target (``Lungs-GTV``, as
    TG-263 writes it) is none."""
    before, minus, _ = name.lower().partition("-")
    if minus and any(organ in before for organ in SUBTRACTED) and not any(volume in before for volume in TARGET_NAMES):
        return False
    return any(volume in name.lower() for volume in TARGET_NAMES)


def is_margin_of(name: str, target: str) -> bool:
    """Whether a structure is a target expanded by a margin, such as ``Tumour_1 + 5.0 mm``, by its name."""
    return name.strip().lower().startswith(f"{target.strip().lower()} +")
