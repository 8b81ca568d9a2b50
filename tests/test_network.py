"""Tests cannot reach beyond this machine; what we start or advise listens on loopback and asks for a token, or not at all."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from pytest_socket import SocketConnectBlockedError

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.filterwarnings("ignore:A test tried to use socket:UserWarning")
def test_only_loopback_can_be_reached():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as outside, pytest.raises(SocketConnectBlockedError):
        outside.connect(("192.0.2.1", 80))  # TEST-NET-1 of RFC 5737: nobody is there
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())


def answer(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def listening(pid: int) -> set[str]:
    """Addresses at which a process listens, as Linux tells: 0100007F is 127.0.0.1, 00000000 all interfaces."""
    mine = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry)):
            mine.add(found[1])
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in mine}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks Linux who listens")
def test_jupyterlab_as_make_lab_starts_it_listens_on_loopback_with_a_token(tmp_path):
    """The command of the Makefile, without a browser and with settings of its own: those of the user may be others."""
    (line,) = re.findall(r"^\t@\$\(BIN\)/(jupyter lab .*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    places = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "RUNTIME", "DATA")}
    command = [
        sys.executable,
        "-m",
        *line.replace("jupyter lab", "jupyterlab").split(),
        "--no-browser",
        "--port=0",
        "--allow-root",
    ]
    with subprocess.Popen(
        command, env=os.environ | places | {"JUPYTER_TOKEN": ""}, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            while not (found := list(tmp_path.glob("RUNTIME/jpserver-*.json"))) or not found[0].read_text():
                assert server.poll() is None
                time.sleep(0.1)
            said = json.loads(found[0].read_text())
            own = f"http://127.0.0.1:{said['port']}/api/contents"
            assert listening(server.pid) <= {"0100007F", "00000000000000000000000001000000"}
            assert len(said["token"]) >= 32 and not said["password"]
            assert answer(own) == 403 and answer(f"{own}?token={said['token']}") == 200
        finally:
            server.kill()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks Linux who listens")
def test_the_clusters_that_are_advised_listen_on_loopback(tmp_path):
    """Processes of scheduler and workers; `dashboard_address=None`, advised before, opens a page on all interfaces."""
    places = (ROOT / "notebooks" / "00_start_here.ipynb", ROOT / "docs" / "howto" / "cluster.md")
    advised = [re.findall(r"\bClient\(([^)]+)\)", p.read_text(encoding="utf-8")) for p in places]
    assert all(advised)
    for options in {option.replace('\\"', '"') for found in advised for option in found}:
        code = (
            f"import distributed, sys\nif __name__ == '__main__':\n    c = distributed.LocalCluster({options}, n_workers=1)\n"
        )
        (tmp_path / "start.py").write_text(
            code + "    print(*(w.pid for w in c.workers.values() if hasattr(w, 'pid')), flush=True)\n    input()"
        )
        command = [sys.executable, "-W", "ignore", str(tmp_path / "start.py")]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as one:
            others = [int(p) for p in one.stdout.readline().split()]
            found = set().union(*map(listening, [one.pid, *others]))
            one.communicate("\n")
        assert found and found <= {"0100007F", "00000000000000000000000001000000"}, options
