"""Files that are whole or not there: one way to write, one hash of content, one folder for what is kept on disk."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np
import platformdirs


@contextmanager
def atomic(path: str | os.PathLike[str], *, folder: bool = False) -> Iterator[Path]:
    """A hidden place beside `path` to write to, which takes its name when the block ends well and vanishes when it does not.

    Parameters
    ----------
    path : what shall be there in the end; a file is replaced, a folder must be new or empty.
    folder : whether it is a folder (the place is then made) or a file.

    Yields
    ------
    The path to write to, with the same suffix; a killed run leaves it behind, never something half-written under `path`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    place = target.with_name(f".{target.name}.{uuid4().hex}{'' if folder else target.suffix}")
    if folder:
        place.mkdir()
    try:
        yield place
        if folder and target.is_dir():
            target.rmdir()  # raises unless it is empty
        os.replace(place, target)
    finally:
        if folder:
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Text as it is (UTF-8, line ends untouched), whole or not at all."""
    with atomic(path) as place:
        place.write_text(text, encoding="utf-8", newline="")


def content_hash(*parts: object) -> str:
    """A short hash of arrays, strings and numbers, for provenance and cache keys."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(str((part.dtype, part.shape)).encode())
            whole = np.ascontiguousarray(part)
            digest.update(whole.tobytes() if whole.dtype.hasobject else whole.reshape(-1).view(np.uint8).data)  # no copy
        elif isinstance(part, bytes):
            digest.update(part)
        else:
            digest.update(repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def cache_folder(name: str) -> Path:
    """The folder of that name among what ionrt keeps on disk: in $IONRT_CACHE or the user's cache directory."""
    return Path(os.environ.get("IONRT_CACHE") or platformdirs.user_cache_dir("ionrt")) / name
