"""Stored pixel values without room for anything else, and the signs that an image holds text."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from pydicom.dataset import Dataset
from scipy import ndimage

from ionrt.patient.dicom_clean import PLANES, text
from ionrt.quantities import IonrtError

NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "")
SCOUT = ("LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM")
LETTERS = np.zeros(256, dtype=bool)
LETTERS[[ord(c) for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 ^,.-_/="]] = True
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


def stored_values(data: Dataset, file: str) -> np.ndarray:
    """Pixel values as stored, (frames, rows, columns); unused bits are zero (of signed values: the sign), padding is one value.

    Valid for native pixels and for what pydicom's installed decoders can decode.
    """
    rows, columns = _int(data, "Rows"), _int(data, "Columns")
    frames = int(float(text(data, "NumberOfFrames") or 1))
    bits, used, high = (_int(data, k) for k in ("BitsAllocated", "BitsStored", "HighBit"))
    signed = _int(data, "PixelRepresentation") == 1
    if not (0 < used <= bits and high == used - 1 and bits in (16, 32) and rows * columns * frames > 0):
        raise IonrtError(f"{file}: {used} bits stored, highest {high}, of {bits}, {frames} frames: these pixels cannot be read")
    syntax = data.file_meta.get("TransferSyntaxUID", "") if hasattr(data, "file_meta") else ""
    raw = data.get_item("PixelData").value if "PixelData" in data else b""
    shape, size = (frames, rows, columns), frames * rows * columns * bits // 8
    if syntax in NATIVE:
        if not isinstance(raw, bytes) or len(raw) < size:
            raise IonrtError(f"{file}: the pixels are shorter than {frames} x {rows} x {columns} values; the file is truncated")
        order = ">" if syntax == "1.2.840.10008.1.2.2" else "<"
        values = np.frombuffer(raw, f"{order}u{bits // 8}", count=size // (bits // 8)).reshape(shape).astype(f"<u{bits // 8}")
    else:
        values = _decoded(data, shape, bits, file)
    if used < bits:
        values = values & np.array((1 << used) - 1, values.dtype)
        if signed:
            sign = np.array(1 << (used - 1), values.dtype)
            values = (values ^ sign) - sign  # the sign fills the bits above, as readers expect
    return _one_padding(values.view(f"<i{bits // 8}") if signed else values, data)


def hidden_text(values: np.ndarray, *, dose: bool) -> str:
    """Why pixel values look like text: letters in the bytes of one row, or (images) thin strokes of one value."""
    if any(_letters(frame, dose) for frame in values):
        return "pixel values spell letters"
    if not dose and any(_strokes(frame) for frame in values):
        return "text drawn into the image"
    return ""


def _decoded(data: Dataset, shape: tuple[int, ...], bits: int, file: str) -> np.ndarray:
    try:
        values = np.asarray(data.pixel_array)
    except Exception as error:  # a missing decoder or damaged stream
        raise IonrtError(f"{file}: compressed pixels that cannot be decoded here; decompress the file first") from error
    if values.size != np.prod(shape):
        raise IonrtError(f"{file}: decoded pixels do not have {shape} values; the file is damaged")
    return (
        values.reshape(shape).astype(f"<i{bits // 8}" if values.dtype.kind == "i" else f"<u{bits // 8}").view(f"<u{bits // 8}")
    )


def _one_padding(values: np.ndarray, data: Dataset) -> np.ndarray:
    """Values in the padding range become the padding value."""
    if "PixelPaddingValue" not in data or "PixelPaddingRangeLimit" not in data:
        return values
    ends = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        raw = data.get_item(keyword).value
        if isinstance(raw, bytes) and len(raw) == 2:
            ends.append(int(np.frombuffer(raw, "<i2" if values.dtype.kind == "i" else "<u2")[0]))
        elif isinstance(raw, int):
            ends.append(raw)
        else:
            return values
    inside = (values >= min(ends)) & (values <= max(ends))
    return np.where(inside, np.array(ends[0]).astype(values.dtype), values)


def _letters(frame: np.ndarray, dose: bool) -> bool:
    """Letters in the bytes of one row: 6 or more in a row of their own (in a dose 8), or 16 in an image."""
    width = frame.dtype.itemsize
    words = frame.view(f"<u{width}")
    floor = 0x20 << 8 * (width - 1)  # below it the highest byte is no letter: the common case, and over
    if int(words.max(initial=0)) < floor:
        return False
    for row in np.flatnonzero((words >= floor).any(axis=1)):
        spelled = LETTERS[np.ascontiguousarray(words[row]).view(np.uint8).reshape(-1, width)].all(axis=1)
        for start, stop in _runs(np.asarray(spelled)):
            if (stop - start) * width < (8 if dose else 6):
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
    element = data.get_item(keyword) if keyword in data else None
    value = element.value if element is not None else None
    if isinstance(value, bytes):
        order = "<" if getattr(element, "is_little_endian", True) else ">"
        return int(np.frombuffer(value, f"{order}u2")[0]) if len(value) == 2 else 0
    return int(value) if isinstance(value, int) else 0
