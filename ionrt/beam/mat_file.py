"""The door for .mat files: bounded before memory is taken, read by a process of its own."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any, Literal

from ionrt.quantities import IonrtError

_COMPRESSED = 15  # type of a compressed element of a .mat file
_MOST = 256 << 20  # bytes of a machine file, packed and unpacked; matRad's largest has 40 MB
_PATIENCE = 60  # s
_READER = """
import pickle, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
except (ImportError, ValueError, OSError):
    pass  # no such limit on this system
from scipy.io import loadmat
try:
    content = loadmat(sys.argv[1], simplify_cells=True)
except BaseException as error:
    sys.exit(f"{type(error).__name__}: {error}")
pickle.dump(content, sys.stdout.buffer)
"""


def read_mat(file: Path) -> dict[str, Any]:
    """All variables of a .mat file; the library that reads it runs in a process of its own, which a bad file may end."""
    _bounded(file)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _READER, str(file)], capture_output=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise IonrtError(f"{file.name}: not read within {_PATIENCE} s; is it a matRad machine file?") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = said[-1] if done.returncode > 0 and said else "the library that reads it came to its end"
        if why.startswith("NotImplementedError"):
            raise IonrtError(f"{file.name}: .mat version 7.3 (HDF5); save it with `save(..., '-v7')`")
        raise IonrtError(f"{file.name}: not a .mat file of version 5 to 7 ({why[:200]})")
    content: dict[str, Any] = pickle.loads(done.stdout)  # written by our own reader, above
    return content


def _bounded(file: Path) -> None:
    """Refuse a file that would unpack to more memory than any machine file takes, before any of it is taken."""
    whole = file.read_bytes() if file.stat().st_size <= _MOST else b""
    if not whole:
        raise IonrtError(f"{file.name}: {file.stat().st_size} bytes; expected a machine file of 1 byte to {_MOST >> 20} MB")
    if whole[:19] != b"MATLAB 5.0 MAT-file":
        return
    order: Literal["little", "big"] = "big" if whole[126:128] == b"MI" else "little"
    at, unpacked = 128, 0
    while at + 8 <= len(whole):
        kind, size = (int.from_bytes(whole[at + k : at + k + 4], order) for k in (0, 4))
        if kind == _COMPRESSED:
            packed, stream = whole[at + 8 : at + 8 + size], zlib.decompressobj()
            try:
                while packed:
                    unpacked += len(stream.decompress(packed, 1 << 20))
                    packed = stream.unconsumed_tail
                    if unpacked > _MOST:
                        raise IonrtError(f"{file.name}: unpacks to more than {_MOST >> 20} MB; a machine file does not")
            except zlib.error as error:
                raise IonrtError(f"{file.name}: not a .mat file of version 5 to 7 ({error})") from None
        at += 8 + size
