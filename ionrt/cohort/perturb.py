"""Noise that hides one patient in what leaves a site: the same for the same data, another for data one patient apart.

Everything is drawn anew when anything changes, so a difference of two exports does not point at the cell that moved, and
nothing averages out when an export is repeated. Without the key the noise cannot be computed again.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import platformdirs

from ionrt.quantities import IonrtError

SEEN = {"patient": ["pid", "indication", "sex", "consent_scope", "origin"], "event": ["pid", "endpoint", "day", "code"]}


class Noise:
    """Draws that depend on a secret, on the rows that the export rests on, and on the name of the number they hide."""

    def __init__(self, tables: Mapping[str, pd.DataFrame], key: str | bytes | None) -> None:
        rows = [int(pd.util.hash_pandas_object(tables[t][c].astype("str"), index=False).sum()) for t, c in SEEN.items()]
        self._state = hmac.digest(secret(key), repr(rows).encode(), "sha256")

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


def secret(key: str | bytes | None) -> bytes:
    """The key of the site: the one given, or the one made once for this user and kept beside the user's data."""
    if key is not None:
        raw = key.encode() if isinstance(key, str) else bytes(key)
        if len(raw) < 16 or len(set(raw)) < 8:
            raise IonrtError("key: expected at least 16 characters, 8 of them different; it is the secret of the site")
        return hashlib.sha256(raw).digest()
    place = Path(platformdirs.user_data_dir("ionrt")) / "export.key"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raw = place.read_bytes()
        else:
            raw = os.urandom(32)
            with os.fdopen(handle, "wb") as stream:
                stream.write(raw)
    except OSError as error:
        raise IonrtError(f"export.key cannot be kept ({error.strerror}); pass key= with a secret of the site") from None
    if len(raw) < 32:
        raise IonrtError(f"{place.name} in the user's data folder is damaged; remove it, or pass key=")
    return raw
