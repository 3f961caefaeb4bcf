"""The page and the table of classes of an evaluation, on a stored data set and made-up predictions."""

from __future__ import annotations

import base64
import csv
import dataclasses
import html
import io
import logging
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as oracle
from sklearn.metrics import recall_score

from jobs.compare.evaluated import Evaluated
from jobs.evaluate.classes import COLUMNS, as_csv, class_rows
from jobs.evaluate.page import EvaluatedVideos, evaluated_videos, evaluation_page
from jobs.evaluate.publish import publish
from pipeline.dataset.manifest import read_manifest
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.report import EvalReport
from pipeline.storage import open_storage
from pipeline.tracking.journal import RunJournal, read_unsent

PNG = b"\x89PNG"


def report_of(predictions: Predictions, classes: tuple[str, ...], model: str = "crn_small") -> EvalReport:
    return EvalReport(
        run_id="run-1",
        model=model,
        modalities=("rgb", "flow"),
        dataset="set",
        manifest_digest="d" * 64,
        split="train",
        protocol="4x1",
        num_videos=len(predictions.keys),
        num_damaged=predictions.num_damaged,
        classes=classes,
        scores=predictions.scores(),
        intervals=predictions.intervals(),
        calibration=predictions.calibration(),
        per_class=tuple(predictions.per_class()),
        confusion=tuple(tuple(int(n) for n in row) for row in predictions.confusion()),
        checkpoint="checkpoint_1",
        code_version="v",
        seconds=1.0,
    )


def made(keys: tuple[str, ...], labels: np.ndarray, num_classes: int, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    branches = {}
    for name in ("rgb", "flow"):
        p = rng.dirichlet(np.full(num_classes, 0.5), len(keys)) + 0.4 * np.eye(num_classes)[labels]
        branches[name] = (p / p.sum(1, keepdims=True)).astype(np.float32)
    return Predictions(keys, labels, branches)


@pytest.fixture
def evaluated(tiny_set: str, tmp_path: Path) -> tuple[Evaluated, Predictions, EvaluatedVideos]:
    storage = open_storage(tiny_set)
    manifest = read_manifest(storage)
    videos = evaluated_videos(storage, manifest, "train")
    keys = tuple(videos.picks)
    labels = np.array([videos.picks[key].sample.label for key in keys])
    predictions = made(keys, labels, len(manifest.classes))
    folder = open_storage(f"file://{tmp_path}/run")
    run = Evaluated(name="run-1", folder=folder, report=report_of(predictions, manifest.classes), config=None)
    return run, predictions, videos


def test_the_page_shows_scores_and_frames_of_the_mistakes_and_needs_no_other_file(evaluated) -> None:
    run, predictions, videos = evaluated
    page = evaluation_page(run, predictions, videos, class_rows(run.report), PNG)
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    for stream in ("rgb", "flow", "fused"):
        for metric in ("top1", "top5", "mean_class"):
            assert run.report.score_text(stream, metric) in page
    strips = re.findall(r'<img loading="lazy" src="data:image/jpeg;base64,([^"]+)"', page)
    wrong = int((predictions.streams["fused"].argmax(1) != predictions.labels).sum())
    assert len(strips) == min(wrong, len(strips)) >= min(wrong, 8) > 0
    for strip in strips:
        assert cv2.imdecode(np.frombuffer(base64.b64decode(strip), np.uint8), cv2.IMREAD_COLOR).shape[1] > 100
    assert page.count("<svg") >= 2  # reliability, and what differs among the videos
    assert "by length" in page


def test_names_of_classes_cannot_end_the_pages_text(evaluated) -> None:
    run, predictions, videos = evaluated
    evil = ("<script>alert(1)</script>", *run.report.classes[1:])
    page = evaluation_page(
        dataclasses.replace(run, report=dataclasses.replace(run.report, classes=evil)),
        predictions,
        videos,
        class_rows(dataclasses.replace(run.report, classes=evil)),
        PNG,
    )
    assert "<script" not in page
    assert html.escape(evil[0]) in page


def test_without_the_data_set_there_is_a_page_without_frames(evaluated) -> None:
    run, predictions, _ = evaluated
    page = evaluation_page(run, predictions, EvaluatedVideos(None, {}), class_rows(run.report), PNG)
    assert "data:image/jpeg" not in page
    assert 'id="classes-table"' in page


def test_a_video_that_does_not_read_back_is_left_out(evaluated, caplog: pytest.LogCaptureFixture) -> None:
    run, predictions, videos = evaluated
    samples = {key: pick.sample for key, pick in videos.picks.items()}
    broken = {
        key: dataclasses.replace(videos.picks[key], sample=dataclasses.replace(sample, size=sample.size - 512))
        for key, sample in samples.items()
    }
    with caplog.at_level(logging.WARNING):
        page = evaluation_page(run, predictions, EvaluatedVideos(videos.storage, broken), class_rows(run.report), PNG)
    assert "data:image/jpeg" not in page
    assert "no frames of" in caplog.text


def test_a_run_of_a_papers_recipe_stands_beside_the_printed_numbers(evaluated) -> None:
    run, predictions, videos = evaluated
    report = dataclasses.replace(run.report, model="crn_t4_ucf_bni_crn")
    page = evaluation_page(dataclasses.replace(run, report=report), predictions, videos, class_rows(report), PNG)
    assert 'id="paper-table"' in page
    assert "93.5" in page
    assert "CRN Table 4" in page


def test_classes_as_csv_have_scikit_learns_recalls() -> None:
    labels = np.arange(90) % 5
    predictions = made(tuple(f"v{i}" for i in range(90)), labels, 6)  # the last class has no video
    names = ("a", 'say "b"', "c, d", "e", "走る", "none")
    rows = list(csv.DictReader(io.StringIO(as_csv(class_rows(report_of(predictions, names))))))
    predicted = predictions.streams["fused"].argmax(1)
    assert tuple(rows[0]) == COLUMNS
    assert [row["class"] for row in rows] == list(names)
    recalls = recall_score(labels, predicted, labels=range(5), average=None)
    assert [float(row["recall"]) for row in rows[:5]] == pytest.approx(list(recalls))
    assert all(float(row["low"]) <= float(row["recall"]) <= float(row["high"]) for row in rows[:5])
    assert [rows[5][name] for name in ("videos", "recall", "low", "taken_for")] == ["0", "", "", ""]
    others = oracle(labels, predicted, labels=range(6)) * (1 - np.eye(6, dtype=int))
    assert [int(row["times"]) for row in rows] == others.max(1).tolist()


def test_published_files_are_beside_the_report_and_on_the_runs_page(evaluated) -> None:
    run, predictions, videos = evaluated
    journal = RunJournal(run.folder)
    publish(run, predictions, videos, journal)
    journal.close()
    assert sorted(run.folder.list("evaluations/")) == [
        f"evaluations/train_4x1.{ending}" for ending in ("csv", "html", "json", "png")
    ]
    names = {entry.name for _, _, entry in read_unsent(run.folder, {}) if entry.name}
    assert names == {
        "evaluation/page_train_4x1.html",
        "evaluation/classes_train_4x1.csv",
        "evaluation/confusion_train_4x1.png",
        "evaluation/train_4x1.json",
    }
