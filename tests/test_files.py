"""Files are whole or not there; equal content has one hash."""

from __future__ import annotations

import numpy as np
import pytest

from ionrt.files import DiskError, atomic, content_hash, write_text


@pytest.mark.parametrize("folder", [False, True])
def test_what_fails_leaves_the_old_and_nothing_else(tmp_path, folder):
    path = tmp_path / "deep" / ("plan" if folder else "plan.csv")
    with pytest.raises(KeyboardInterrupt), atomic(path, folder=folder) as place:
        (place / "a" if folder else place).write_text("half")
        assert (folder or place.suffix == path.suffix) and not path.exists()
        raise KeyboardInterrupt
    assert list(path.parent.iterdir()) == []
    with atomic(path, folder=folder) as place:
        (place / "a" if folder else place).write_text("whole")
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert (path / "a" if folder else path).read_text() == "whole"


def test_a_file_is_replaced_and_a_folder_only_if_empty(tmp_path):
    write_text(tmp_path / "a.csv", "old\r\n")
    write_text(tmp_path / "a.csv", "새것\r\n")
    assert (tmp_path / "a.csv").read_bytes() == "새것\r\n".encode()
    for name, full in (("empty", False), ("full", True)):
        (tmp_path / name).mkdir()
        if full:
            (tmp_path / name / "kept").touch()
    with atomic(tmp_path / "empty", folder=True) as place:
        (place / "new").touch()
    with pytest.raises(DiskError), atomic(tmp_path / "full", folder=True) as place:
        (place / "new").touch()
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == [
        "a.csv",
        "empty/new",
        "full/kept",
    ]


def test_the_working_folder_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (".", "", ".."):
        with pytest.raises(DiskError, match="could not be written"):
            write_text(name, "text")
    with pytest.raises(DiskError, match="name a new one"), atomic(".", folder=True):
        pass
    assert not list(tmp_path.iterdir())


def test_content_hash_depends_on_values_shape_and_order():
    a = np.arange(6.0)
    hashes = {content_hash(*parts) for parts in [(a,), (a.reshape(2, 3),), (a, "x"), ("x", a), (a.astype("f4"),)]}
    assert len(hashes) == 5
    assert content_hash(a[::2]) == content_hash(a[::2].copy())
