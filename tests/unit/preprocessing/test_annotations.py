"""Annotation parsers and the plan, on lists written here and on the published ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pipeline.errors import UserError
from preprocessing.annotations import Annotations, Source, check_source_root, read_folder, read_ucf101
from preprocessing.plan import plan_shards


def ucf(tmp_path: Path, classes: str = "1 A\n2 B\n", train: str = "A/v_A_g01_c01.avi 1\nB/v_B_g01_c01.avi 2\n", **lists: str) -> Path:
    (tmp_path / "classInd.txt").write_text(classes)
    (tmp_path / "trainlist01.txt").write_text(train)
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    return tmp_path


def test_ucf101(tmp_path):
    found = read_ucf101(ucf(tmp_path, "2 B C\r\n1 A\r\n", "\ufeffA/one two.avi 1\nB C/x.avi 2\n\n", testlist01="B C/y.avi\n", vallist01="A/z.avi 1\n"))
    assert found.classes == ("A", "B C")
    assert [(s.path, s.label, s.split) for s in found.sources] == [
        ("A/one two.avi", 0, "train"), ("B C/x.avi", 1, "train"), ("A/z.avi", 0, "val"), ("B C/y.avi", 1, "test"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"classes": ""}, r"classInd.txt is empty"),
        ({"classes": "A 1\n"}, r"classInd.txt:1: expected 'NUMBER NAME', got 'A 1'"),
        ({"classes": "1 A\n2 A\n"}, r"classInd.txt:2: class '2 A' stands twice"),
        ({"train": "A/x.avi 1\nB/y.avi 7\n"}, r"trainlist01.txt:2: label 7 is not in classInd.txt"),
        ({"train": "A/x.avi 2\n"}, r"trainlist01.txt:1: .* folder of another class than its label 2"),
        ({"train": "A/x.avi 1\nC/y.avi\n"}, r"trainlist01.txt:2: 'C' .* is not a class"),
        ({"train": "A/x.avi 1\n"}, r"no sample of the train split for 1 of 2 classes: B"),
        ({"train": "/etc/x.avi 1\n"}, r"trainlist01.txt:1: '/etc/x.avi' must be a path below --source"),
        ({"train": "A/../../x.avi 1\n"}, r"trainlist01.txt:1: .* must be a path below --source"),
        ({"testlist01": "A/v_A_g01_c01.avi\n"}, r"testlist01.txt:1: A/v_A_g01_c01.avi stands already in .*trainlist01.txt:1"),
    ],
)
def test_ucf101_mistakes_name_file_and_line(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        read_ucf101(ucf(tmp_path, **files))


def test_ucf101_missing_lists(tmp_path):
    with pytest.raises(UserError, match=r"no class list: .*classInd.txt"):
        read_ucf101(tmp_path)
    with pytest.raises(UserError, match=r"trainlist02.txt does not exist: check --annotations and --split-index"):
        read_ucf101(ucf(tmp_path), split_index=2)


def test_folder(tmp_path):
    for name in ("walk/b.mp4", "walk/deep/a.mp4", "run/c.mp4", ".hidden/d.mp4", "run/.DS_Store"):
        (tmp_path / "flat" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "flat" / name).touch()
    found = read_folder(tmp_path / "flat")
    assert found.classes == ("run", "walk")
    assert [(s.path, s.label, s.split) for s in found.sources] == [("run/c.mp4", 0, "train"), ("walk/b.mp4", 1, "train"), ("walk/deep/a.mp4", 1, "train")]
    for name in ("train/run/a.mp4", "train/walk/a.mp4", "test/run/a.mp4"):
        (tmp_path / "split" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "split" / name).touch()
    assert [(s.path, s.label, s.split) for s in read_folder(tmp_path / "split").sources] == [
        ("train/run/a.mp4", 0, "train"), ("train/walk/a.mp4", 1, "train"), ("test/run/a.mp4", 0, "test"),
    ]  # fmt: skip
    (tmp_path / "split" / "extra").mkdir()
    with pytest.raises(UserError, match=r"split folders \(train, test\) and others \(extra\)"):
        read_folder(tmp_path / "split")
    (tmp_path / "flat" / "jump").mkdir()
    with pytest.raises(UserError, match=r"no sample of the train split for 1 of 3 classes: jump"):
        read_folder(tmp_path / "flat")
    with pytest.raises(UserError, match="is not a folder"):
        read_folder(tmp_path / "none")


def test_wrong_root_is_one_message_not_a_thousand_rejects(tmp_path):
    found = read_ucf101(ucf(tmp_path))
    with pytest.raises(UserError, match=r"none of the 2 listed videos is under .*: check --source"):
        check_source_root(tmp_path, found)
    (tmp_path / "videos" / "A").mkdir(parents=True)
    (tmp_path / "videos" / "A" / "v_A_g01_c01.avi").touch()
    with pytest.raises(UserError, match=r"did you mean --source .*videos\?"):
        check_source_root(tmp_path, found)
    check_source_root(tmp_path / "videos", found)  # one of two is there: the other is a reject


def test_published_lists(real_data):
    found = read_ucf101(real_data / "annotations" / "ucf101")
    counts = Counter(s.split for s in found.sources)
    assert (len(found.classes), counts["train"], counts["test"]) == (101, 9537, 3783)  # as published for split 1
    assert all(found.classes[s.label] == s.path.split("/")[0] for s in found.sources)
    found = read_ucf101(real_data / "ut_interaction", split_index=2)
    assert Counter(s.split for s in found.sources) == {"train": 60, "test": 60}
    check_source_root(real_data / "ut_interaction" / "videos", found)
    assert read_folder(real_data / "clips" / "ucf101").classes == ("ApplyEyeMakeup", "BaseballPitch", "BenchPress", "Diving")


def some(count: int, num_classes: int = 4) -> Annotations:
    return Annotations(
        classes=tuple("abcdefgh"[:num_classes]),
        sources=tuple(Source(path=f"{'abcdefgh'[i * num_classes // count]}/{i}.mp4", label=i * num_classes // count, split="train") for i in range(count)),
    )


def test_plan_deals_every_source_once_mixed_and_independent_of_order(tmp_path):
    annotations = some(100)
    plans = plan_shards(annotations, tmp_path, 16)
    assert sorted(s.path for p in plans for s in p.sources) == sorted(s.path for s in annotations.sources)
    assert [p.path for p in plans] == [f"train/shard-{i:06d}" for i in range(7)]
    assert {len(p.sources) for p in plans} == {14, 15}
    assert all(len({s.label for s in p.sources}) == 4 for p in plans)
    assert plan_shards(Annotations(classes=annotations.classes, sources=annotations.sources[::-1]), tmp_path, 16) == plans


def test_plan_notices_changed_inputs(tmp_path):
    (tmp_path / "a").mkdir()
    before = plan_shards(some(4), tmp_path, 4)[0].sources_sha256
    assert plan_shards(some(4), tmp_path, 4)[0].sources_sha256 == before
    (tmp_path / "a" / "0.mp4").write_bytes(b"now it is here")
    after = plan_shards(some(4), tmp_path, 4)[0].sources_sha256
    assert after != before
    assert plan_shards(some(4, num_classes=2), tmp_path, 4)[0].sources_sha256 not in (before, after)  # other labels


def test_plan_refuses_a_source_listed_twice(tmp_path):
    source = Source(path="a/x.mp4", label=0, split="train")
    with pytest.raises(UserError, match=r"'a/x.mp4' and 'a/x.mp4' are one sample"):
        plan_shards(Annotations(classes=("a",), sources=(source, source)), tmp_path, 4)
    parts = tuple(Source(path="a/x.mp4", label=0, split="train", start_s=s, end_s=s + 1.0) for s in (0.0, 1.0))
    assert len(plan_shards(Annotations(classes=("a",), sources=parts), tmp_path, 4)[0].sources) == 2
