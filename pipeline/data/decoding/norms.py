"""Means and standard deviations of stored codes, by modality and norm; the same for every decoder."""

from __future__ import annotations

from pipeline.config.data import ClipConfig
from pipeline.dataset.sample import DIFF_ZERO, ONLINE_DIFF

_NORMS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    # mean and std in codes 0..255, in the channel order of ``bgr``
    "imagenet": ((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)),
    "inception": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "caffe": ((104.0, 117.0, 128.0), (1.0, 1.0, 1.0)),
}


def bgr(clip: ClipConfig) -> bool:
    """Whether colour channels are given as blue, green, red."""
    return clip.norm == "caffe"


def mean_std(modality: str, clip: ClipConfig, flow_bound_px: float) -> tuple[list[float], list[float]]:
    """Mean and std per channel, in stored codes: the network sees ``(code - mean) / std``."""
    if modality == "flow":
        return [127.5, 127.5], [clip.flow_std * 255 / (2 * flow_bound_px)] * 2
    mean, std = _NORMS[clip.norm]
    if modality == ONLINE_DIFF:
        return [0.0] * 3, list(std)
    return (list(mean) if modality == "rgb" else [float(DIFF_ZERO)] * 3), list(std)
