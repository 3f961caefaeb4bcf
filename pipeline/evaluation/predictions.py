"""Predictions of a split: the result of an evaluation, stored next to its report, and averaged by ensembles.

    SPLIT_PROTOCOL.npz   keys (V,) text; labels (V,) int64; probabilities_BRANCH (V, N) float32, one array per branch

``numpy.load(file, allow_pickle=False)`` reads it. It does not contain the fused prediction, which is the mean of the
branches. 33,900 videos of 339 classes take 46 MB per branch.
"""

# Shape suffixes: V videos, N classes.

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.evaluation.calibration import Calibration, calibration
from pipeline.evaluation.intervals import Interval, mean_class_interval, share_interval
from pipeline.evaluation.metrics import confusion_matrix, mean_class_accuracy, per_class_recall, topk_accuracy

_PREFIX = "probabilities_"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Class probabilities of all videos of a split. Scores are computed from the float32 values that are stored.

    ``branches`` has one (V, N) float32 array per branch, named by its modality, or "fused" if one head scores several
    modalities. A video that could not be read has probability 0 for every class.
    """

    keys: tuple[str, ...]
    labels: np.ndarray  # (V,) int64
    branches: dict[str, np.ndarray]

    @functools.cached_property
    def streams(self) -> dict[str, np.ndarray]:
        """(V, N) of each branch, and ``fused`` (float64): their mean, or 0 for a video that a branch could not read."""
        total_VN = np.zeros(next(iter(self.branches.values())).shape, np.float64)
        read_V = np.ones(len(self.keys), bool)
        for p_VN in self.branches.values():
            total_VN += p_VN
            read_V &= (p_VN != 0).any(1)
        total_VN[~read_V] = 0
        return {**self.branches, "fused": total_VN / len(self.branches)}

    @property
    def num_damaged(self) -> int:
        """Number of videos that could not be read; they count as misclassified."""
        return int((self.streams["fused"] == 0).all(1).sum())

    def scores(self) -> dict[str, dict[str, float]]:
        """top1, top5 and mean_class (the mean class accuracy) per stream, in [0, 1]."""
        return {
            name: {
                **{f"top{k}": topk_accuracy(p, self.labels, k) for k in (1, 5)},
                "mean_class": mean_class_accuracy(self.confusion(name)),
            }
            for name, p in self.streams.items()
        }

    def intervals(self) -> dict[str, dict[str, Interval]]:
        """Bootstrap interval of 95 % over videos of each of ``scores``."""
        total = len(self.keys)
        return {
            name: {
                metric: mean_class_interval(self.confusion(name))
                if metric == "mean_class"
                else share_interval(round(value * total), total)
                for metric, value in values.items()
            }
            for name, values in self.scores().items()
        }

    def calibration(self) -> Calibration:
        """Of the fused prediction."""
        return calibration(self.streams["fused"], self.labels)

    def confusion(self, stream: str = "fused") -> np.ndarray:
        """(N, N) counts of one stream's prediction."""
        return confusion_matrix(self.streams[stream], self.labels)

    def per_class(self) -> list[float | None]:
        """Recall per class of the fused prediction."""
        return per_class_recall(self.confusion())


def write_predictions(predictions: Predictions, path: Path) -> str:
    """Write the ``.npz``; returns its sha256, for the report."""
    arrays: dict[str, Any] = {
        f"{_PREFIX}{name}": p.astype(np.float32, copy=False) for name, p in predictions.branches.items()
    }
    with path.open("wb") as file:
        np.savez(file, keys=np.array(predictions.keys, np.str_), labels=predictions.labels, **arrays)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_predictions(data: bytes, sha256: str) -> Predictions:
    """Predictions from a file's bytes.

    Raises:
        UserError: the sha256 is not the one in the report, or the bytes are not a file of predictions.
    """
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError("the stored predictions do not match the report's sha256")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            branches = {name.removeprefix(_PREFIX): arrays[name] for name in arrays.files if name.startswith(_PREFIX)}
            found = Predictions(tuple(arrays["keys"].tolist()), arrays["labels"], branches)
    except (ValueError, KeyError, EOFError, OSError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"not a file of predictions: {error!r}") from error
    _check_shapes(found)
    return found


def _check_shapes(found: Predictions) -> None:
    """Arrays that belong together, with labels that are classes."""
    videos, labels = len(found.keys), found.labels
    shapes = {p.shape for p in found.branches.values()}
    classes = next((shape[1] for shape in shapes if len(shape) == 2), 0)
    numbers = labels.dtype.kind == "i" and all(p.dtype.kind == "f" for p in found.branches.values())
    if shapes != {(videos, classes)} or labels.shape != (videos,) or not numbers:
        raise UserError(f"not a file of predictions: {videos} keys, labels {labels.shape}, probabilities {shapes}")
    if len(set(found.keys)) < videos or (videos and not 0 <= labels.min() <= labels.max() < classes):
        raise UserError("not a file of predictions: a key occurs twice, or a label has no class")
