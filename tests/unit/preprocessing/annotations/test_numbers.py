"""Whatever stands where a list has a number: the list is read, or one line names the file, the row, the field and the
value.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from preprocessing.annotations import Annotations, read_annotations
from preprocessing.annotations.rows import MOST_SECONDS
from preprocessing.sources import open_sources

NUMBERS = st.one_of(
    st.floats().map(str),
    st.integers().map(str),
    st.decimals(allow_nan=True).map(str),
    st.sampled_from(
        [
            "1e18",
            "1e400",
            "-0",
            "nan",
            "inf",
            "-inf",
            "1_000",
            "0x10",
            "١٢",
            "²",
            "1,5",
            "1.5.2",
            "+3",
            ".5",
            "5.",
            "9" * 5000,
            "",
        ]
    ),
    st.text(st.characters(exclude_characters='\n\r"\0', exclude_categories=("Cs",)), max_size=8),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the videos that all lists below name; what a list says of them differs."""
    root = tmp_path_factory.mktemp("numbers")
    for name in ("walk/one.mp4", "training/walk/one.mp4", "videoID_1234_000001_000011.mp4"):
        (root / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "videos" / name).touch()
    return root


@contextlib.contextmanager
def refusals(where: str, *fields: str) -> Iterator[None]:
    """A UserError in the block is one line with ``where`` and one of ``fields``."""
    message = f"{where} {fields[0]}"
    try:
        yield
    except UserError as error:
        message = str(error)
    if "none of the 1 listed videos is under" in message:  # a number that is part of a name: another video
        return
    assert where in message
    assert any(field in message for field in fields), message
    assert len(message) < 1000
    assert "Traceback" not in message


def read(format: str, root: Path, **files: str) -> Annotations:
    lists = root / format
    lists.mkdir(exist_ok=True)
    for name, text in files.items():
        (lists / name.replace("__", ".")).write_text(text, newline="")
    found = read_annotations(format, open_sources(str(root / "videos")), str(lists), any_classes=True)
    for source in found.sources:
        assert 0 <= source.label < len(found.classes)
        start_s, end_s = source.start_s or 0.0, source.end_s
        assert 0 <= start_s <= MOST_SECONDS
        assert end_s is None or (math.isfinite(end_s) and start_s < end_s <= MOST_SECONDS)
        source.name.encode()
    return found


quick = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


@quick
@given(NUMBERS, NUMBERS)
@example("1e18", "")
@example("0", "1e18")
@example("5", "3")
@example("0.00000001", "0.00000002")
def test_parts_of_a_csv(root: Path, start: str, end: str) -> None:
    text = f'path,label,split,start_s,end_s\nwalk/one.mp4,walk,train,"{start}","{end}"\n'
    with refusals("mine.csv:2", "start_s", "end_s", "the part from"):
        read("csv", root, mine__csv=text)


@quick
@given(NUMBERS)
def test_indices_of_classes_in_a_csv(root: Path, index: str) -> None:
    folder = root / "csv"
    folder.mkdir(exist_ok=True)
    (folder / "classes.txt").write_text("walk\nrun\n")
    with refusals("mine.csv", "label", "classes"):
        read("csv", root, mine__csv=f'path,label\nwalk/one.mp4,"{index}"\n')
    (folder / "classes.txt").unlink()


@quick
@given(NUMBERS, NUMBERS)
@example("1e18", "2e18")
def test_times_of_kinetics(root: Path, start: str, end: str) -> None:
    text = f'label,youtube_id,time_start,time_end,split\nwalk,videoID_1234,"{start}","{end}",train\n'
    with refusals("train.csv:2", "time_start", "time_end", "the part from"):
        read("kinetics", root, train__csv=text)


@quick
@given(NUMBERS, NUMBERS)
@example("0", "²")
def test_numbers_of_moments(root: Path, index: str, answers: str) -> None:
    with refusals("", "moments_categories.txt", "trainingSet.csv"):
        read(
            "moments",
            root,
            moments_categories__txt=f"walk,{index}\n",
            trainingSet__csv=f'walk/one.mp4,walk,"{answers}",0\n',
        )


@quick
@given(NUMBERS, NUMBERS)
@example("9" * 5000, "1")
@example("1", "9" * 5000)
def test_numbers_of_ucf101(root: Path, number: str, label: str) -> None:
    with refusals("", "classInd.txt", "trainlist01.txt"):
        read("ucf101", root, classInd__txt=f"{number} walk\n", trainlist01__txt=f"walk/one.mp4 {label}\n")


@quick
@given(NUMBERS)
def test_numbers_of_hmdb51(root: Path, number: str) -> None:
    with refusals("", "walk_test_split1.txt", "_test_split1.txt"):
        read("hmdb51", root, walk_test_split1__txt=f"one.mp4 {number}\n")


def test_a_column_that_stands_twice_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.csv:1: the header has the column label twice: keep one"):
        read("csv", root, mine__csv="path,label,label\nwalk/one.mp4,walk,run\n")
