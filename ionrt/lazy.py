"""Before anything heavy is loaded: the error, names checked against a list, rooms that open on first use.

A package that belongs to an extra is asked for by the name of the extra where it is missing.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lazy_loader


class IonrtError(ValueError):
    """Bad input: the message says what was expected, what came and what to do."""

    __module__ = "ionrt"  # as users know it


def one_of(value: str, allowed: Sequence[str], *, what: str) -> str:
    """Return `value` if it is allowed; raise with the allowed ones, nearest first."""
    if value in allowed:
        return value
    import difflib

    nearest = difflib.get_close_matches(str(value), allowed, n=max(1, len(allowed)), cutoff=0.0)
    raise IonrtError(f"{what}: {value!r} does not exist; there are {', '.join(map(repr, nearest)) or 'none'}")


def attach(room: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__``, ``__all__`` of a room from the stub beside `file`."""
    load, names, public = lazy_loader.attach_stub(room, file)

    def opened(name: str) -> Any:
        try:
            return load(name)
        except ModuleNotFoundError as error:
            raise missing(error, f"{room}.{name}") from error
        except AttributeError:
            if name.startswith("__") or (found := _moved(room, name)) is None:
                raise
            return found

    return opened, names, public


def _moved(room: str, name: str) -> Any:
    """What an inner name was in 0.1.0, with a warning that says where it lives now; None where it was none."""
    import warnings

    from ionrt.moved import home_of

    home = home_of(room, name)
    if home is None:
        return None
    warnings.warn(
        f"{room}.{name} was public in 0.1.0 and is inner now: from {home} import {name}", DeprecationWarning, stacklevel=3
    )
    return getattr(importlib.import_module(home), name)


@contextmanager
def light() -> Iterator[None]:
    """Import what checks notebooks without its check of addresses, which none needs: the grammar takes a second to compile."""
    hidden = "rfc3987_syntax" not in sys.modules
    if hidden:
        sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["rfc3987_syntax"]


def needed(module: str, user: str) -> Any:
    """The module of this name, for imports within a function; `IonrtError` with what to install where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error, user) from error


def missing(error: ModuleNotFoundError, user: str) -> Exception:
    """The `IonrtError` that says which extra brings the module; the error itself where none does."""
    module = (error.name or "").partition(".")[0]
    extra = extras().get(_canonical(module))
    if extra is None:
        return error
    return IonrtError(f'{user} needs {module}, which is not installed; run: pip install "ionrt[{extra}]"')


def extras() -> dict[str, str]:
    """The extra that brings each package, as the installed metadata say; canonical names."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    for requirement in map(Requirement, requires("ionrt") or ()):
        for extra in ("plan", "cohort", "lab", "guidance"):
            if requirement.marker and requirement.name != "ionrt" and requirement.marker.evaluate({"extra": extra}):
                found.setdefault(_canonical(requirement.name), extra)
    return found


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-")
