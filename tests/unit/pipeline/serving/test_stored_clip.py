"""Raw frames through the stored encoding in memory, against members encoded and decoded whole, as a data set does."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config.preprocess import StoredConfig
from pipeline.data.decoding.reference import decode_frames
from pipeline.dataset.sample import quantise_diff, quantise_flow
from pipeline.serving import stored_clip
from pipeline.serving.stored_clip import StoredClip, Times
from preprocessing.flow.base import to_gray
from preprocessing.flow.factory import flow_engine
from preprocessing.media.encode import VideoCodec
from tests.support.encoding import encode_gray, encode_rgb
from tests.support.stored_set import pictures

FPS, GOP, FRAMES = 12.5, 8, 40
STORED = StoredConfig(short_side=32, gop=GOP)


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return pictures(5, FRAMES)


@pytest.fixture(scope="module")
def codes(rgb: np.ndarray) -> np.ndarray:
    return quantise_flow(flow_engine("numba").flow(to_gray(rgb)))


def whole(modality: str, rgb: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The member as a data set holds it, every frame of it decoded."""
    codec = VideoCodec(gop=GOP, crf=STORED.crf)
    if modality == "flow":
        video = encode_gray(codes, FPS, codec)
    else:
        video = encode_rgb(rgb if modality == "rgb" else quantise_diff(rgb), FPS, codec)
    return decode_frames(video, modality, range(FRAMES - (modality != "rgb")))


@pytest.mark.parametrize("modality", ["rgb", "flow", "diff"])
@pytest.mark.parametrize("wanted", [[0], [3, 4, 17], [9, 38]])
def test_wanted_frames_are_those_of_the_whole_member(
    modality: str, wanted: list[int], rgb: np.ndarray, codes: np.ndarray
) -> None:
    clip = StoredClip(rgb, FPS, STORED, Times())
    frames = clip.frames(modality, wanted)
    expected = whole(modality, rgb, codes)
    assert frames.shape == expected.shape
    np.testing.assert_array_equal(frames[wanted], expected[wanted])
    raw = {"rgb": rgb, "flow": codes, "diff": quantise_diff(rgb)}[modality]
    assert (frames[wanted] != raw[wanted]).any(), "the encoding changes nothing here: the test would see nothing"
    assert clip.exact


def test_flow_of_a_long_video_is_computed_near_the_wanted_pairs_alone(
    rgb: np.ndarray, codes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_clip, "MAX_EXACT_PAIRS", 12)
    computed = []
    engine = flow_engine("numba")
    flow = engine.flow
    monkeypatch.setattr(engine, "flow", lambda gray: computed.append(len(gray) - 1) or flow(gray))
    monkeypatch.setattr(stored_clip, "flow_engine", lambda *names: engine)
    clip = StoredClip(rgb, FPS, STORED, Times())
    wanted = [18, 19, 33]
    frames = clip.frames("flow", wanted)
    assert sum(computed) == (19 - 16 + 1) + (33 - 32 + 1), "from the first picture of each group to the last wanted one"
    assert not clip.exact
    stored = whole("flow", rgb, codes)[wanted].astype(int)
    error, raw_error = np.abs(frames[wanted] - stored).mean(), np.abs(codes[wanted] - stored).mean()
    print(f"mean difference from the stored codes: {error:.3f}, without any encoding {raw_error:.3f}")
    assert error < 0.5 * raw_error


def test_the_end_of_the_exact_range_is_exact(rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_clip, "MAX_EXACT_PAIRS", 12)
    for last, exact in ((11, True), (12, False)):
        clip = StoredClip(rgb, FPS, STORED, Times())
        clip.frames("flow", [last])
        assert clip.exact is exact
