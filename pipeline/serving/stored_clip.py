"""A raw video as a data set would hold it: the frames, flow and differences that decode from its stored members.

VP9 changes pictures by one or two levels of 255 and flow by a third of a code on average. A model was trained and
evaluated on the changed ones, so prediction makes the same bytes in memory and decodes them again. The encoder looks
back and never ahead: a member cut off behind the last frame that a model takes has the same frames up to there.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch

from pipeline.common.timer import StageTimer
from pipeline.config.preprocess import StoredConfig
from pipeline.data.decoding.reference import decode_frames
from pipeline.dataset.sample import quantise_diff, quantise_flow
from preprocessing.flow.base import FlowEngine, to_gray
from preprocessing.flow.factory import flow_engine
from preprocessing.media.encode import VideoCodec, VideoWriter

MAX_EXACT_PAIRS = 600
"""Up to this many frame pairs (20 seconds at 30 fps), the flow in front of the pairs that a model takes is computed
too, because the encoder has seen it. In longer videos flow is computed in the groups of pictures that the model takes.
"""


@dataclasses.dataclass
class Times(StageTimer):
    """Seconds spent on one video."""

    decode_s: float = 0.0
    flow_s: float = 0.0
    encode_s: float = 0.0
    """Encoding as stored, and decoding that."""
    model_s: float = 0.0
    """Crops and the network."""


class StoredClip:
    """Decoded members of one sample, made of raw frames.

    Args:
        rgb_THWC: uint8, as ``preprocessing.media.decode`` gives them.
        fps: their rate.
        stored: of the model's data set.
        times: the cost of each stage is added to it.
    """

    def __init__(self, rgb_THWC: np.ndarray, fps: float, stored: StoredConfig, times: Times) -> None:
        self._rgb_THWC, self._fps, self._stored, self._times = rgb_THWC, fps, stored, times
        self._codec = VideoCodec(gop=stored.gop, crf=stored.crf)
        self.exact = True
        """Whether all frames so far are, bit for bit, those that a data set would hold."""

    def frames(self, modality: str, wanted: Sequence[int]) -> np.ndarray:
        """A member's frames by number, in a video of full length; frames that are not ``wanted`` are black.

        Args:
            modality: rgb, flow or diff.
            wanted: ascending, distinct.

        Returns:
            uint8: rgb (T, H, W, 3), diff (T-1, H, W, 3), flow codes (T-1, 2H, W).
        """
        end = wanted[-1] + 1
        if modality == "rgb":
            return self._through_codec("rgb", self._rgb_THWC[:end], wanted, len(self._rgb_THWC))
        pairs = len(self._rgb_THWC) - 1
        if modality == "diff":
            return self._through_codec("diff", quantise_diff(self._rgb_THWC[: end + 1]), wanted, pairs)
        return self._flow(wanted, pairs)

    def _flow(self, wanted: Sequence[int], pairs: int) -> np.ndarray:
        # Both engines compute the same flow; without a GPU numba is the faster one.
        name = self._stored.flow_engine
        if name == "torch" and not torch.cuda.is_available():
            name = "numba"
        engine = flow_engine(name, self._stored.flow_mode)
        if wanted[-1] < MAX_EXACT_PAIRS:
            return self._through_codec("flow", self._codes(engine, 0, wanted[-1] + 1), wanted, pairs)
        # Groups are closed, but the encoder's state is not reset between them: nearly the same frames.
        self.exact = False
        out: np.ndarray | None = None
        gop = self._stored.gop
        for first in sorted({number // gop * gop for number in wanted}):
            inside = [number - first for number in wanted if first <= number < first + gop]
            group = self._through_codec("flow", self._codes(engine, first, first + inside[-1] + 1), inside, gop)
            if out is None:
                out = np.zeros((pairs, *group.shape[1:]), np.uint8)
            out[[first + number for number in inside]] = group[inside]
        assert out is not None
        return out

    def _codes(self, engine: FlowEngine, first: int, end: int) -> Iterator[np.ndarray]:
        """Flow codes of the pairs ``first`` to ``end``, in blocks."""
        for start in range(first, end, engine.block_frames):
            with self._times.measure("flow_s"):
                gray = to_gray(self._rgb_THWC[start : min(start + engine.block_frames, end) + 1])
                codes = quantise_flow(engine.flow(gray), self._stored.flow_bound)
            yield codes

    def _through_codec(
        self, modality: str, pictures: np.ndarray | Iterable[np.ndarray], wanted: Sequence[int], length: int
    ) -> np.ndarray:
        """Encode pictures (an array, or blocks of them), decode the ``wanted`` ones, and put them into ``length``."""
        blocks = iter([pictures] if isinstance(pictures, np.ndarray) else pictures)
        block: np.ndarray | None = next(blocks)
        kind: Literal["rgb", "gray"] = "gray" if modality == "flow" else "rgb"
        file = io.BytesIO()
        out = np.zeros((length, *block.shape[1:]), np.uint8)
        with VideoWriter(file, kind, (block.shape[2], block.shape[1]), self._fps, self._codec) as writer:
            while block is not None:
                with self._times.measure("encode_s"):
                    writer.write(block)
                block = next(blocks, None)
        with self._times.measure("encode_s"):
            out[list(wanted)] = decode_frames(file.getvalue(), modality, wanted)
        return out
