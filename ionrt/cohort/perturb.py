"""Noise that hides one patient in what leaves a site: the same for the same group of patients, another for any other group.

Without the key the noise cannot be computed again.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import platformdirs

from ionrt.files import atomic
from ionrt.quantities import IonrtError


class Noise:
    """Draws that depend on a secret, on the patients a number rests on (as fingerprints), and on the names of the number."""

    def __init__(self, key: bytes, name: str, who: Iterable[str]) -> None:
        self._state = hmac.digest(key, repr((name, sorted(who))).encode(), "sha256")

    def draw(self, law: str, *label: object) -> float:
        """A number by a law of numpy's generator in its standard form: "normal", "laplace", "exponential", "uniform"."""
        seed = hmac.digest(self._state, repr(label).encode(), "sha256")
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(seed[:16], "little")))
        return float(getattr(generator, law)())


def secret(key: str | bytes | None = None, folder: Path | None = None) -> bytes:
    """The key of the site: the one given, or the one made once and kept in that folder (default: of the user's data)."""
    if key is not None:
        raw = key.encode() if isinstance(key, str) else bytes(key)
        if len(raw) < 16 or len(set(raw)) < 8:
            raise IonrtError("key: expected at least 16 characters, 8 of them different; it is the secret of the site")
        return hashlib.sha256(raw).digest()
    place = (folder or Path(platformdirs.user_data_dir("ionrt"))) / "export.key"
    with suppress(OSError):  # said below
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not place.exists():
        with suppress(FileExistsError), atomic(place, new=True) as new:
            new.touch(mode=0o600)
            new.write_bytes(os.urandom(32))
    try:
        raw = place.read_bytes()
    except OSError as error:
        raise IonrtError(f"{place.name} in {place.parent} cannot be read ({error.strerror})") from None
    if len(raw) < 32:
        raise IonrtError(f"{place.name} in {place.parent} is damaged; put it back from a copy")
    return raw
