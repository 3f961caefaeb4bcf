"""What the DALI graph is fed: videos that it can decode, and plans as small arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.config.data import ClipConfig
from pipeline.data.decoding.base import Row
from pipeline.data.decoding.mp4 import read_track
from pipeline.data.decoding.norms import bgr, mean_std
from pipeline.data.sampling.jitter import Jitter
from pipeline.dataset.sample import ONLINE_DIFF, stored_modalities
from pipeline.errors import ConfigError, ReciprocalError

CPU_CODECS = ("vp9", "vp8", "mjpeg")


def check_codec(video: bytes, modality: str, *, cpu: bool) -> None:
    """Refuse what is no video, and what DALI's CPU backend cannot decode.

    Raises:
        ConfigError: names the codec and three alternatives.
        ReciprocalError: FFmpeg finds no video in it.
    """
    if read_track(video) is not None:  # as preprocessing writes them: VP9
        return
    import av.error  # here, so that our own shards are decoded without PyAV

    from pipeline.common.media import STORED_FORMATS, open_media

    try:
        with open_media(video, formats=STORED_FORMATS) as container:
            codec = container.streams.video[0].codec_context.codec.canonical_name
    except (av.error.FFmpegError, IndexError) as error:
        raise ReciprocalError(f"a {modality} member holds no video: {error}") from error
    if cpu and codec not in CPU_CODECS:
        raise ConfigError(
            "data.decoder",
            "dali",
            f"{modality} is stored as {codec}, and DALI decodes only {', '.join(CPU_CODECS)} on the CPU: "
            "use data.decoder=ffmpeg or data.decoder=reference, or a GPU, or preprocess again (shards are VP9)",
        )


def graph_inputs(
    rows: Sequence[Row], modalities: Sequence[str], clip: ClipConfig, flow_bound_px: float
) -> dict[str, list[np.ndarray]]:
    """All external inputs that a graph may ask for, one array a row; ``pipeline.data.decoding.dali.clip_ops`` says
    what they are.
    """
    boxes = [(plan.box, size[0]) for _, plan, size in rows]
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
