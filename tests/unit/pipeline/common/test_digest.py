"""Digests of folders, against the sha256sum program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.common.digest import folder_sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.py", "a/z.py", "a/b/c d.py", "a.py", "ä.py", "B.py", "data/w.bin", "marker"):
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 3)
    return tmp_path / "model"


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum here")
def test_the_digest_is_what_sha256sum_prints(folder: Path) -> None:
    kept = "find * -type f -not -path 'data/*' -not -name marker"
    line = f"{kept} | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    printed = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert folder_sha256(folder, leave_out=("data", "marker")) == printed.split()[0]


def test_every_name_and_byte_counts(folder: Path) -> None:
    seen = [folder_sha256(folder, ("data",))]
    (folder / "data" / "w.bin").write_bytes(b"changed")
    assert folder_sha256(folder, ("data",)) == seen[0], "what is left out does not count"
    (folder / "a" / "data").mkdir()
    (folder / "a" / "data" / "x.py").touch()  # only a folder at the top is left out
    seen.append(folder_sha256(folder, ("data",)))
    (folder / "a.py").write_bytes(b"changed")
    seen.append(folder_sha256(folder, ("data",)))
    (folder / "a.py").rename(folder / "c.py")
    seen.append(folder_sha256(folder, ("data",)))
    assert len(set(seen)) == len(seen)
