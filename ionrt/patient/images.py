"""Doses and LETd of other codes: MetaImage (MHD, MHA) and NRRD in and out, on any grid along the patient's axes."""

from __future__ import annotations

import math
import os
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ionrt.files import atomic, content_hash
from ionrt.patient.reading.notes import IncompleteWarning
from ionrt.quantities import QUANTITIES, IonrtError, one_of, stamp

DIMS = ("z", "y", "x")
META_TYPES = {"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
              "MET_FLOAT": "f4", "MET_DOUBLE": "f8"}  # fmt: skip
NRRD_TYPES = {"signed char": "i1", "int8": "i1", "uchar": "u1", "unsigned char": "u1", "uint8": "u1", "short": "i2",
              "int16": "i2",
              "ushort": "u2", "unsigned short": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
              "unsigned int": "u4", "float": "f4", "double": "f8"}  # fmt: skip
SPACES = {"left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1), "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
          "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1)}  # fmt: skip
SLANT = 1e-3  # of a direction cosine: an axis that leans more is oblique
MOST = 1 << 34  # bytes of a volume
FARTHEST, LARGEST = 1e5, 1e12  # mm from the origin, and of a value: beyond, the file is damaged


def read_image(path: str | Path, quantity: str = "dose", *, factor: float = 1.0, **attrs: Any) -> xr.DataArray:
    """Read a volume of another code as a quantity of ours, on its own grid.

    Parameters
    ----------
    path : .mhd or .mha (MetaImage), .nrrd or .nhdr.
    quantity : what it is ("dose" in Gy, "rbe_dose", "let_d", ...): the files do not say.
    factor : to the quantity's unit, for instance the number of particles for a dose per particle.
    attrs : what the quantity must carry: `let_definition`, `rbe_model`.

    Returns
    -------
    DataArray (z, y, x), float32 (float64 stays), voxel centres in mm (LPS), ascending; attribute `assumed`, with a warning,
    where a MetaImage states no spacing or no place.

    Raises
    ------
    IonrtError for another format, oblique axes, a missing or short data file, values that are not finite, an LET without
    definition or an RBE-weighted dose without model.

    References
    ----------
    MetaImage and NRRD formats as ITK writes them (positions are voxel centres).
    """
    file = Path(path)
    if not os.path.isfile(file):
        raise IonrtError(f"{file}: no such file; expected a MetaImage or NRRD volume")
    suffix = one_of(file.suffix.lower(), (".mhd", ".mha", ".nrrd", ".nhdr"), what=f"{file.name}: format")
    if not (np.isfinite(factor) and factor > 0.0):
        raise IonrtError(f"read_image: expected a factor above 0, got {factor!r}")
    for needed in QUANTITIES[one_of(quantity, tuple(QUANTITIES), what="read_image: quantity")].carries:
        if not attrs.get(needed):
            raise IonrtError(f"read_image: {quantity} needs {needed}=, which {file.name} does not carry; ask who made it")
    try:
        values, directions, origin, assumed = _meta(file) if suffix in (".mhd", ".mha") else (*_nrrd(file), "")
    except (KeyError, ValueError, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        if isinstance(error, IonrtError):
            raise
        raise IonrtError(f"{file.name}: cannot be read ({error}); expected a whole {suffix} volume") from error
    if assumed:
        warnings.warn(f"{file.name}: {assumed}", IncompleteWarning, stacklevel=2)
    out = _named(_upright(values, directions, origin, file), quantity, factor, attrs, file)
    return out.assign_attrs(assumed=assumed) if assumed else out


def write_image(da: xr.DataArray, path: str | Path) -> Path:
    """Write a volume as MetaImage (.mha, header and data in one file) or NRRD (.nrrd), by the name of the file.

    Attributes are not kept: say what it is in the file's name.

    Parameters
    ----------
    da : (z, y, x) on a uniform grid in mm (LPS).
    path : replaced only by a complete file.

    Returns
    -------
    The path.

    Raises
    ------
    IonrtError
        Another ending, uneven spacing.
    """
    file = Path(path)
    suffix = one_of(file.suffix.lower(), (".mha", ".nrrd"), what="write_image: format")
    values = np.ascontiguousarray(da.transpose(*DIMS).values, dtype="<f4")
    lines = [da[d].values.astype(float) for d in ("x", "y", "z")]
    steps = [float(line[-1] - line[0]) / (line.size - 1) if line.size > 1 else 1.0 for line in lines]
    if any(line.size > 1 and np.abs(np.diff(line) - s).max() > 1e-4 * abs(s) for line, s in zip(lines, steps, strict=True)):
        raise IonrtError("write_image: expected a uniform grid; regrid first")
    sizes, first = [line.size for line in lines], [float(line[0]) for line in lines]
    join = " ".join
    if suffix == ".mha":
        header = (
            "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
            f"TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = {join(map(repr, first))}\n"
            f"ElementSpacing = {join(map(repr, steps))}\n"
            f"DimSize = {join(map(str, sizes))}\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
        )
    else:
        axes = join(f"({','.join(repr(s) if i == k else '0' for i in range(3))})" for k, s in enumerate(steps))
        header = (
            "NRRD0004\ntype: float\ndimension: 3\nspace: left-posterior-superior\n"
            f"sizes: {join(map(str, sizes))}\nspace directions: {axes}\nkinds: domain domain domain\nendian: little\n"
            f"encoding: raw\nspace origin: ({','.join(map(repr, first))})\n\n"
        )
    with atomic(file) as place:
        place.write_bytes(header.encode() + values.tobytes())
    return file


def _meta(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Values (z, y, x order of the file's axes), directions (axis, LPS) in mm per voxel, origin; what was not stated."""
    raw = file.read_bytes()
    said: dict[str, str] = {}
    start = 0
    while "ElementDataFile" not in said:
        end = raw.index(b"\n", start)
        key, _, value = raw[start:end].decode("ascii").partition("=")
        said[key.strip()] = value.strip()
        start = end + 1
    if int(said["NDims"]) != 3 or int(said.get("ElementNumberOfChannels", 1)) != 1:
        raise IonrtError(f"{file.name}: expected one value per voxel in three dimensions")
    name = said["ElementDataFile"]
    big = said.get("BinaryDataByteOrderMSB", said.get("ElementByteOrderMSB", "False")).lower() == "true"
    kind = np.dtype((">" if big else "<") + META_TYPES[said["ElementType"]])
    sizes = [int(n) for n in said["DimSize"].split()]
    spacing = np.array([float(s) for s in said.get("ElementSpacing", said.get("ElementSize", "1 1 1")).split()])
    turn = np.array([float(s) for s in said.get("TransformMatrix", "1 0 0 0 1 0 0 0 1").split()]).reshape(3, 3)
    origin = np.array([float(s) for s in said.get("Offset", said.get("Position", said.get("Origin", "0 0 0"))).split()])
    packed = said.get("CompressedData", "False").lower() == "true"
    values = _shaped(raw[start:] if name == "LOCAL" else name, kind, sizes, file, window=zlib.MAX_WBITS if packed else None)
    absent = [
        words
        for keys, words in (
            (("ElementSpacing", "ElementSize"), "no spacing of the voxels, taken as 1 mm"),
            (("Offset", "Position", "Origin"), "no place of the first voxel, taken as 0 0 0"),
        )
        if not said.keys() & set(keys)
    ]
    return values, turn * spacing[:, None], origin, "; ".join(absent)


def _nrrd(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of an NRRD."""
    raw = file.read_bytes()
    if not raw.startswith(b"NRRD"):
        raise IonrtError(f"{file.name}: not an NRRD file")
    ends = {k: raw.find(k) for k in (b"\n\n", b"\r\n\r\n")}
    mark, end = min(((k, e) for k, e in ends.items() if e >= 0), key=lambda pair: pair[1], default=(b"", len(raw)))
    said = {}
    for line in raw[:end].decode("utf-8", "replace").splitlines()[1:]:
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#"):
            said[key.strip().lower()] = value.lstrip("=").strip()
    name = said.get("data file", said.get("datafile"))
    encoding = one_of(said.get("encoding", "raw").lower(), ("raw", "gzip", "gz"), what=f"{file.name}: encoding")
    kind = np.dtype((">" if said.get("endian", "little") == "big" else "<") + NRRD_TYPES[said["type"]])
    sizes = [int(n) for n in said["sizes"].split()]
    if int(said["dimension"]) != 3:
        raise IonrtError(f"{file.name}: expected three dimensions, got {said['dimension']}")
    sign = np.array(SPACES[one_of(said.get("space", "").lower(), tuple(SPACES), what=f"{file.name}: space")], float)
    axes = [[float(c) for c in part.strip("() ").split(",")] for part in said["space directions"].split(") ")]
    origin = np.array([float(c) for c in said["space origin"].strip("()").split(",")])
    window = None if encoding == "raw" else 16 + zlib.MAX_WBITS
    values = _shaped(raw[end + len(mark) :] if name is None else name, kind, sizes, file, window=window)
    return values, np.array(axes) * sign, origin * sign


def _shaped(data: bytes | str, kind: np.dtype, sizes: list[int], file: Path, *, window: int | None) -> np.ndarray:
    """Values with the slowest axis first; a file that is too short or too long raises, and no more than expected is unpacked.

    `data` are the bytes or the name of the file beside it that holds them; `window` is zlib's, where they are packed.
    """
    expected = math.prod(sizes) * kind.itemsize
    if len(sizes) != 3 or min(sizes) < 1 or expected > MOST:
        said = " ".join(map(str, sizes))[:80]
        raise IonrtError(f"{file.name}: expected three sizes from 1 on and at most {MOST >> 30} GB, got {said}")
    if isinstance(data, str):
        beside = file.parent / data
        if not os.path.isfile(beside):
            raise IonrtError(f"{file.name}: its data file {beside.name!r} is not there, or no regular file")
        data = beside.read_bytes()
    if window is not None:
        unpack = zlib.decompressobj(window)
        data = unpack.decompress(data, expected + 1)
        if not unpack.eof and len(data) <= expected:
            raise IonrtError(f"{file.name}: its packed data end early; the file is damaged")
    if len(data) != expected:
        raise IonrtError(f"{file.name}: expected {expected} bytes of voxels, got {len(data)}; the file is damaged")
    return np.frombuffer(data, kind).reshape(sizes[::-1])


def _upright(values: np.ndarray, directions: np.ndarray, origin: np.ndarray, file: Path) -> xr.DataArray:
    """Axes of the file turned into ascending z, y, x."""
    if directions.shape != (3, 3) or origin.shape != (3,):
        raise IonrtError(f"{file.name}: expected three directions and a first voxel of three numbers each; the file is damaged")
    length = np.linalg.norm(directions, axis=1)
    ends = np.abs(origin) + length * np.array(values.shape[::-1])
    if not ((length > 0).all() and np.isfinite(ends).all() and ends.max() <= FARTHEST):
        raise IonrtError(f"{file.name}: expected positions within {FARTHEST:g} mm and voxels of some size; the file is damaged")
    cosines = directions / length[:, None]
    along = np.abs(cosines).argmax(axis=1)
    if sorted(along) != [0, 1, 2] or np.abs(np.abs(cosines[range(3), along]) - 1.0).max() > SLANT:
        raise IonrtError(f"{file.name}: oblique axes; expected a grid along the patient's axes: resample it first")
    coords = {}
    for axis, where in enumerate(along):
        n = values.shape[2 - axis]
        coords["xyz"[where]] = origin[where] + directions[axis, where] * np.arange(n)
    names = ["xyz"[w] for w in along[::-1]]
    return xr.DataArray(values, dims=names, coords=coords).transpose(*DIMS).sortby(list(DIMS))


def _named(da: xr.DataArray, quantity: str, factor: float, attrs: dict[str, Any], file: Path) -> xr.DataArray:
    kind = np.float64 if da.dtype.itemsize == 8 else np.float32
    out = da.copy(data=(np.asarray(da.values, dtype=np.float64) * factor).astype(kind))
    if not np.abs(out.values).max() <= LARGEST:
        raise IonrtError(f"{file.name}: values that are not finite, or above {LARGEST:g}; mask or repair them first")
    for d in DIMS:
        out[d].attrs = {"units": "mm"}
    return stamp(out, quantity, **attrs, source=file.name, content_hash=content_hash(out.values))
