"""Files beside videos: which are left out of a folder source, and which are tried."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.storage import open_storage
from preprocessing.annotations import read_annotations, read_folder
from preprocessing.sources import BucketStore, open_sources

SIDE_FILES = (
    "walk/b.json",
    "walk/b.en.vtt",
    "walk/b.srt",
    "walk/b.info.JSON",
    "walk/Thumbs.db",
    "walk/poster.jpg",
    "walk/c.mp4.part",
    "walk/README",
    "walk/c.f137.mp4.part-Frag12",
    "run/c.ytdl",
    "run/.DS_Store",
    "run/sound.wav",
    "run/notes.md",
    "list.csv",
)
TRIED = ("walk/b.mp4", "walk/phone", "walk/odd.xyz", "walk/moving.gif", "walk/.mp4x", "walk/json", "run/c.MOV")


def side_set(root: Path) -> Path:
    for name in (*SIDE_FILES, *TRIED):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


@pytest.mark.parametrize("kind", ["folder", "bucket", "zip", "tar below a README"])
def test_side_files_are_left_out_and_counted_wherever_the_videos_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    root = side_set(tmp_path / "set")
    if kind == "zip":
        shutil.make_archive(str(tmp_path / "packed"), "zip", root)
    elif kind != "folder" and kind != "bucket":
        (tmp_path / "above" / "UCF").parent.mkdir()
        root.rename(tmp_path / "above" / "UCF")
        (tmp_path / "above" / "README.txt").touch()
        shutil.make_archive(str(tmp_path / "packed"), "tar", tmp_path / "above")
    places = {
        "folder": lambda: open_sources(str(root)),
        "bucket": lambda: BucketStore(open_storage(f"file://{root}")),
        "zip": lambda: open_sources(str(tmp_path / "packed.zip")),
    }
    with caplog.at_level(logging.INFO):
        found = read_folder(places.get(kind, lambda: open_sources(str(tmp_path / "packed.tar")))())
    assert found.classes == ("run", "walk")
    assert sorted(s.name for s in found.sources) == sorted(name for name in TRIED if "/." not in name)
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(said) == 1
    assert "files that are no videos: 2 .json, 2 .part, " in said[0]


def test_a_class_of_side_files_alone_is_a_class_without_videos(tmp_path: Path) -> None:
    root = side_set(tmp_path / "set")
    (root / "jump").mkdir()
    (root / "jump" / "a.mp4.part").touch()
    with pytest.raises(UserError, match=r"no sample of the train split for 1 of 3 classes: jump"):
        read_folder(root)


def test_side_files_beside_the_split_folders_are_no_other_kind_of_folder(tmp_path: Path) -> None:
    for name in ("train/run/a.mp4", "train/run/a.json", "val/run/b.mp4", "lists/all.csv", "test/run/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = read_folder(tmp_path)
    assert found.classes == ("run",)
    assert [s.path for s in found.sources] == ["train/run/a.mp4", "val/run/b.mp4"]


def test_a_listed_file_is_tried_whatever_it_is_called(tmp_path: Path) -> None:
    side_set(tmp_path / "set")
    (tmp_path / "list.csv").write_text("path,label\nwalk/b.json,walk\nwalk/b.mp4,run\n")
    found = read_annotations("csv", open_sources(str(tmp_path / "set")), str(tmp_path / "list.csv"))
    assert [s.path for s in found.sources] == ["walk/b.json", "walk/b.mp4"]
