"""The report page: its numbers are the manifest's, it needs nothing else, and flow has the colours of the published
wheel.
"""

from __future__ import annotations

import base64
import colorsys
import dataclasses
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.shards import Reject, ShardRecord
from pipeline.errors import ManifestError
from pipeline.storage import LocalStorage, open_storage
from preprocessing.report import page as report_module
from preprocessing.report.page import make_report
from preprocessing.report.pictures import flow_colours, flow_wheel, read_strips, wheel_legend
from preprocessing.report.plots import bars, histogram
from preprocessing.report.survey import survey
from tests.support.odd_media import with_vp9_size
from tests.support.stored_set import (
    CLASSES,
    FPS,
    FRAMES,
    HEIGHT,
    WIDTH,
    clips_of,
    pictures,
    store_manifest,
    store_shard,
)


class Parsed(HTMLParser):
    """Tables by id as rows of cell texts, pictures, links, ids, and all text."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._table: list[list[str]] | None = None
        self._open: list[str] = []
        self.feed(html.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = {name: value or "" for name, value in attrs}
        self.tags.append((tag, fields))
        if tag == "table":
            self._table = self.tables.setdefault(fields["id"], [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass
        if tag == "table":
            self._table = None

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("style", "title"):
            return
        self.text += data
        if self._table and self._table[-1] and ("td" in self._open[-3:] or "th" in self._open[-3:]):
            self._table[-1][-1] += data.strip()

    def with_class(self, tag: str, name: str) -> list[dict[str, str]]:
        return [fields for t, fields in self.tags if t == tag and name in fields.get("class", "").split()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalStorage, bytes]:
    """Two splits, 7 samples of 3 classes, 1234 rejects; and its page."""
    folder = tmp_path_factory.mktemp("report")
    storage = LocalStorage(str(folder / "set"))
    shards = clips_of({"train/shard-000000": 5, "test/shard-000000": 2})
    missing = [Reject(source=f"walk/{i}.avi", label=0, reason="missing", detail="no such file") for i in range(1230)]
    other = [Reject(source=f"<script>{i}", label=1, reason="too_short", detail="1 frame") for i in range(4)]
    records = [
        store_shard(storage, folder, "train", "shard-000000", shards["train/shard-000000"], missing),
        store_shard(storage, folder, "test", "shard-000000", shards["test/shard-000000"], other),
    ]
    store_manifest(storage, records)
    return storage, make_report(storage).html


def test_totals_are_the_manifests(made: tuple[LocalStorage, bytes]) -> None:
    storage, html = made
    manifest, page = read_manifest(storage), Parsed(html)
    size = {s.split: f"{s.size / 1000:,.1f} kB" for s in manifest.shards}
    hours = [f"{n * FRAMES / FPS / 3600:.3f} h" for n in (5, 2, 7)]
    assert page.tables["totals-table"][1:] == [
        ["train", "1,235", "5", "1,230", "40", hours[0], size["train"]],
        ["test", "6", "2", "4", "16", hours[1], size["test"]],
        ["all", "1,241", "7", "1,234", "56", hours[2], f"{sum(s.size for s in manifest.shards) / 1000:,.1f} kB"],
    ]
    assert manifest.digest in page.text
    assert manifest.parameter_hash in page.text
    assert "opencv 5.0.0, mode tvl1" in page.text


def test_rejects_are_counted_by_reason_and_class(made: tuple[LocalStorage, bytes]) -> None:
    page = Parsed(made[1])
    assert [row[:3] for row in page.tables["reasons-table"][1:]] == [
        ["missing", "1,230", "99.11 %"],
        ["too_short", "4", "0.32 %"],
    ]
    assert page.tables["reject-classes-table"][1:] == [
        ["walk", "1,230", "1,230", "99.8 %", ""],
        [CLASSES[1], "4", "0", "66.7 %", "too_short 4"],
    ]
    classes = page.tables["classes-table"][1:]
    assert [row[:2] for row in classes] == [[name, str(i)] for i, name in enumerate(CLASSES)]
    assert [row[2:6] for row in classes] == [["2", "1", "1,230", "1,230"], ["2", "0", "4", "0"], ["1", "1", "0", "0"]]


def test_every_sample_of_a_small_set_is_shown(made: tuple[LocalStorage, bytes]) -> None:
    page = Parsed(made[1])
    assert len(page.with_class("section", "class")) == 3
    assert len(page.with_class("figure", "strip")) == 7
    for modality in ("rgb", "flow", "diff"):
        pictures = page.with_class("img", modality)
        assert len(pictures) == 7
        for picture in pictures:
            decoded = cv2.imdecode(
                np.frombuffer(base64.b64decode(picture["src"].removeprefix("data:image/jpeg;base64,")), np.uint8),
                cv2.IMREAD_COLOR,
            )
            assert decoded is not None
            assert decoded.shape == (HEIGHT, 4 * WIDTH + 3 * 2, 3)
            assert picture["alt"]


def test_the_page_needs_nothing_else(made: tuple[LocalStorage, bytes]) -> None:
    html = made[1].decode()
    page = Parsed(made[1])
    for tag, fields in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        for name in ("src", "href", "srcset", "action", "poster"):
            assert re.match(r"data:image/|#|$", fields.get(name, "")), (tag, name, fields[name][:60])
    assert not re.search(r"url\((?!#)|@import|xmlns|<!ENTITY", html)
    ids = [fields["id"] for _, fields in page.tags if "id" in fields]
    for _, fields in page.tags:
        if fields.get("href", "").startswith("#"):
            assert fields["href"][1:] in ids


def test_names_of_classes_and_sources_are_text(made: tuple[LocalStorage, bytes]) -> None:
    html = made[1].decode()
    assert "run &amp; &lt;jump&gt;" in html
    assert "<jump>" not in html
    assert "&lt;script&gt;0: 1 frame" in html


def test_the_same_set_gives_the_same_page(made: tuple[LocalStorage, bytes]) -> None:
    assert make_report(made[0]).html == made[1]


def test_fewer_samples_and_classes(made: tuple[LocalStorage, bytes]) -> None:
    page = make_report(made[0], samples_per_class=1, max_classes=2)
    parsed = Parsed(page.html)
    assert (page.num_classes_shown, page.num_samples_shown) == (2, 2)
    assert len(parsed.with_class("figure", "strip")) == 2
    assert len(parsed.tables["classes-table"]) == 4
    assert "2 of 3 classes are shown" in " ".join(parsed.text.split())
    assert make_report(made[0], samples_per_class=0).num_samples_shown == 0


def test_pictures_stop_at_the_limit_of_the_page(
    made: tuple[LocalStorage, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_report(made[0])
    monkeypatch.setattr(report_module, "MAX_PICTURE_BYTES", 30_000)  # one class takes about 19,000, all three 45,000
    page = make_report(made[0])
    assert 0 < page.num_classes_shown < whole.num_classes_shown
    assert len(Parsed(page.html).tables["classes-table"]) == 4


def test_the_choice_of_samples_depends_only_on_the_keys(made: tuple[LocalStorage, bytes]) -> None:
    found = survey(made[0], read_manifest(made[0]), 1)
    records = [ShardRecord.from_json(made[0].read(f"{s.path}.json"), s.path) for s in read_manifest(made[0]).shards]
    keys = [s.key for r in records for s in r.samples if s.label == 0]
    assert [p.sample.key for p in found.picks(0)] == [
        min(keys, key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    ]


def test_strips_show_the_moments_they_name(made: tuple[LocalStorage, bytes]) -> None:
    storage = made[0]
    picks = survey(storage, read_manifest(storage), 4).picks(0)
    pick = next(p for p in picks if p.sample.source == "walk/clip 0.avi")
    strips = read_strips(storage, pick, ("rgb", "flow", "diff"), thumb_px=136)
    indexes = [round(t * FPS) for t in strips.moments_s]
    assert len(set(indexes)) == 4
    shown = cv2.cvtColor(
        cv2.imdecode(np.frombuffer(strips.jpegs["rgb"], np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
    ).astype(float)
    frames = pictures(0).astype(float)
    for place, index in enumerate(indexes):
        seen = shown[:, place * (WIDTH + 2) :][:, :WIDTH]
        errors = [np.abs(seen - frame).mean() for frame in frames]
        assert errors[index] == min(errors)
        assert errors[index] < 12
    np.testing.assert_allclose(np.median(strips.flow_lengths_px(20.0)), 3.0, atol=0.16)  # one step of the codes


def test_damaged_samples_and_records(made: tuple[LocalStorage, bytes], tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path / "set"))
    for path in made[0].list():
        storage.write(path, made[0].read(path))
    record = ShardRecord.from_json(storage.read("test/shard-000000.json"), "")
    tar = bytearray(storage.read("test/shard-000000.tar"))
    tar[record.samples[0].member("rgb.mp4").offset + 100] ^= 255
    storage.write("test/shard-000000.tar", bytes(tar))
    page = make_report(storage)
    assert page.num_samples_shown == 6
    assert page.warnings[0].startswith(f"1 of the samples to show do not read back ({record.samples[0].key})")
    storage.write("test/shard-000000.json", dataclasses.replace(record, rejects=()).to_json())
    with pytest.raises(ManifestError, match=r"test/shard-000000\.json is not the record"):
        make_report(storage)


def test_samples_with_huge_pictures_or_other_files_in_their_place_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(str(tmp_path / "set"))
    shards = clips_of({"train/shard-000000": 4})
    huge, script, *rest = shards["train/shard-000000"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.mp4").write_bytes(script.members["flow.mp4"])
    huge.members["rgb.mp4"] = with_vp9_size(huge.members["rgb.mp4"], 8192, 8192)
    script.members["flow.mp4"] = b"ffconcat version 1.0\nfile other.mp4\n"  # which FFmpeg would show
    store_manifest(storage, [store_shard(storage, tmp_path, "train", "shard-000000", [huge, script, *rest])])
    page = make_report(storage)
    assert page.num_samples_shown == 2
    assert page.warnings[0].startswith("2 of the samples to show do not read back")


def test_warnings_name_what_is_unusual(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path / "set"))
    clips = clips_of({"train/shard-000000": 4})["train/shard-000000"]
    clips[0].quality["flow_saturation"] = 0.05
    clips[1].quality.update(source_width=30, source_height=20, sar="12:11", length_announced=True)
    clips[2].quality.update(flow_mean_px=0.001, sar="1:1", length_announced=False)
    clips[3].quality["flow_mean_px"] = None
    rejects = [Reject(source="sit/x.avi", label=2, reason="not_video", detail="HTML")]
    store_manifest(
        storage, [store_shard(storage, tmp_path, "train", "shard-000000", clips, rejects)], classes=(*CLASSES, "never")
    )
    notes = make_report(storage, samples_per_class=1).warnings
    for start in (
        "1 of 4 classes have no sample: never.",
        "3 of 4 classes have fewer than 5 samples: walk,",
        "1 of 5 sources (20.0%) were rejected, most often: not_video (1).",
        "1 of 4 samples have more than 1% of their flow beyond the bound of 20 px",
        "1 of 3 samples hardly move",
        "1 of 4 samples have no figure for the length of their flow",
        "1 of 4 samples are larger than their sources",
        "1 of 4 samples come from files that do not say their length",
        "1 of 4 samples have pixels that are not square",
    ):
        assert any(note.startswith(start) for note in notes), (start, notes)


@pytest.mark.slow
def test_sets_of_the_pipeline(tiny_set: str) -> None:
    page = make_report(open_storage(tiny_set))
    parsed = Parsed(page.html)
    assert parsed.tables["totals-table"][-1][:4] == ["all", "36", "36", "0"]
    assert len(parsed.with_class("figure", "strip")) == 16
    assert "None: every source became a sample." in parsed.text


# -- colours of flow ---------------------------------------------------------------------------------------------------


def colour(u: float, v: float, max_px: float = 10.0) -> np.ndarray:
    return flow_colours(np.array([u, v], np.float32).reshape(2, 1, 1), max_px)[0, 0].astype(int)


def hue_and_saturation(rgb: np.ndarray) -> tuple[float, float]:
    hue, saturation, _ = colorsys.rgb_to_hsv(*(rgb / 255))
    return 360 * hue, saturation


def test_no_motion_is_white_and_right_is_red() -> None:
    assert colour(0, 0).tolist() == [255, 255, 255]
    assert colour(10, 0).tolist() == [255, 0, 0]


def test_the_wheel_has_the_published_hues() -> None:
    wheel = flow_wheel()
    assert wheel.shape == (55, 3)
    # Red, yellow, green, cyan, blue and magenta stand where the segments of 15, 6, 4, 11, 13 and 6 hues begin.
    assert wheel[[0, 15, 21, 25, 36, 49]].tolist() == [
        [255, 0, 0],
        [255, 255, 0],
        [0, 255, 0],
        [0, 255, 255],
        [0, 0, 255],
        [255, 0, 255],
    ]
    assert all(row.max() == 255 and row.min() == 0 for row in wheel)
    hues = np.array([hue_and_saturation(row)[0] for row in wheel])
    assert np.all(np.diff(hues) > 0)


@pytest.mark.parametrize("angle", np.linspace(0, 2 * np.pi, 24, endpoint=False))
def test_opposite_directions_have_opposite_hues(angle: float) -> None:
    u, v = 10 * np.cos(angle), 10 * np.sin(angle)
    hue, opposite = (hue_and_saturation(colour(s * u, s * v))[0] for s in (1, -1))
    # The hues have unequal shares of the wheel: opposites are complementary within half a segment (30 degrees) or so.
    assert abs(abs(hue - opposite) - 180) < 36


@pytest.mark.parametrize("angle", [0.1, 1.3, 2.9, 4.4])
def test_saturation_is_the_length(angle: float) -> None:
    for length in (1.0, 2.5, 5.0, 7.5, 9.9):
        _, saturation = hue_and_saturation(colour(length * np.cos(angle), length * np.sin(angle)))
        assert saturation == pytest.approx(length / 10, abs=0.02)
    beyond = colour(30 * np.cos(angle), 30 * np.sin(angle))
    assert beyond.max() == int(0.75 * 255)
    assert hue_and_saturation(beyond)[0] == pytest.approx(
        hue_and_saturation(colour(9.99 * np.cos(angle), 9.99 * np.sin(angle)))[0], abs=2
    )


def test_only_the_scaled_flow_counts() -> None:
    flow = np.random.default_rng(0).normal(0, 4, (3, 2, 5, 7)).astype(np.float32)
    np.testing.assert_array_equal(flow_colours(flow, 8.0), flow_colours(flow / 2, 4.0))
    assert flow_colours(flow, 8.0).shape == (3, 5, 7, 3)
    with pytest.raises(ValueError, match="must be positive"):
        flow_colours(flow, 0)


def test_legend_is_the_same_colours() -> None:
    legend = wheel_legend(101)
    np.testing.assert_array_equal(
        legend[50, 75], flow_colours(np.array([0.5, 0], np.float32).reshape(2, 1, 1), 1.0)[0, 0]
    )
    assert legend[0, 0].tolist() == [255, 255, 255]


# -- plots -------------------------------------------------------------------------------------------------------------


def test_histograms_take_their_colours_from_the_page() -> None:
    plot = histogram([1.0, 2.0, 2.5, 9.0], title="Length", unit="s", digits=1)
    assert plot.caption == "median 2.2, from 1.0 to 9.0 s"
    assert plot.svg.startswith("<svg viewBox=")
    assert "currentColor" in plot.svg
    assert "var(--bar)" in plot.svg
    assert "#0102" not in plot.svg
    assert "http" not in plot.svg
    assert histogram([3.0, 3.0], title="Same", unit="px").caption == "3 px: the same for all 2 samples"
    assert ">64x48</text>" in bars([("64x48", 1234)], title="Sizes", caption="").svg
    assert ">1,234</text>" in bars([("64x48", 1234)], title="Sizes", caption="").svg
