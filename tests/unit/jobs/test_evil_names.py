"""Real commands on names that hold escape sequences, newlines and overrides: nothing of them reaches terminal or log
raw.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.dataset.shards import Reject
from pipeline.storage import LocalStorage
from tests.support.paths import ROOT
from tests.support.stored_set import clips_of, store_manifest, store_shard

EVIL = "x\n12:00:00 ERROR forged\r\x1b[2J\x1b]0;title\x07\x9b31m\u202egnp\u2028y"
RAW = ("\x1b", "\r", "\x07", "\x9b", "\u202e", "\u2028", "\n12:00:00 ERROR forged")
SHOWN = "x\\n12:00:00 ERROR forged\\r\\x1b[2J"


def run(*args: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RECIPROCAL_HOME": str(home), "RECIPROCAL_STACK": "off"}
    done = subprocess.run(
        [sys.executable, "-m", *args], capture_output=True, env=env, timeout=120, check=False, stdin=subprocess.DEVNULL
    )
    out, err = done.stdout.decode(), done.stderr.decode()  # bytes: universal newlines would hide a lone \r
    for text in (out, err):
        assert not [raw for raw in RAW if raw in text], text
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


@pytest.fixture
def evil_set(tmp_path: Path) -> LocalStorage:
    """Class, data set, reject, key and stray object all have the name."""
    storage = LocalStorage(str(tmp_path / "set"))
    clips = clips_of({"train/shard-000000": 2})["train/shard-000000"]
    for clip in clips:
        clip.facts["source"] = f"{EVIL}/{clip.facts['source']}"
        clip.describe(**{"class": EVIL})
    rejects = [Reject(source=EVIL, label=2, reason="not_video", detail=EVIL)]
    classes = ("walk", f"{EVIL}1", f"{EVIL}2")
    store_manifest(
        storage,
        [store_shard(storage, tmp_path, "train", "shard-000000", clips, rejects)],
        classes=classes,
        dataset=EVIL,
    )
    (storage.root / "train" / EVIL).write_bytes(b"stray")
    return storage


@pytest.mark.slow
def test_verify_report_and_train_show_names_escaped(evil_set: LocalStorage, tmp_path: Path) -> None:
    verified = run("jobs.verify", evil_set.uri, home=tmp_path)
    assert verified.returncode == 1
    assert f"train/{SHOWN}" in verified.stdout  # the stray object
    assert SHOWN in verified.stdout.partition("json")[2]  # the class in KEY.json
    page = tmp_path / "page.html"
    reported = run("jobs.report", evil_set.uri, "--out", str(page), home=tmp_path)
    assert (reported.returncode, f"no sample: {SHOWN}" in reported.stdout) == (0, True), reported
    html = page.read_text()
    assert SHOWN in html
    assert not [raw for raw in RAW if raw in html]
    trained = run("jobs.train", "rgb_demo", "--data.uri", evil_set.uri, "--data.val-split", "", home=tmp_path)
    assert trained.returncode == 2
    assert SHOWN in trained.stderr
    assert trained.stderr.count("\n") == 1


@pytest.mark.slow
def test_arguments_are_shown_escaped(tmp_path: Path) -> None:
    for args in (
        ("jobs.verify", f"file://{tmp_path}/{EVIL}"),
        ("jobs.train", "crn_demo", "--run.run-id", EVIL, "--data.uri", "file:///none"),
    ):
        done = run(*args, home=tmp_path)
        assert done.returncode == 2, done
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1, done.stderr
