"""Annotation parsers and the plan, on lists written here and on the published ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pipeline.errors import RejectedSource, UserError
from preprocessing.annotations import (
    Annotations,
    Source,
    check_source_root,
    read_folder,
    read_ucf101,
)
from preprocessing.shard.plan import plan_shards
from preprocessing.sources import open_sources


def ucf(
    tmp_path: Path, classes: str = "1 A\n2 B\n", train: str = "A/v_A_g01_c01.avi 1\nB/v_B_g01_c01.avi 2\n", **lists: str
) -> Path:
    (tmp_path / "classInd.txt").write_text(classes)
    (tmp_path / "trainlist01.txt").write_text(train)
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    return tmp_path


def test_ucf101_lists_give_classes_splits_and_sources(tmp_path):
    found = read_ucf101(
        ucf(
            tmp_path,
            "2 B C\r\n1 A\r\n",
            "\ufeffA/one two.avi 1\nB C/x.avi 2\n\n",
            testlist01="B C/y.avi\n",
            vallist01="A/z.avi 1\n",
        )
    )
    assert found.classes == ("A", "B C")
    assert [(s.path, s.label, s.split) for s in found.sources] == [
        ("A/one two.avi", 0, "train"),
        ("B C/x.avi", 1, "train"),
        ("A/z.avi", 0, "val"),
        ("B C/y.avi", 1, "test"),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"classes": ""}, r"classInd.txt is empty"),
        ({"classes": "A 1\n"}, r"classInd.txt:1: expected 'NUMBER NAME', got 'A 1'"),
        ({"classes": "1 A\n2 A\n"}, r"classInd.txt:2: class '2 A' is listed twice"),
        ({"train": "A/x.avi 1\nB/y.avi 7\n"}, r"trainlist01.txt:2: label 7 is not in classInd.txt"),
        ({"train": "A/x.avi 2\n"}, r"trainlist01.txt:1: .* folder of another class than its label 2"),
        ({"train": "A/x.avi 1\nC/y.avi\n"}, r"trainlist01.txt:2: 'C' .* is not a class"),
        ({"train": "A/x.avi 1\n"}, r"no sample of the train split for 1 of 2 classes: B"),
        (
            {"testlist01": "A/v_A_g01_c01.avi\n"},
            r"testlist01.txt:1: A/v_A_g01_c01.avi is already in .*trainlist01.txt:1",
        ),
    ],
)
def test_ucf101_mistakes_name_file_and_line(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        read_ucf101(ucf(tmp_path, **files))


def test_ucf101_keeps_paths_that_leave_the_folder_for_their_reject(tmp_path):
    found = read_ucf101(ucf(tmp_path, train="A/../../x.avi 1\n/etc/x.avi 1\nA/ok.avi 1\nB/./y//z#1.avi 2\n"))
    assert [s.path for s in found.sources] == ["A/../../x.avi", "/etc/x.avi", "A/ok.avi", "B/y/z#1.avi"]
    store = open_sources(str(tmp_path))
    for source in found.sources[:2]:
        assert store.refusal(source.path).reason == "unsafe_path"
        with pytest.raises(RejectedSource, match="unsafe_path"), store.local(source.path):
            pass


def test_names_are_unambiguous():
    def name(path: str, start_s: float | None = None, end_s: float | None = None, identity: str | None = None) -> str:
        return Source(path=path, label=0, split="train", start_s=start_s, end_s=end_s, identity=identity).name

    assert name("a/b.mp4") == "a/b.mp4"
    assert name("a/b.mp4", 0.0, 2.5) == "a/b.mp4#0-2.5"
    assert name("a/b.mp4", 12345.67) == "a/b.mp4#12345.67-"
    assert name("a/b.mp4", None, 1e-3) == "a/b.mp4#0-0.001"
    assert name("elsewhere.mkv", 3.0, 4.0, "a/b.mp4") == "a/b.mp4"
    names = [
        name("x"),
        name("x#1-2"),
        name("x", 1, 2),
        name("x#1-2", 1, 2),
        name("x#"),
        name("x#", 1, 2),
        name("x##"),
        name("x", 12345.67),
        name("x", 12345.68),
    ]
    assert len(set(names)) == len(names)
    assert name("cafe\u0301.mp4") == name("caf\u00e9.mp4")  # one name, as two file systems store it


def test_ucf101_missing_lists(tmp_path):
    with pytest.raises(UserError, match=r"no class list: .*classInd.txt"):
        read_ucf101(tmp_path)
    with pytest.raises(UserError, match=r"trainlist02.txt does not exist: check --annotations and --split-index"):
        read_ucf101(ucf(tmp_path), split_index=2)


def test_folders_are_classes(tmp_path):
    for name in ("walk/b.mp4", "walk/deep/a.mp4", "run/c.mp4", ".hidden/d.mp4", "run/.DS_Store"):
        (tmp_path / "flat" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "flat" / name).touch()
    found = read_folder(tmp_path / "flat")
    assert found.classes == ("run", "walk")
    assert [(s.path, s.label, s.split) for s in found.sources] == [
        ("run/c.mp4", 0, "train"),
        ("walk/b.mp4", 1, "train"),
        ("walk/deep/a.mp4", 1, "train"),
    ]
    for name in ("train/run/a.mp4", "train/walk/a.mp4", "test/run/a.mp4"):
        (tmp_path / "split" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "split" / name).touch()
    assert [(s.path, s.label, s.split) for s in read_folder(tmp_path / "split").sources] == [
        ("train/run/a.mp4", 0, "train"),
        ("train/walk/a.mp4", 1, "train"),
        ("test/run/a.mp4", 0, "test"),
    ]
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


def test_published_lists_are_read_whole(real_data):
    found = read_ucf101(real_data / "annotations" / "ucf101")
    counts = Counter(s.split for s in found.sources)
    assert (len(found.classes), counts["train"], counts["test"]) == (101, 9537, 3783)  # as published for split 1
    assert all(found.classes[s.label] == s.path.split("/")[0] for s in found.sources)
    found = read_ucf101(real_data / "ut_interaction", split_index=2)
    assert Counter(s.split for s in found.sources) == {"train": 60, "test": 60}
    check_source_root(real_data / "ut_interaction" / "videos", found)
    assert read_folder(real_data / "clips" / "ucf101").classes == (
        "ApplyEyeMakeup",
        "BaseballPitch",
        "BenchPress",
        "Diving",
    )


def some(count: int, num_classes: int = 4) -> Annotations:
    return Annotations(
        classes=tuple("abcdefgh"[:num_classes]),
        sources=tuple(
            Source(
                path=f"{'abcdefgh'[i * num_classes // count]}/{i}.mp4", label=i * num_classes // count, split="train"
            )
            for i in range(count)
        ),
    )


def test_plan_deals_every_source_once_mixed_and_independent_of_order():
    annotations = some(100)
    plans = plan_shards(annotations, {}, 16)
    assert sorted(s.path for p in plans for s in p.sources) == sorted(s.path for s in annotations.sources)
    assert [p.path for p in plans] == [f"train/shard-{i:06d}" for i in range(7)]
    assert {len(p.sources) for p in plans} == {14, 15}
    assert all(len({s.label for s in p.sources}) == 4 for p in plans)
    assert plan_shards(Annotations(classes=annotations.classes, sources=annotations.sources[::-1]), {}, 16) == plans


def test_plan_notices_changed_inputs(tmp_path):
    (tmp_path / "a").mkdir()

    def fingerprint(annotations: Annotations) -> str:
        return plan_shards(annotations, open_sources(str(tmp_path)).sizes([s.path for s in annotations.sources]), 4)[
            0
        ].sources_sha256

    before = fingerprint(some(4))
    assert fingerprint(some(4)) == before
    (tmp_path / "a" / "0.mp4").write_bytes(b"now it is here")
    after = fingerprint(some(4))
    assert after != before
    assert fingerprint(some(4, num_classes=2)) not in (before, after)  # other labels


def test_plan_refuses_a_source_listed_twice():
    source = Source(path="a/x.mp4", label=0, split="train")
    with pytest.raises(UserError, match=r"'a/x.mp4' and 'a/x.mp4' are one sample"):
        plan_shards(Annotations(classes=("a",), sources=(source, source)), {}, 4)
    parts = tuple(Source(path="a/x.mp4", label=0, split="train", start_s=s, end_s=s + 1.0) for s in (0.0, 1.0))
    assert len(plan_shards(Annotations(classes=("a",), sources=parts), {}, 4)[0].sources) == 2
