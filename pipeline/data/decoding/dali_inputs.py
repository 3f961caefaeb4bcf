"""What the DALI graph is fed: plans as small arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.config.data import ClipConfig
from pipeline.data.decoding.base import Row
from pipeline.data.decoding.reference import bgr, mean_std
from pipeline.data.sampling.jitter import Jitter
from pipeline.dataset.sample import ONLINE_DIFF, stored_modalities


def graph_inputs(
    rows: Sequence[Row], modalities: Sequence[str], clip: ClipConfig, flow_bound_px: float
) -> dict[str, list[np.ndarray]]:
    """All external inputs that a graph may ask for, one array a row; ``pipeline.data.decoding.dali.clip_ops`` says
    what they are.
    """
    boxes = [(plan.box, height) for _, plan, height in rows]
    inputs: dict[str, list[np.ndarray]] = {
        "start": [np.array([b.top, b.left, b.top + height, b.left], np.int32) for b, height in boxes],
        "extent": [np.array([b.height, b.width], np.int32) for b, _ in boxes],
        "flip": [np.array(plan.flip, np.int32) for _, plan, _ in rows],
    }
    for member in stored_modalities(modalities):
        windows = [plan.rgb_window(modalities) if member == "rgb" else plan.motion_window for _, plan, _ in rows]
        inputs[f"{member}_encoded"] = [np.frombuffer(members[member], np.uint8) for members, _, _ in rows]
        inputs[f"{member}_frames"] = [np.array(window, np.int32) for window in windows]
        if member == "rgb" and ONLINE_DIFF in modalities:
            pairs = [plan.pair_takes(window) for (_, plan, _), window in zip(rows, windows, strict=True)]
            inputs["earlier"], inputs["later"] = [p[0] for p in pairs], [p[1] for p in pairs]
            inputs["rgb_takes"] = [plan.rgb_takes(window) for (_, plan, _), window in zip(rows, windows, strict=True)]
        elif member == "flow":
            std = np.array(mean_std("flow", clip, flow_bound_px)[1], np.float32)
            inputs["flow_std"] = [std * np.array([-1 if plan.flip else 1, 1], np.float32) for _, plan, _ in rows]
    if clip.jitters:
        order = [2, 1, 0] if bgr(clip) else [0, 1, 2]
        matrices = [(plan.jitter or Jitter()).matrix().astype(np.float32) for _, plan, _ in rows]
        inputs["jitter"] = [np.ascontiguousarray(m[order][:, [*order, 3]]) for m in matrices]
    return inputs
