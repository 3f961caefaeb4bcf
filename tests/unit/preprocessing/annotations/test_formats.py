"""The lists of Kinetics, Moments in Time, HMDB-51 and one's own, on lists written here and on the published ones."""

from __future__ import annotations

import csv
import io
import logging
import re
import resource
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from pipeline.dataset.sample import sample_key
from pipeline.errors import ConfigError, UserError
from preprocessing.annotations import Annotations, read_annotations
from preprocessing.shard.plan import plan_shards
from preprocessing.sources import open_sources
from tests.support.paths import ROOT

HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
ID = "-abcDEF_123"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    return tmp_path / "videos"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def write(root: Path, **lists: str) -> Path:
    folder = root.parent / "lists"
    folder.mkdir(exist_ok=True)
    for name, text in lists.items():
        (folder / name.replace("__", ".")).write_bytes(text.encode())
    return folder


def read(format: str, root: Path, lists: Path | str = "", **options) -> Annotations:
    return read_annotations(format, open_sources(str(root)), str(lists), **options)


def rows(found: Annotations) -> list[tuple]:
    return [(s.path, found.classes[s.label], s.split, s.start_s, s.end_s, s.name) for s in found.sources]


# Kinetics


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("abseiling/{cut}.mp4", (None, 10.0)),
        ("val/abseiling/{cut}.mkv", (None, 10.0)),
        ("{cut}.WEBM", (None, 10.0)),
        ("x/y/{cut}.mp4", (None, 10.0)),
        ("{id}.mp4", (417.0, 427.0)),
        ("val/{id}.avi", (417.0, 427.0)),
        ("{cut}.txt", None),
        ("{id}_000418_000427.mp4", None),
        ("x{id}.mp4", None),
    ],
)
def test_kinetics_finds_a_video_by_its_name(root, file, part):
    cut = f"{ID}_000417_000427"
    touch(root, path := file.format(cut=cut, id=ID), "other/other_____1.mp4")
    lists = write(
        root, val__csv=f'\ufeff{HEADER}abseiling,{ID},417,427,val,0\r\n\r\n"abseiling",other_____1,0,5,val,1\r\n'
    )
    first, second = rows(read("kinetics", root, lists))
    assert second == ("other/other_____1.mp4", "abseiling", "val", 0.0, 5.0, "abseiling/other_____1_000000_000005.mp4")
    name = f"abseiling/{cut}.mp4"
    assert first == ((path, "abseiling", "val", *part, name) if part else (name, "abseiling", "val", None, 10.0, name))


def test_kinetics_takes_the_file_that_fits_best(root):
    cut = f"{ID}_000000_000010"
    lists = write(root, train__csv=f"{HEADER}air drumming,{ID},0,10,train,0\n")
    worst_first = (
        f"{ID}.mp4",
        f"val/{cut}.webm",
        f"val/{cut}.mp4",
        f"train/{cut}.mkv",
        f"air_drumming/{cut}.mkv",
        f"train/air drumming/{cut}.mkv",
    )
    for name in worst_first:
        touch(root, name)
        assert read("kinetics", root, lists).sources[0].path == name


def test_kinetics_lists_of_all_splits(root, caplog):
    lists = write(
        root,
        **{
            "train.csv": (
                f"{HEADER}zzz quidditch,a0000000001,0,10,train,0\nabseiling,a0000000002,0,10,train,0\nair"
                " drumming,a0000000009,0,10,train,0\n"
            ),
            "validate.csv": f"{HEADER}abseiling,a0000000003,0,10,validate,0\nabseiling,a0000000002,0,10,validate,0\n",
            "kinetics-400_test.csv": (
                "youtube_id,time_start,time_end,split\na0000000004,0,10,test\na0000000005,0,10,test\n"
            ),
            "notes.csv": "not a list",
        },
    )
    touch(root, "a0000000001.mp4")
    with pytest.raises(
        UserError,
        match=(
            r"train.csv:2: class 'zzz quidditch' is not one of the 400 of Kinetics-400: correct it, or accept"
            r" .*--any-classes"
        ),
    ):
        read("kinetics", root, lists)
    with pytest.raises(UserError, match="no sample of the train split for 1 of 3 classes: abseiling"):
        read("kinetics", root, lists, any_classes=True)  # its one training video is in the validation list as well
    with (lists / "train.csv").open("a") as file:
        file.write("abseiling,a0000000006,3,13,train,0\nabseiling,a0000000006,3,13,train,0\n")
    found = read("kinetics", root, lists, any_classes=True)
    assert found.classes == ("abseiling", "air drumming", "zzz quidditch")
    assert Counter((s.split, s.label) for s in found.sources) == {
        ("train", 0): 1,
        ("train", 1): 1,
        ("train", 2): 1,
        ("val", 0): 2,
    }
    assert "2 rows without a label are left out" in caplog.text
    assert "2 videos are listed more than once" in caplog.text
    assert "a0000000002_000000_000010 in " in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("abseiling,abc,10,10,val,0", r"val.csv:3: the part from 10 s to 10 s is empty"),
        ("abseiling,abc,20,10,val,0", r"val.csv:3: the part from 20 s to 10 s is empty"),
        ("abseiling,abc,-5,10,val,0", r"val.csv:3: time_start '-5': give seconds"),
        ("abseiling,abc,x,10,val,0", r"val.csv:3: time_start 'x'"),
        ("abseiling,abc,nan,10,val,0", r"val.csv:3: time_start 'nan'"),
        ("abseiling,abc,1.5,10,val,0", r"val.csv:3: time_start '1.5': Kinetics counts whole seconds"),
        ("abseiling,../abc,1,10,val,0", r"val.csv:3: youtube_id '../abc'"),
        ("abseiling,,1,10,val,0", r"val.csv:3: youtube_id ''"),
        ("abseiling,abc,1,10,dev,0", r"val.csv:3: split 'dev': use train, val or test"),
        ("abseiling,abc,1,10,val,0,0", r"val.csv:3: 7 fields where the header has 6"),
        ('abseiling,"abc,1,10,val,0', r"val.csv:3: unexpected end of data: quote fields"),
        (
            "abselling,abc,1,10,val,0",
            r"val.csv:3: class 'abselling' is not one of the 400 .*; did you mean 'abseiling'\?",
        ),
        (
            "air drumming,first______,0,10,val,0",
            r"val.csv:3: first_______000000_000010 is 'air drumming' here and 'abseiling' in .*val.csv:2",
        ),
        ("Abseiling,abc,0,10,val,0", r"val.csv:3: class 'Abseiling' is spelled 'abseiling' in .*val.csv:2"),
    ],
)
def test_kinetics_mistakes_name_file_and_line(root, line, message):
    touch(root, "first______.mp4")
    with pytest.raises(UserError, match=message):
        read("kinetics", root, write(root, val__csv=f"{HEADER}abseiling,first______,0,10,val,0\n{line}\n"))


def test_kinetics_without_header_or_list(root):
    touch(root, "a.mp4")
    with pytest.raises(UserError, match=r"val.csv:1: the header has no column youtube_id, time_start, time_end"):
        read("kinetics", root, write(root, val__csv="abseiling,abc,0,10,val,0\n"))
    with pytest.raises(UserError, match=r"val.csv: the header has no column"):
        read("kinetics", root, write(root, val__csv=""))
    with pytest.raises(UserError, match="no row with a label"):
        read("kinetics", root, write(root, val__csv="youtube_id,time_start,time_end,split\nabc,0,1,test\n"))
    with pytest.raises(UserError, match="has no Kinetics list"):
        read("kinetics", root, root)
    with pytest.raises(UserError, match=r"cannot read .*none.csv: no such file; check --annotations"):
        read("kinetics", root, root / "none.csv")
    with pytest.raises(ConfigError, match=r"annotations = .* is not a folder"):
        read("kinetics", root, root / "none")
    (root.parent / "lists" / "val.csv").write_bytes(HEADER.encode() + b"caf\xe9,abc,0,10,val,0\n")
    with pytest.raises(UserError, match=r"val.csv is not UTF-8 text"):
        read("kinetics", root, root.parent / "lists")


def test_kinetics_official_validation_list_against_two_videos(root, real_data, caplog):
    file = real_data / "annotations" / "kinetics" / "kinetics-400_val.csv"
    with file.open(newline="") as lines:
        official = list(csv.DictReader(lines))
    one, two = official[900], official[17_000]
    touch(
        root,
        f"{one['label']}/{one['youtube_id']}_{int(one['time_start']):06d}_{int(one['time_end']):06d}.mp4",
        f"{two['youtube_id']}.mkv",
    )
    before_kb, start_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    store = open_sources(str(root))
    found = read_annotations("kinetics", store, str(file))
    plans = plan_shards(found, store.sizes({s.path for s in found.sources}), 64)
    assert time.process_time() - start_s < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 200_000
    assert (len(found.sources), len(found.classes), {s.split for s in found.sources}) == (19_906, 400, {"val"})
    names = (real_data / "annotations" / "kinetics" / "label_map_k400.txt").read_text().split("\n")
    assert list(found.classes) == [name for name in names if name]
    assert Counter(found.classes[s.label] for s in found.sources) == Counter(row["label"] for row in official)
    assert sum(len(p.present) for p in plans) == 2
    assert {(s.source.start_s, s.source.end_s) for p in plans for s in p.present} == {
        (None, float(one["time_end"]) - float(one["time_start"])),
        (float(two["time_start"]), float(two["time_end"])),
    }
    assert "there is no train split" in caplog.text
    with pytest.raises(UserError, match="no row with a label"):
        read_annotations("kinetics", store, str(file.with_name("kinetics-400_test.head500.csv")))
    with pytest.raises(UserError, match=r"none of the 19906 listed videos is under"):
        read_annotations("kinetics", open_sources(str(real_data / "clips" / "ucf101")), str(file))


@pytest.mark.parametrize("number", [600, 700])
def test_kinetics_600_and_700_need_any_classes(root, real_data, number):
    names = [
        name
        for name in (real_data / "annotations" / "kinetics" / f"label_map_k{number}.txt").read_text().split("\n")
        if name
    ]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerows(
        [HEADER.strip().split(","), *([name, f"id{i:09d}", 0, 10, "train", 0] for i, name in enumerate(names))]
    )
    touch(root, "id000000000.mp4")
    lists = write(root, train__csv=out.getvalue())
    with pytest.raises(
        UserError, match=r"train.csv:\d+: class '.*' is not one of the 400 of Kinetics-400 \(nor \d+ more\)"
    ):
        read("kinetics", root, lists)
    assert list(read("kinetics", root, lists, any_classes=True).classes) == sorted(names)


# Moments in Time


def moments(
    root: Path, categories: str = "clapping,0\nadult+male+singing,1\n", training: str = "", validation: str = ""
) -> Path:
    training = training or "clapping/a b.mp4,clapping,3,0\nadult+male+singing/b.mp4,adult+male+singing,2,1\n"
    lists = {
        "moments_categories.txt": categories,
        "trainingSet.csv": training,
        "validationSet.csv": validation or "clapping/a b.mp4,clapping,3,0\n",
    }
    return write(root, **lists)


def test_moments_lists_give_classes_splits_and_sources(root, caplog):
    touch(root, "training/clapping/a b.mp4", "validation/clapping/a b.mp4")
    found = read("moments", root, moments(root))
    assert found.classes == ("clapping", "adult+male+singing")
    assert [(s.path, s.label, s.split) for s in found.sources] == [
        ("training/clapping/a b.mp4", 0, "train"),
        ("training/adult+male+singing/b.mp4", 1, "train"),
        ("validation/clapping/a b.mp4", 0, "val"),
    ]
    assert "337 of the 339 classes of Moments in Time are absent; labels count the 2" in caplog.text
    with pytest.raises(UserError, match=r"none of the 3 listed videos .*did you mean --source .*/videos\?"):
        read("moments", root / "training", moments(root))  # a video of the same name in validation is another one
    (root.parent / "lists" / "trainingSet.csv").unlink()
    for source in (root, root / "validation"):
        assert [(s.name, s.split) for s in read("moments", source, root.parent / "lists").sources] == [
            ("validation/clapping/a b.mp4", "val")
        ]


def test_moments_in_an_archive_with_a_top_folder(root):
    with zipfile.ZipFile(root / "Moments_in_Time_Raw.zip", "w") as archive:
        for name in ("training/clapping/a b.mp4", "training/adult+male+singing/b.mp4", "moments_categories.txt"):
            archive.writestr(f"Moments_in_Time_Raw/{name}", name)
    for source in (root, root / "Moments_in_Time_Raw.zip"):
        found = read("moments", source, moments(root))
        assert [(s.path, s.name) for s in found.sources] == [
            ("Moments_in_Time_Raw/training/clapping/a b.mp4", "training/clapping/a b.mp4"),
            ("Moments_in_Time_Raw/training/adult+male+singing/b.mp4", "training/adult+male+singing/b.mp4"),
            ("validation/clapping/a b.mp4", "validation/clapping/a b.mp4"),
        ]
        with open_sources(str(source)).local(found.sources[0].path) as file:
            assert file.read_bytes() == b"training/clapping/a b.mp4"


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            {"categories": "clapping,0\nclaping,1\n"},
            (
                r"moments_categories.txt:2: class 'claping' is not one of the 339 of Moments in Time; did you mean"
                r" 'clapping'\?"
            ),
        ),
        (
            {"categories": "clapping,0\nadult+male+singing,2\n"},
            r"moments_categories.txt: the indices of its 2 classes must be 0 to 1",
        ),
        ({"categories": "clapping,0\nclapping,1\n"}, r"moments_categories.txt:2: class 'clapping' is already in"),
        ({"categories": "clapping,zero\n"}, r"moments_categories.txt:1: expected 'NAME,INDEX'"),
        ({"categories": "\n"}, r"moments_categories.txt is empty"),
        (
            {"training": "filename,label,r1,r2\n"},
            r"trainingSet.csv:1: class 'label' is not in moments_categories.txt \(the lists have no header\)",
        ),
        ({"training": "clapping/a.mp4\n"}, r"trainingSet.csv:1: expected 'CLASS/FILE,CLASS,POSITIVE,NEGATIVE'"),
        (
            {"training": "clapping/a.mp4,clapping,3,many\n"},
            r"trainingSet.csv:1: NEGATIVE \(workers' answers\) 'many'",
        ),
        (
            {"training": "clapping/a.mp4,clapping,3,0\nclapping/a.mp4,adult+male+singing,3,0\n"},
            r"trainingSet.csv:2: training/clapping/a.mp4 is 'adult.*' here and 'clapping' in .*:1",
        ),
        ({"validation": "praying/a.mp4,praying,3,0\n"}, r"validationSet.csv:1: class 'praying' is not in"),
    ],
)
def test_moments_mistakes_name_file_and_line(root, lists, message):
    touch(root, "training/clapping/a b.mp4")
    with pytest.raises(UserError, match=message):
        read("moments", root, moments(root, **lists))


def test_moments_official_names_and_files(root, real_data, caplog):
    folder = real_data / "annotations" / "moments"
    names = (folder / "mmaction2_mit_label_map_339.txt").read_text().split()
    with (folder / "AVMIT_train.head300.csv").open(newline="") as lines:
        files = {row["filename"]: row["filename"].split("/")[0] for row in csv.DictReader(lines)}
    training = "".join(f"{file},{name},3,0\n" for file, name in files.items()) + "".join(
        f"{name}/x.mp4,{name},3,0\n" for name in names
    )
    touch(root, f"training/{next(iter(files))}")
    for categories in (
        "derived_moments_categories.txt",
        "mmaction2_mit_label_map_339.txt",
    ):  # with indices, and names only
        found = read("moments", root, moments(root, (folder / categories).read_text(), training))
        assert list(found.classes) == names
        assert sum(s.split == "train" for s in found.sources) == len(files) + 339
        assert "absent" not in caplog.text
    caplog.clear()
    names_305 = (folder / "category_momentsv2_305.txt").read_text().split()
    training = "".join(f"{name}/x.mp4,{name},3,0\n" for name in names_305)
    lists = moments(
        root,
        "\n".join(names_305),
        training + "/etc/passwd,clapping,1,1\n../../x.mp4,clapping,1,1\n",
        "clapping/x.mp4,clapping,3,0\n",
    )
    touch(root, "training/clapping/x.mp4")
    found = read("moments", root, lists, any_classes=True)
    assert len(found.classes) == 305
    store = open_sources(str(root))
    assert [store.refusal(s.path).reason for s in found.sources if "passwd" in s.path or ".." in s.path] == [
        "unsafe_path",
        "unsafe_path",
    ]


# HMDB-51


def test_hmdb51_published_lists(root, real_data):
    folder = real_data / "annotations" / "hmdb51"
    expected: Counter[str] = Counter()
    odd = []
    for file in sorted(folder.glob("*_test_split1.txt")):
        for line in file.read_text().splitlines():
            expected[line.split()[-1]] += 1
            if re.search(r"[#&(;\[]", line) and line.split()[-1] != "0":
                odd.append(f"{file.name.removesuffix('_test_split1.txt')}/{line.rsplit(maxsplit=1)[0].strip()}")
    assert (expected["1"], expected["2"]) == (3570, 1530)  # 70 and 30 videos of each of 51 classes
    assert len(odd) > 100
    touch(root, *odd)
    store = open_sources(str(root))
    found = read_annotations("hmdb51", store, str(folder))
    assert Counter(s.split for s in found.sources) == {"train": expected["1"], "test": expected["2"]}
    assert list(found.classes) == sorted((folder / "class_list.txt").read_text().split())
    assert all(s.path.startswith(found.classes[s.label] + "/") for s in found.sources)
    assert set(store.sizes([s.path for s in found.sources])) == set(odd)
    assert len({sample_key(s.name) for s in found.sources}) == len(found.sources)
    with pytest.raises(UserError, match=r"has no CLASS_test_split2.txt: check --annotations and --split-index"):
        read_annotations("hmdb51", store, str(folder), 2)


def test_hmdb51_flat_and_in_archives(root):
    lists = write(
        root,
        walk_test_split1__txt="a#1 b.avi 1 \nc.avi 2 \nd.avi 0 \n",
        walk_test_split2__txt="x",
        ride_bike_test_split1__txt="e.avi 1\n",
    )
    touch(root, "a#1 b.avi", "e.avi")
    assert [(s.path, s.name) for s in read("hmdb51", root, lists).sources] == [
        ("e.avi", "ride_bike/e.avi"),
        ("a#1 b.avi", "walk/a#1 b.avi#"),
        ("walk/c.avi", "walk/c.avi"),
    ]
    with tarfile.open(root / "walk.tar", "w") as archive:
        archive.add(root / "a#1 b.avi", "walk/a#1 b.avi")
    (root / "a#1 b.avi").unlink()
    assert read("hmdb51", root, lists).sources[1].path == "walk/a#1 b.avi"
    with zipfile.ZipFile(root.parent / "lists.zip", "w") as archive:
        for file in lists.iterdir():
            archive.write(file, f"testTrainMulti_7030_splits/{file.name}")
    assert len(read("hmdb51", root, root.parent / "lists.zip").sources) == 3
    touch(root.parent / "flat", "c.avi")
    both = write(root, ride_bike_test_split1__txt="c.avi 1\n", walk_test_split1__txt="c.avi 1\n")
    with pytest.raises(UserError, match=r"ride_bike/c.avi and walk/c.avi are both found at c.avi"):
        read("hmdb51", root.parent / "flat", both)
    for line, message in {
        "a.avi 3": "expected 'FILE NUMBER'",
        "a.avi": "expected 'FILE NUMBER'",
        "a#1 b.avi 2": "is already in .*split1.txt:1",
    }.items():
        with pytest.raises(UserError, match=rf"walk_test_split1.txt:2: .*{message}"):
            read("hmdb51", root, write(root, walk_test_split1__txt=f"a#1 b.avi 1\n{line}\n"))


# A list of one's own, and folders


def test_a_csv_gives_classes_splits_and_parts(root):
    touch(root, "walk/one.mp4", "long, very.mp4", "caf\u0065\u0301.mp4")
    lists = write(
        root,
        mine__csv=(
            '\ufeffpath,label,split,start_s,end_s\r\nwalk/one.mp4,walk\r\n"long, very.mp4",run,val,12.5,20\r\n"long,'
            ' very.mp4",run,training,,5\r\ncaf\u00e9.mp4,run,,,\r\n'
        ),
    )
    expected = [
        ("walk/one.mp4", "walk", "train", None, None, "walk/one.mp4"),
        ("long, very.mp4", "run", "val", 12.5, 20.0, "long, very.mp4#12.5-20"),
        ("long, very.mp4", "run", "train", None, 5.0, "long, very.mp4#0-5"),
        ("caf\u0065\u0301.mp4", "run", "train", None, None, "caf\u00e9.mp4"),
    ]
    for place in (lists, lists / "mine.csv", f"file://{lists}/mine.csv"):
        found = read("csv", root, place)
        assert found.classes == ("run", "walk")
        assert rows(found) == expected
    write(root, classes__txt="walk\nrun\njump\n", mine__csv="label,path\n0,walk/one.mp4\nrun,x.mp4\n2,y.mp4\n")
    found = read("csv", root, lists)
    assert [(s.path, found.classes[s.label]) for s in found.sources] == [
        ("walk/one.mp4", "walk"),
        ("x.mp4", "run"),
        ("y.mp4", "jump"),
    ]
    assert found.classes == ("walk", "run", "jump")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class\n", r"mine.csv:1: the header has no column label"),
        ("path,label\nx.mp4,\n", r"mine.csv:2: label is empty"),
        ("path,label\n\n\n,a\n", r"mine.csv:4: path is empty"),
        ("path,label,start_s,end_s\nx.mp4,a,3,2\n", r"mine.csv:2: the part from 3 s to 2 s is empty"),
        ("path,label,start_s\nx.mp4,a,-1\n", r"mine.csv:2: start_s '-1'"),
        ("path,label,split\nx.mp4,a,dev\n", r"mine.csv:2: split 'dev'"),
        ("path,label\nx.mp4,a\nx.mp4,b\n", r"mine.csv:3: x.mp4 is 'b' here and 'a' in .*mine.csv:2"),
        ("path,label\n", r"mine.csv lists no video"),
        ("path,label,split\nx.mp4,a,train\ny.mp4,b,val\n", r"no sample of the train split for 1 of 2 classes: b"),
        ("path,label\nnone.mp4,a\n", r"none of the 1 listed videos is under .*: check --source"),
        ("path,label\ny.mp4,a\n", r"none of the 1 listed videos .*; did you mean --source .*/videos/deep\?"),
    ],
)
def test_csv_mistakes_name_file_and_line(root, text, message):
    touch(root, "x.mp4", "deep/y.mp4")
    with pytest.raises(UserError, match=message):
        read("csv", root, write(root, mine__csv=text))


def test_csv_label_outside_classes(root):
    touch(root, "x.mp4")
    for label in ("3", "-1", "b"):
        with pytest.raises(
            UserError, match=rf"mine.csv:2: label '{label}' is neither a class in classes.txt nor an index from 0 to 0"
        ):
            read("csv", root, write(root, classes__txt="a\n", mine__csv=f"path,label\nx.mp4,{label}\n"))


def test_folder_in_an_archive_gives_the_names_of_the_unpacked_folder(root):
    files = ("train/run/a.mp4", "train/walk/b#1.mp4", "test/run/c.mp4")
    touch(root / "plain", *files)
    with tarfile.open(root / "packed.tar.gz", "w:gz") as archive:
        archive.add(root / "plain", "top")
    plain, packed = read("folder", root / "plain"), read("folder", root / "packed.tar.gz")
    assert [(s.name, s.label, s.split) for s in packed.sources] == [(s.name, s.label, s.split) for s in plain.sources]
    assert packed.classes == plain.classes == ("run", "walk")
    assert packed.sources[0].path == "top/train/run/a.mp4"


def test_ucf101_in_an_archive_and_several_places(root, real_data):
    listed = [
        line.split()[0]
        for line in (real_data / "annotations" / "ucf101" / "trainlist01.txt").read_text().splitlines()[:3]
    ]
    with zipfile.ZipFile(root / "UCF-101.zip", "w") as archive:
        for name in listed:
            archive.writestr(f"UCF-101/{name}", b"x")
    found = read("ucf101", root, real_data / "annotations" / "ucf101")
    assert Counter(s.split for s in found.sources) == {"train": 9537, "test": 3783}
    assert [s.path for s in found.sources[:4]] == [*(f"UCF-101/{name}" for name in listed), found.sources[3].name]
    assert [s.name for s in found.sources[:3]] == listed
    with zipfile.ZipFile(root / "again.zip", "w") as archive:
        archive.writestr(f"copy/{listed[0]}", b"x")
    with pytest.raises(UserError, match=r"is in several places \(UCF-101/.*, copy/.*\): keep one"):
        read("ucf101", root, real_data / "annotations" / "ucf101")


def test_an_unknown_format_is_refused(root):
    with pytest.raises(ConfigError, match="format = 'ava': must be one of folder, pictures, csv"):
        read("ava", root)


def test_no_official_name_is_in_the_project(real_data):
    source = ROOT / "preprocessing" / "annotations" / "names.py"
    names = [
        n
        for n in (real_data / "annotations" / "kinetics" / "label_map_k400.txt").read_text().split("\n")
        if n and n != "air drumming"
    ]
    assert [name for name in names if re.search(rf"\b{re.escape(name)}\b", source.read_text())] == []


@pytest.fixture(autouse=True)
def _log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
