"""Stored pixel values without room for anything else, and the signs that an image holds text."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import Tag
from scipy import ndimage

from ionrt.patient.deid.allowlist import PLANES, stored, text
from ionrt.patient.reading.dicom_files import read_pixels

SCOUT = ("LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM")
LETTERS = np.zeros(256, dtype=bool)
LETTERS[[ord(c) for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 ^,.-_/="]] = True
TWO_LETTERS = (LETTERS[:, None] & LETTERS).ravel()  # of a 16-bit word
STROKE_PIXELS, SPIKES = 20, 6  # fewest pixels of a written word; values looked at
SIDES = ((0, -1), (0, 1), (-1, 0), (1, 0))


def why_not(data: Dataset, kind: str) -> str:
    """Why the pixels of an object may hold text, from what its header says in all places; empty where it does not."""
    if kind not in ("CT", "RTDOSE"):
        return ""
    numbers = {
        k: text(data, k) for k in ("BurnedInAnnotation", "ConversionType", "SeriesDescription", "ImageType", "ScanOptions")
    }
    said = [part.strip().upper() for k in ("ImageType", "ScanOptions") for part in numbers[k].split("\\")]
    if kind == "CT" and any(word in part for part in (*said, numbers["SeriesDescription"].upper()) for word in SCOUT):
        return "scout image"
    planes = said[2:3] if numbers["ImageType"] else []
    if kind == "CT" and (numbers["ConversionType"] or (planes and planes[0] not in (*PLANES, ""))):
        return "secondary capture or an image of another kind than slices"
    if numbers["BurnedInAnnotation"].upper() not in ("", "NO"):
        return "burned-in annotation"
    bits, samples = _int(data, "BitsAllocated"), _int(data, "SamplesPerPixel")
    if text(data, "PhotometricInterpretation") != "MONOCHROME2" or samples != 1:
        return "not a plain grey-scale image: it may hold text"
    if bits not in ((16,) if kind == "CT" else (16, 32)):
        return f"{bits} bits for a pixel: it may be a screen capture"
    if kind == "CT" and not text(data, "RescaleSlope") and numbers["ImageType"].startswith("DERIVED"):
        return "derived image without rescale: it may be a screen capture"
    return ""


def stored_values(path: Path, data: FileDataset) -> np.ndarray:
    """Pixel values of a file that was read, as stored, (frames, rows, columns), little endian, with no room for anything else.

    Unused bits are zero (of negative values one, as readers expect), the padding range is one value.
    """
    values, fields, _ = read_pixels(path, data)
    if fields.integer("HighBit", 15) != fields.integer("BitsStored", 16) - 1 or values.dtype.itemsize not in (2, 4):
        raise fields.error(
            "HighBit", "is not the highest of the stored bits; these pixels cannot be written anew: export again"
        )
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    if "PixelPaddingValue" not in fields or "PixelPaddingRangeLimit" not in fields:
        return values
    ends = [fields.integer(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    return np.where((values >= min(ends)) & (values <= max(ends)), np.array(ends[0]).astype(values.dtype), values)


def hidden_text(values: np.ndarray, *, dose: bool) -> str:
    """Why pixel values look like text: letters in the bytes of one row, or (images) thin strokes of one value."""
    if any(_letters(frame, dose) for frame in values):
        return "pixel values spell letters"
    if not dose and any(_strokes(frame) for frame in values):
        return "text drawn into the image"
    return ""


def _letters(frame: np.ndarray, dose: bool) -> bool:
    """Letters in the bytes of one row: 6 or more in a row of their own (in a dose 8), or 16 in an image."""
    width = frame.dtype.itemsize
    words = frame.view(f"<u{width}")
    if int(words.max(initial=0)) < 0x20 << 8 * (width - 1):
        return False  # the highest byte is no letter: the common case
    spelled = TWO_LETTERS[np.ascontiguousarray(words).view("<u2")].reshape(*words.shape, -1).all(axis=2)
    fewest = -(-(8 if dose else 6) // width)
    starts = max(spelled.shape[1] - fewest + 1, 0)
    together = np.logical_and.reduce([spelled[:, i : i + starts] for i in range(fewest)])
    for row in np.flatnonzero(together.any(axis=1)):
        for start, stop in _runs(spelled[row]):
            if stop - start < fewest:
                continue
            run = words[row, start:stop].astype(float)
            beside = [words[r, start:stop].astype(float) for r in (row - 1, row + 1) if 0 <= r < len(words)]
            near = 0.05 if dose else 0.5  # a dose falls off, but not to nothing in one voxel on both sides
            alone = beside and all(((other < near * run) | (other > run / near)).mean() > 0.9 for other in beside)
            if len(set(run)) > 1 and (alone or (not dose and stop - start >= 8)):
                return True
    return False


def _strokes(image: np.ndarray) -> bool:
    """Thin strokes of one value with sharp edges, several beside each other: letters drawn into an image.

    Tissue is never one value, and the point spread of a scanner leaves no edge of one pixel.
    """
    low, high = int(image.min()), int(image.max())
    if high - low < 16:
        return False
    counts = np.bincount((image.astype(np.int64) - low).ravel())
    beside = np.maximum(np.append(counts[1:], 0), np.append(0, counts[:-1]))
    spikes = np.flatnonzero(counts >= np.maximum(STROKE_PIXELS, 1.5 * beside))  # values that stand out of the histogram
    for value in (spikes[np.argsort(counts[spikes])[-SPIKES:]] + low).tolist():
        if counts[value - low] > max(400, image.size // 50):
            continue  # more than a few lines of text
        strokes = image == value
        rows, columns = np.divmod(np.flatnonzero(strokes), image.shape[1])
        near = [(np.clip(rows + i, 0, len(image) - 1), np.clip(columns + j, 0, image.shape[1] - 1)) for i, j in SIDES]
        steps = np.abs(np.stack([image[place] for place in near]).astype(np.int64) - value)
        edges = steps[steps > 0]
        if (steps > 0).any(axis=0).mean() < 0.8 or np.percentile(edges, 10) < 0.25 * (high - low):
            continue  # filled areas, or edges that fade
        if _in_line(strokes):
            return True
    return False


def _in_line(strokes: np.ndarray) -> bool:
    """Whether at least three separate parts of 4 to 64 rows stand side by side."""
    labels = ndimage.label(strokes, np.ones((3, 3)))[0]
    boxes = [(s[0].start, s[0].stop, s[1].start, s[1].stop) for s in ndimage.find_objects(labels) if s is not None]
    tall = sorted((b for b in boxes if 4 <= b[1] - b[0] <= 64 and b[3] - b[2] <= 64), key=lambda b: b[2])
    for top, bottom, *_ in tall:
        mates = [b for b in tall if abs(b[1] - bottom) <= max(2, (bottom - top) // 4)]
        if len(mates) >= 3 and len({b[2] for b in mates}) >= 3:
            gaps = [b[2] - a[3] for a, b in pairwise(mates)]
            if sum(-2 <= gap <= bottom - top for gap in gaps) >= 2:
                return True
    return False


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Start and stop of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _int(data: Dataset, keyword: str) -> int:
    """A whole number of the pixel module, 0 where it is absent or no number."""
    raw = stored(data, Tag(keyword), "US") if keyword in data else b""
    return int(np.frombuffer(raw, "<u2")[0]) if len(raw) == 2 else 0
