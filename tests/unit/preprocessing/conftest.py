"""Videos whose every frame names itself, written with PyAV's lossless coders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

VideoMaker = Callable[..., Path]


@pytest.fixture
def make_video(tmp_path: Path) -> VideoMaker:
    """make_video(name, frames (T, H, W, 3) uint8 RGB, rate=25, ticks=None, tick=1/1000): FFV1 in Matroska, or x264 for
    .mp4.

    ``ticks`` gives every frame its own time stamp, in units of ``tick`` seconds.
    """

    def make(
        name: str,
        frames: np.ndarray,
        rate: Fraction | int = 25,
        ticks: Sequence[int] | None = None,
        tick: Fraction = Fraction(1, 1000),
    ) -> Path:
        import av  # here, so that tests of kernels run where PyAV is not installed

        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lossless = not name.endswith(".mp4")
        with av.open(str(path), "w") as container:
            stream = container.add_stream(
                "ffv1" if lossless else "libx264",
                rate=rate,
                options={} if lossless else {"crf": "10", "threads": "1", "g": "10"},
            )
            stream.width, stream.height = frames.shape[2], frames.shape[1]
            stream.pix_fmt = "bgr0" if lossless else "yuv420p"
            if ticks is not None:
                stream.codec_context.time_base = tick
            for i, rgb in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                if ticks is not None:
                    frame.pts, frame.time_base = ticks[i], tick
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return make


@pytest.fixture
def gray_levels() -> Callable[[int], np.ndarray]:
    """gray_levels(T): frames (T, 48, 64, 3); frame t is uniformly 5 t + 3, so a decoded frame says which it was."""

    def make(count: int) -> np.ndarray:
        return np.broadcast_to(
            (5 * np.arange(count) + 3).astype(np.uint8)[:, None, None, None], (count, 48, 64, 3)
        ).copy()

    return make
