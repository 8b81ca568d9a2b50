"""Files that are whole or not there: one way to write, one seal, one door for YAML, one hash of content, one cache folder."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import platformdirs

from ionrt.lazy import IonrtError, needed

_SEAL = hashlib.sha256().digest_size  # bytes


class DiskError(IonrtError):
    """What the disk refused: which file, why, what to do."""


@contextmanager
def atomic(path: str | os.PathLike[str], *, folder: bool = False, new: bool = False) -> Iterator[Path]:
    """A hidden place beside `path` to write to, which takes its name when the block ends well and vanishes when it does not.

    A file is replaced (`new`: one that is there already, also since a moment ago, stays: FileExistsError); a `folder` must be
    new or empty and is made. A killed run leaves the place behind, never something half-written under `path`. `DiskError` in
    one line where the disk is full, the folder read-only, gone, a file, or full of other files; what the block itself raises
    about other files passes.
    """
    target = Path(path)
    if not target.name:  # "." or "/"
        raise DiskError(
            f"could not be written: '{target}' is a folder that is there; name {'a new one' if folder else 'a file'}"
        )
    place = target.with_name(f".{target.name}.{uuid4().hex}{'' if folder else target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if folder:
            place.mkdir()
        yield place
        if folder and target.is_dir():
            target.rmdir()  # raises unless it is empty
        if new:
            os.link(place, target)
        else:
            os.replace(place, target)
    except OSError as error:
        if isinstance(error, FileExistsError) and error.filename2 is not None:  # of the link
            raise
        about = place if error.filename is None else Path(os.fsdecode(error.filename))
        if about not in (target, *target.parents) and place not in (about, *about.parents):
            raise
        why = error.strerror or str(error) or type(error).__name__
        raise DiskError(
            f"{target.name} could not be written ({why[:200]}); nothing of it is left: make room, or name a folder that exists"
            f" and can be written, instead of {target.parent}"
        ) from error
    finally:
        if folder:
            shutil.rmtree(place, ignore_errors=True)
        else:
            with suppress(OSError):
                place.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Text as it is (UTF-8, line ends untouched), whole or not at all."""
    with atomic(path) as place:
        place.write_text(text, encoding="utf-8", newline="")


def write_sealed(path: str | os.PathLike[str], content: bytes, *, new: bool = False) -> None:
    """Bytes followed by their hash, which `read_sealed` compares before it believes them; `new` as in `atomic`."""
    with atomic(path, new=new) as place:
        place.write_bytes(content + hashlib.sha256(content).digest())


def read_sealed(path: Path) -> bytes | None:
    """The content of a sealed file; None where there is none or it is not what was written (cut, a bit flipped)."""
    try:
        whole = path.read_bytes() if os.path.isfile(path) else b""
    except OSError:
        return None
    content, seal = whole[:-_SEAL], whole[-_SEAL:]
    return content if content and hashlib.sha256(content).digest() == seal else None


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


def sources(place: Path) -> Iterator[object]:
    """Names and contents of the code and tables of a folder, or of one file, in order: what a cache key of results takes."""
    found = sorted(p for p in place.rglob("*") if p.suffix in (".py", ".csv", ".toml")) if place.is_dir() else [place]
    for path in found:
        yield path.relative_to(place).as_posix()
        yield path.read_bytes()


def cache_folder(name: str) -> Path:
    """The folder of that name among what ionrt keeps on disk: in $IONRT_CACHE or the user's cache directory.

    Where the user has no home it lies in a place that cannot be written, so that whoever writes there says so.
    """
    own = platformdirs.user_cache_dir("ionrt")
    return Path(os.environ.get("IONRT_CACHE") or (own if os.path.isabs(own) else os.path.join(os.devnull, "no home"))) / name


MOST_BYTES, MOST_DEPTH, MOST_TEXT = 100_000, 12, 20_000
_NUMBER = r"[-+]?(?:\.[0-9]+|[0-9]{1,15}(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?"


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """One YAML document (UTF-8) of a person's hand as plain values: dict with text keys, list, text, int, float, bool, None.

    What a file of settings has no use for is refused instead of interpreted, with file, line and key: aliases and anchors,
    tags, a key that stands twice, several documents, more than 100 kB or twelve levels. Only ``true`` and ``false`` are truth
    values (``no`` stays a text), only decimal numbers are numbers (``1:30``, ``0x10`` and ``2024-01-01`` stay texts), ``1e-3``
    is one.
    """
    return parse_yaml(_text_of(Path(path)), Path(path).name)


def parse_yaml(text: str, name: str) -> Any:
    """As `read_yaml`, of a text that came otherwise, such as a value on the command line; `name` begins the messages."""
    import yaml

    try:
        return _Document(name).read(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise IonrtError(f"{name}: not readable as YAML: {where}{what}") from None


def read_notebook(path: str | os.PathLike[str]) -> Any:
    """A Jupyter notebook of format 4 (older ones are brought to it) that keeps to its schema.

    Raises IonrtError, in one line, for a file that is none.
    """
    nbformat = needed("nbformat", "a notebook")
    try:
        book = nbformat.read(path, as_version=4)
        nbformat.validate(book)
    except Exception as error:  # nbformat meets a damaged file with errors of many kinds
        raise IonrtError(
            f"{Path(path).name} is no notebook that can be read ({type(error).__name__}); take a fresh copy"
        ) from None
    if any(cell.cell_type == "markdown" and len(cell.source) > MOST_TEXT for cell in book.cells):
        raise IonrtError(f"{Path(path).name}: a text cell of more than {MOST_TEXT} characters; the page would take minutes")
    return book


def _text_of(path: Path) -> str:
    """Content of a regular file of bounded size, UTF-8."""
    try:
        if not os.path.isfile(path):
            raise IonrtError(f"{path.name}: there is no such file")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise IonrtError(f"{path.name}: expected at most {MOST_BYTES // 1000} kB of settings, got {size // 1000} kB")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise IonrtError(f"{path.name}: not UTF-8 text (byte {error.start}); save the file with the encoding UTF-8") from None
    except (OSError, ValueError) as error:
        raise IonrtError(f"{path.name}: cannot be read: {error}") from None


class _Document:
    """Builds the values from PyYAML's events; nothing is constructed that was not asked for, and nothing recurses."""

    def __init__(self, name: str) -> None:
        self.name = name

    def read(self, events: Iterator[Any]) -> Any:
        top: list[Any] = []
        open_: list[Any] = [top]  # containers, innermost last
        keys: list[Any] = [None]  # the key that waits for its value, per container
        for event in events:
            kind = type(event).__name__.removesuffix("Event")
            if kind in ("StreamStart", "StreamEnd", "DocumentStart", "DocumentEnd"):
                if kind == "DocumentStart" and top:
                    self._refuse(event, "a second document; give one per file")
                continue
            if kind in ("SequenceEnd", "MappingEnd"):
                open_.pop()
                keys.pop()
                continue
            if kind == "Alias" or event.anchor is not None:
                self._refuse(event, f"{'alias *' if kind == 'Alias' else 'anchor &'}{event.anchor}; write the value out")
            if event.tag is not None:
                self._refuse(event, f"tag {event.tag}; write the plain value")
            value = {"SequenceStart": list, "MappingStart": dict}.get(kind, lambda e=event: self._scalar(e))()
            self._put(event, open_[-1], keys, value)
            if kind != "Scalar":
                if len(open_) > MOST_DEPTH:
                    self._refuse(event, f"more than {MOST_DEPTH} levels")
                open_.append(value)
                keys.append(None)
        return top[0] if top else None

    def _put(self, event: Any, inside: Any, keys: list[Any], value: Any) -> None:
        if isinstance(inside, list):
            inside.append(value)
        elif keys[-1] is None:
            if isinstance(value, (dict, list)):
                self._refuse(event, "a key that is a list or a mapping; keys are text")
            if event.value in inside:
                self._refuse(event, f"key {event.value!r} stands twice; keep one")
            if event.value == "<<":
                self._refuse(event, "merge key <<; write the values out")
            keys[-1] = event.value
        else:
            inside[keys[-1]] = value
            keys[-1] = None

    def _scalar(self, event: Any) -> Any:
        text = event.value
        if not event.implicit[0]:
            return text  # quoted or a block
        if text.lower() in ("", "~", "null"):
            return None
        if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
            return text.lower() == "true"
        if not re.fullmatch(_NUMBER, text):
            return text
        if re.fullmatch(r"[-+]?[0-9]+", text):
            return int(text)
        number = float(text)
        if not math.isfinite(number):
            self._refuse(event, f"number {text} is too large")
        return number

    def _refuse(self, event: Any, what: str) -> None:
        raise IonrtError(f"{self.name}: line {event.start_mark.line + 1}: {what}")
