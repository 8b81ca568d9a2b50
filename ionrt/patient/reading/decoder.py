"""Compressed pixels, decoded in a process of its own: a decoder that aborts on a damaged file takes only itself along."""

from __future__ import annotations

import atexit
import contextlib
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from ionrt.quantities import IonrtError

LONGEST = 60.0  # seconds for one file
_child: subprocess.Popen[bytes] | None = None
_owner = 0  # the process that talks to it; a fork starts one of its own
_lock = threading.Lock()


def decode_pixels(path: Path) -> np.ndarray:
    """Stored values of an encapsulated file as pydicom and its plugins decode them; what goes wrong raises IonrtError."""
    global _child, _owner
    with _lock:
        if _child is None or _owner != os.getpid() or _child.poll() is not None:
            _owner = os.getpid()
            command = [sys.executable, "-c", "from ionrt.patient.reading.decoder import serve; serve()"]
            _child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            atexit.register(_child.kill)
        child, name = _child, str(path.resolve()).encode("utf-8", "surrogateescape")
        assert child.stdin is not None and child.stdout is not None
        timer = threading.Timer(LONGEST, child.kill)
        timer.start()
        try:
            child.stdin.write(struct.pack("<Q", len(name)) + name)
            child.stdin.flush()
            kind, size = struct.unpack("<8sQ", child.stdout.read(16))
            answer = child.stdout.read(size)
            if len(answer) < size:
                raise EOFError
        except (OSError, EOFError, struct.error):
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()
            _child = None
            raise IonrtError("the decoder gave up") from None
        finally:
            timer.cancel()
    kind = kind.strip(b"\0 ")
    if kind == b"error":
        raise IonrtError(answer.decode("utf-8", "replace"))
    return np.frombuffer(answer, kind.decode("ascii")).copy()


def serve() -> None:
    """Answer paths from standard input with type, size and bytes of the decoded pixels, until it is closed."""
    import pydicom

    answer, questions = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)  # what a decoder prints is no answer
    while head := questions.read(8):
        path = questions.read(struct.unpack("<Q", head)[0]).decode("utf-8", "surrogateescape")
        try:
            values = np.ascontiguousarray(pydicom.dcmread(path, force=True).pixel_array)
            if values.dtype.kind not in "iu":
                raise ValueError(f"pixels of type {values.dtype}")
            kind, data = values.dtype.str.encode("ascii"), values.tobytes()
        except Exception as error:
            kind, data = b"error", f"{type(error).__name__}: {' '.join(str(error).split())[:160]}".encode()
        answer.write(struct.pack("<8sQ", kind, len(data)) + data)
        answer.flush()
