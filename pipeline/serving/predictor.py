"""From a raw video to class probabilities: the predictor inside a registered model.

It repeats what preprocessing did to the training data (frame rate, short side, flow after resizing, 8-bit codes, VP9)
and what evaluation did (views, crops, probabilities averaged over views and branches). It needs neither DALI, nor Ray,
nor object storage.

    FOLDER/predictor.json      config, classes, preprocessing parameters, number of views and crops
    FOLDER/model.safetensors   weights
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.data.batch import Batch
from pipeline.data.decoding.reference import prepare_clip
from pipeline.data.sampling.clips import ClipPlan, view_plans
from pipeline.data.sampling.short import short_video_note
from pipeline.dataset.sample import stored_modalities
from pipeline.errors import RejectedSource, UserError
from pipeline.evaluation.evaluate import predict_part
from pipeline.serving.card import CARD, WEIGHTS, card_fields, load_model, read_card
from pipeline.serving.stored_clip import StoredClip, Times
from preprocessing.media.decode import decode_video

_KEY = "video"
REQUIREMENTS = ("torch", "numpy", "pandas", "av", "numba", "opencv-contrib-python-headless", "safetensors", "scipy")
"""Distributions that prediction imports; the versions are those installed where the model is registered."""


def pack(folder: Path, weights: Path, state: dict[str, Any], num_views: int, num_crops: int = 1) -> None:
    """Write the predictor's folder.

    Args:
        folder: exists.
        weights: a checkpoint's model.safetensors.
        state: the checkpoint's state.json.
        num_views, num_crops: of the evaluation that the predictor repeats.
    """
    card = card_fields(state, num_views, num_crops)
    (folder / CARD).write_text(json.dumps(card, indent=1, sort_keys=True))
    (folder / WEIGHTS).write_bytes(weights.read_bytes())


def load_predictor(folder: Path) -> Predictor:
    """Load a folder written by ``pack``; onto a GPU if torch sees one."""
    return Predictor(folder)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """One video's class probabilities, and how they came about."""

    probabilities_N: np.ndarray
    """float64, mean over views and branches."""
    num_frames: int
    """Of the video at the rate ``fps``, as it would be stored."""
    fps: float
    exact: bool
    """The model saw, bit for bit, the frames and flow that a data set would hold; see ``StoredClip``."""
    note: str
    """What the user should know about this video, such as that it is shorter than a clip; usually empty."""
    times: Times

    def ranked(self, classes: tuple[str, ...]) -> tuple[list[str], list[float]]:
        """All class names and their probabilities, most probable first."""
        best = np.argsort(-self.probabilities_N, kind="stable")
        return [classes[i] for i in best], [float(self.probabilities_N[i]) for i in best]


class Predictor:
    """Classify raw videos.

    Args:
        folder: as written by ``pack``; both files are read as data and checked.

    Raises:
        UserError: a file is not what it should be, or the two do not belong together.
    """

    def __init__(self, folder: Path) -> None:
        card = read_card(folder / CARD)
        self.config, self.classes, self.stored = card.config, card.classes, card.stored
        self.num_views, self.num_crops = card.num_views, card.num_crops
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_model(folder / WEIGHTS, card).to(self.device).eval()

    def __call__(self, videos: Sequence[bytes]) -> list[tuple[list[str], list[float]]]:
        """Per video: all class names and their probabilities, most probable first.

        Raises:
            UserError: a video cannot be decoded; names it and the reason.
        """
        ranked = []
        for number, video in enumerate(videos):
            try:
                ranked.append(self.answer(video).ranked(self.classes))
            except RejectedSource as error:
                raise UserError(f"video {number}: {error}") from error
        return ranked

    def answer(self, video: bytes | Path) -> Answer:
        """Class probabilities of one video file (its path, or its bytes).

        Raises:
            RejectedSource: it cannot be decoded; with the reason.
        """
        times, stored = Times(), self.stored
        with times.measure("decode_s"):
            decoded = decode_video(
                video,
                short_side=stored.short_side,
                fps=stored.fps,
                max_frames=stored.max_frames,
                square_pixels=stored.square_pixels,
            )
        clip = StoredClip(decoded.frames_rgb_THWC, decoded.fps, stored, times)
        num_frames, height, width = decoded.frames_rgb_THWC.shape[:3]
        plans = view_plans(
            num_frames, height, width, self.config.clip, self.model.modalities, self.num_views, self.num_crops
        )
        batch = self._batch(clip, plans, times)
        with times.measure("model_s"):
            part = predict_part(self.model, [batch], device=self.device, precision=self.config.run.precision)
        return Answer(
            probabilities_N=part.sums[_KEY]["fused"] / part.views[_KEY],
            num_frames=num_frames,
            fps=decoded.fps,
            exact=clip.exact,
            note=short_video_note(num_frames, self.config.clip, self.model.modalities),
            times=times,
        )

    def _batch(self, stored_clip: StoredClip, plans: Sequence[ClipPlan], times: Times) -> Batch:
        clip, modalities = self.config.clip, self.model.modalities
        frames = {}
        for member in stored_modalities(modalities):
            wanted = {
                i for plan in plans for i in (plan.rgb_window(modalities) if member == "rgb" else plan.motion_window)
            }
            frames[member] = stored_clip.frames(member, sorted(wanted))
        with times.measure("model_s"):
            clips = [prepare_clip(frames, plan, clip, self.stored.flow_bound, modalities) for plan in plans]
            inputs = {name: torch.from_numpy(np.stack([c[name] for c in clips])) for name in modalities}
        rows = len(clips)
        return Batch(inputs, torch.zeros(rows, dtype=torch.int64), torch.ones(rows), (_KEY,) * rows, 0, 0)
