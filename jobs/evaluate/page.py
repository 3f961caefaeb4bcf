"""An evaluation as one HTML page that needs nothing else: scores, certainty, where it fails, mistakes, classes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import av
import numpy as np

from jobs.compare.evaluated import Evaluated
from jobs.compare.render import ROW_HEADS, row_cells
from jobs.compare.rows import rows_of
from jobs.evaluate.classes import ClassRow
from jobs.recipes import ENSEMBLES, RECIPES
from pipeline.common.media import WrongPictureSize
from pipeline.common.pages import page_environment
from pipeline.dataset.manifest import Manifest, read_records
from pipeline.dataset.shards import SampleRecord
from pipeline.errors import StorageError
from pipeline.evaluation.breakdown import accuracy_by
from pipeline.evaluation.confused import Mistake, class_groups, confused_pairs, mistakes
from pipeline.evaluation.metrics import right_videos
from pipeline.evaluation.plots import MOST_COUNTS, accuracy_plot, bounds, reliability
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.report import METRICS, STREAM_NAMES
from pipeline.storage import Storage
from preprocessing.report.pictures import data_uri, read_strips
from preprocessing.report.plots import Plot
from preprocessing.report.survey import MAX_SHOWN_BYTES, Pick

log = logging.getLogger("jobs.evaluate")
_MOST_PAIRS = 20
_MOST_SHOWN = 8  # mistakes with frames, beside one of each of the first pairs
_PAIRS_SHOWN = 12
_MOST_GROUPS, _MOST_IN_GROUP = 12, 12
_THUMB_PX = 112


@dataclasses.dataclass(frozen=True)
class EvaluatedVideos:
    """The videos of a split, by key, and where they are stored."""

    storage: Storage | None
    picks: Mapping[str, Pick]
    """Empty where the data set cannot be read: the page has no frames then."""


def evaluated_videos(storage: Storage, manifest: Manifest, split: str) -> EvaluatedVideos:
    """Read the records of a split. Raises ManifestError."""
    records = read_records(storage, manifest, split)
    return EvaluatedVideos(storage, {s.key: Pick(f"{r.path}.tar", s) for r in records for s in r.samples})


@dataclasses.dataclass(frozen=True)
class Shown:
    """A mistake with frames of its video."""

    mistake: Mistake
    source: str
    picture: str


@dataclasses.dataclass(frozen=True)
class ShownGroup:
    """Classes that are taken for each other; ``others``: videos of each that are taken for a class outside."""

    labels: list[int]
    others: list[int]


def evaluation_page(
    run: Evaluated, predictions: Predictions, videos: EvaluatedVideos, rows: list[ClassRow], confusion_png: bytes
) -> str:
    """The page. A video whose frames cannot be read is left out of the pictures, with a warning."""
    report, counts = run.report, np.array(run.report.confusion)
    pairs = confused_pairs(counts, _MOST_PAIRS)
    groups = class_groups(counts) if len(report.classes) > MOST_COUNTS else []  # else the picture shows all
    named = report.model in {**RECIPES, **ENSEMBLES}
    return (
        page_environment(Path(__file__).parent)
        .get_template("page.html.j2")
        .render(
            report=report,
            uri=run.folder.uri,
            streams=list(dict.fromkeys((*report.branches, "fused"))),
            stream_names=STREAM_NAMES,
            metrics=METRICS,
            rows=[row_cells(row) for row in rows_of(report.model, [run])] if named else [],
            row_heads=ROW_HEADS,
            reliability_svg=reliability(report.calibration) if report.calibration else "",
            plots=_plots(predictions, videos),
            confusion_png=data_uri(confusion_png, "png"),
            groups=[_group(counts, group) for group in groups[:_MOST_GROUPS] if len(group) <= _MOST_IN_GROUP],
            more_groups=sum(len(group) > _MOST_IN_GROUP for group in groups[:_MOST_GROUPS])
            + len(groups[_MOST_GROUPS:]),
            pairs=pairs,
            totals=counts.sum(1),
            shown=_pictures(_worth_showing(mistakes(predictions), [(p.first, p.second) for p in pairs]), videos),
            class_rows=rows,
        )
    )


def _group(counts_NN: np.ndarray, labels: list[int]) -> ShownGroup:
    inside = counts_NN[np.ix_(labels, labels)].sum(1)
    return ShownGroup(labels, (counts_NN[labels].sum(1) - inside).tolist())


def _worth_showing(found: Sequence[Mistake], pairs: Sequence[tuple[int, int]]) -> list[Mistake]:
    """The most confident mistakes, then the most confident one of each of the most confused pairs, each once."""
    chosen = list(found[:_MOST_SHOWN])
    for pair in pairs[:_PAIRS_SHOWN]:
        of_pair = (mistake for mistake in found if (mistake.label, mistake.predicted) == pair)
        chosen += [mistake for mistake in [next(of_pair, None)] if mistake and mistake not in chosen]
    return chosen


def _pictures(chosen: Sequence[Mistake], videos: EvaluatedVideos) -> list[Shown]:
    shown = []
    for mistake in chosen:
        pick = videos.picks.get(mistake.key)
        if videos.storage is None or pick is None or pick.sample.size > MAX_SHOWN_BYTES:
            continue
        try:
            strips = read_strips(videos.storage, pick, ("rgb",), _THUMB_PX)
        except (ValueError, IndexError, av.FFmpegError, WrongPictureSize, StorageError) as error:
            log.warning("no frames of %s on the page: %s", mistake.key, error)
            continue
        shown.append(Shown(mistake, pick.sample.source, data_uri(strips.jpegs["rgb"], "jpeg")))
    return shown


def _plots(predictions: Predictions, videos: EvaluatedVideos) -> list[Plot]:
    right_V = right_videos(predictions.streams["fused"], predictions.labels)
    if not videos.picks:
        return []
    samples = [videos.picks[key].sample for key in predictions.keys]
    facts: list[tuple[str, str, int, Callable[[SampleRecord], float | None]]] = [
        ("Length", "s", 1, lambda sample: sample.num_frames / sample.fps),
        ("Mean flow", "px per frame", 2, lambda sample: sample.flow_mean_px),
        ("Short side of the source", "px", 0, _source_side),
    ]
    plots = []
    for title, unit, digits, value in facts:
        values = [value(sample) for sample in samples]
        groups = accuracy_by(np.array([np.nan if v is None else v for v in values], np.float64), right_V)
        if len(groups) == 1:
            text = f"{bounds(groups[0], digits)} {unit}: the same for all {groups[0].num_videos:,} videos"
            plots.append(Plot(title=title, svg="", caption=text))
        elif groups:
            text = ", ".join(f"{group.num_videos:,}" for group in groups)
            svg = accuracy_plot(groups, title=f"Top-1 by {title.lower()}", unit=unit, digits=digits)
            plots.append(Plot(title=title, svg=svg, caption=f"videos of each group: {text}"))
    return plots


def _source_side(sample: SampleRecord) -> float | None:
    """Records of older code do not have it."""
    if sample.source_width is None or sample.source_height is None:
        return None
    return min(sample.source_width, sample.source_height)
