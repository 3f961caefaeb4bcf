"""From a raw video to class probabilities: the predictor inside a registered model.

It repeats what preprocessing did to the training data (frame rate, short side, flow after resizing, 8-bit codes) and
what evaluation did (views, crops, probabilities averaged over views and branches). It needs neither DALI, nor Ray, nor
object storage.

    FOLDER/predictor.json      config, classes, preprocessing parameters, number of views and crops
    FOLDER/model.safetensors   weights
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from pipeline.config.base import from_dict
from pipeline.config.preprocess import StoredConfig
from pipeline.config.train import TrainConfig, config_from_dict
from pipeline.data.batch import Batch
from pipeline.data.decoding.reference import prepare_clip
from pipeline.data.sampling.clips import view_plans
from pipeline.dataset.sample import quantise_diff, quantise_flow
from pipeline.errors import RejectedSource, UserError
from pipeline.evaluation.evaluate import predict_part
from pipeline.models import build_model
from preprocessing.flow.base import to_gray
from preprocessing.flow.factory import flow_engine
from preprocessing.media.decode import decode_video

CARD = "predictor.json"
WEIGHTS = "model.safetensors"
REQUIREMENTS = ("torch", "numpy", "pandas", "av", "opencv-contrib-python-headless", "safetensors")
"""Distributions that prediction imports; the versions are those installed where the model is registered."""


def pack(folder: Path, weights: Path, state: dict[str, Any], num_views: int, num_crops: int = 1) -> None:
    """Write the predictor's folder.

    Args:
        folder: exists.
        weights: a checkpoint's model.safetensors.
        state: the checkpoint's state.json.
        num_views, num_crops: of the evaluation that the predictor repeats.
    """
    card = {
        "config": state["config"],
        "classes": state["classes"],
        "stored": state["stored"],
        "num_views": num_views,
        "num_crops": num_crops,
        "manifest_digest": state["manifest_digest"],
        "run_id": state["run_id"],
    }
    (folder / CARD).write_text(json.dumps(card, indent=1, sort_keys=True))
    (folder / WEIGHTS).write_bytes(weights.read_bytes())


def load_predictor(folder: Path) -> Predictor:
    """Load a folder written by ``pack``; onto a GPU if torch sees one."""
    return Predictor(folder)


class Predictor:
    """Classify raw videos. ``folder``: as written by ``pack``."""

    def __init__(self, folder: Path) -> None:
        card = json.loads((folder / CARD).read_text())
        self.config: TrainConfig = config_from_dict(card["config"])
        self.classes: tuple[str, ...] = tuple(card["classes"])
        self.stored = from_dict(StoredConfig, card["stored"])
        self.num_views: int = card["num_views"]
        self.num_crops: int = card.get("num_crops", 1)  # absent in models of older code
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = build_model(self.config.model, num_classes=len(self.classes), crop=self.config.clip.crop)
        self.model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
        self.model.to(self.device).eval()

    def __call__(self, videos: Sequence[bytes]) -> list[tuple[list[str], list[float]]]:
        """Per video: all class names and their probabilities, most probable first.

        Raises:
            UserError: a video cannot be decoded; names it and the reason.
        """
        return [self._rank(self.probabilities(video, f"video {number}")) for number, video in enumerate(videos)]

    def _rank(self, probabilities_N: np.ndarray) -> tuple[list[str], list[float]]:
        best = np.argsort(-probabilities_N, kind="stable")
        return [self.classes[i] for i in best], [float(probabilities_N[i]) for i in best]

    def probabilities(self, video: bytes, name: str = "video") -> np.ndarray:
        """(N,) float64 probabilities of one video file's bytes, averaged over views and branches."""
        try:
            decoded = decode_video(
                video, short_side=self.stored.short_side, fps=self.stored.fps, max_frames=self.stored.max_frames
            )
        except RejectedSource as error:
            raise UserError(f"{name}: {error}") from error
        part = predict_part(
            self.model, [self._batch(decoded.frames_rgb_THWC)], device=self.device, precision=self.config.run.precision
        )
        return part.sums["video"]["fused"] / part.views["video"]

    def _batch(self, rgb_THWC: np.ndarray) -> Batch:
        clip = self.config.clip
        num_frames, height, width = rgb_THWC.shape[:3]
        plans = view_plans(num_frames, height, width, clip, self.num_views, self.num_crops)
        frames = {"rgb": rgb_THWC}
        if "flow" in self.model.modalities:
            frames["flow"] = self._flow(rgb_THWC, sorted({i for plan in plans for i in plan.motion_window}))
        if "diff" in self.model.modalities:
            frames["diff"] = quantise_diff(rgb_THWC)
        clips = [prepare_clip(frames, plan, clip, self.stored.flow_bound, self.model.modalities) for plan in plans]
        inputs = {name: torch.from_numpy(np.stack([c[name] for c in clips])) for name in self.model.modalities}
        rows = len(clips)
        return Batch(inputs, torch.zeros(rows, dtype=torch.int64), torch.ones(rows), ("video",) * rows, 0, 0)

    def _flow(self, rgb_THWC: np.ndarray, wanted: Sequence[int]) -> np.ndarray:
        """8-bit codes (T-1, 2H, W). Only the ``wanted`` frame pairs are computed; the rest is 0 and never used."""
        # Both engines compute the same flow; without a GPU numba is the faster one.
        name = (
            "numba" if self.stored.flow_engine == "torch" and not torch.cuda.is_available() else self.stored.flow_engine
        )
        gray, engine = to_gray(rgb_THWC), flow_engine(name, self.stored.flow_mode)
        codes = np.zeros((len(gray) - 1, 2 * gray.shape[1], gray.shape[2]), np.uint8)
        for t in wanted:
            codes[t] = quantise_flow(engine.flow(gray[t : t + 2]), self.stored.flow_bound)[0]
        return codes
