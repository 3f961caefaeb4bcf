"""What a version's page shows beside its files: its card, and a video that it can be tried with."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence

import numpy as np

from jobs.cards.known import read_known
from jobs.cards.version_card import version_card
from jobs.train.page import open_page
from pipeline.config.data import ClipConfig
from pipeline.data.sampling.clips import span
from pipeline.errors import StorageError
from pipeline.evaluation.report import EvalReport
from pipeline.storage import Storage
from pipeline.tracking.links import Link, link_preprocessing, run_address
from pipeline.tracking.registry import Version, describe_version
from pipeline.tracking.runs import TrackingError, client
from preprocessing.media.encode import VideoCodec, VideoWriter

log = logging.getLogger("jobs.promote")
_WIDTH, _HEIGHT, _FPS = 64, 48, 15.0


def example_video(clip: ClipConfig, modalities: Sequence[str]) -> bytes:
    """A VP9 file of a few kilobytes, as long as one clip: a bright square that moves to the right."""
    num_frames = span(clip, modalities)
    frames = np.full((num_frames, _HEIGHT, _WIDTH, 3), 60, np.uint8)
    for t, frame in enumerate(frames):
        left = round(t * (_WIDTH - 16) / max(1, num_frames - 1))
        frame[16:32, left : left + 16] = 220
    buffer = io.BytesIO()
    with VideoWriter(buffer, "rgb", (_WIDTH, _HEIGHT), _FPS, VideoCodec(crf=40)) as writer:
        writer.write(frames)
    return buffer.getvalue()


def describe(run: Storage, report: EvalReport, version: Version, licence: str) -> None:
    """Write a version's card: its description, a file of the run's folder and an artifact of the run's page. One that
    cannot be written costs a line.
    """
    try:
        known = read_known(run)
        experiment = client().get_run(version.tracking_run_id).info.experiment_id
        links = [Link("Training and evaluation", report.run_id, run_address(experiment, version.tracking_run_id))]
        if known.config:
            links += link_preprocessing(known.config.data.uri, report.manifest_digest, version.tracking_run_id)
        card = version_card(known, report, version, licence=licence, links=links)
        describe_version(version, card)
        path = f"registered/{version.name}@{version.version}.md"
        run.write(path, card.encode())
        page = open_page(run)
        page.log_object(path, path)
        page.finish()
    except (TrackingError, StorageError) as error:
        log.warning("%s has no card: %s", version.uri, str(error).partition("\n")[0])
