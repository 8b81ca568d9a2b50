"""Noise that hides one patient in what leaves a site: the same for the same group of patients, another for any other group.

Without the key the noise cannot be computed again.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import platformdirs

from ionrt.quantities import IonrtError


class Noise:
    """Draws that depend on a secret, on the patients a number rests on (as fingerprints), and on the names of the number."""

    def __init__(self, key: bytes, name: str, who: Iterable[str]) -> None:
        self._state = hmac.digest(key, repr((name, sorted(who))).encode(), "sha256")

    def _generator(self, label: tuple[object, ...]) -> np.random.Generator:
        seed = hmac.digest(self._state, repr(label).encode(), "sha256")
        return np.random.Generator(np.random.Philox(key=int.from_bytes(seed[:16], "little")))

    def normal(self, *label: object) -> float:
        """Of standard deviation 1."""
        return float(self._generator(label).standard_normal())

    def laplace(self, *label: object) -> float:
        """Of scale 1."""
        return float(self._generator(label).laplace())

    def exponential(self, *label: object) -> float:
        """Of mean 1."""
        return float(self._generator(label).exponential())

    def uniform(self, *label: object) -> float:
        """From 0 to 1."""
        return float(self._generator(label).random())


def secret(key: str | bytes | None = None, folder: Path | None = None) -> bytes:
    """The key of the site: the one given, or the one made once and kept in that folder (default: of the user's data)."""
    if key is not None:
        raw = key.encode() if isinstance(key, str) else bytes(key)
        if len(raw) < 16 or len(set(raw)) < 8:
            raise IonrtError("key: expected at least 16 characters, 8 of them different; it is the secret of the site")
        return hashlib.sha256(raw).digest()
    place = (folder or Path(platformdirs.user_data_dir("ionrt"))) / "export.key"
    where = "pass key= with a secret of the site" if folder is None else "name another folder"
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raw = place.read_bytes()
        else:
            raw = os.urandom(32)
            with os.fdopen(handle, "wb") as stream:
                stream.write(raw)
    except OSError as error:
        raise IonrtError(f"export.key cannot be kept ({error.strerror}); {where}") from None
    if len(raw) < 32:
        raise IonrtError(f"{place.name} in {place.parent} is damaged; {where}")
    return raw
