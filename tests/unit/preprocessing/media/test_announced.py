"""A file whose rest is missing is noticed by what its header or index announces, in every container that announces
something; others say that they do not.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import RejectedSource
from preprocessing.media.decode import VideoReader

CODECS = {
    "mp4": ("libx264", {"movflags": "faststart"}),
    "mov": ("libx264", {"movflags": "faststart"}),
    "dash.mp4": ("libx264", {"movflags": "dash+global_sidx", "frag_duration": "200000"}),
    "mkv": ("libx264", {}),
    "webm": ("libvpx", {}),
    "avi": ("mpeg4", {}),
    "flv": ("flv", {}),
    "wmv": ("wmv2", {}),
    "mpg": ("mpeg2video", {}),
    "ogv": ("libvpx", {}),
    "ts": ("libx264", {}),
    "nut": ("libx264", {}),
    "fragments.mp4": ("libx264", {"movflags": "frag_keyframe+empty_moov+skip_trailer"}),
    "live.mkv": ("libx264", {"live": "1"}),
}
SILENT = {"mpg", "ogv", "ts", "nut", "fragments.mp4", "live.mkv"}  # these announce nothing
MARKED = {"ogv"}  # a mark at the end shows that it is there


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two seconds of pictures with and one second without sound, in every container."""
    folder = tmp_path_factory.mktemp("videos")
    noise = np.random.default_rng(0).integers(0, 256, (50, 8, 10, 3), dtype=np.uint8)
    found = {}
    for ending, (codec, options) in CODECS.items():
        path = folder / f"v.{ending}"
        with av.open(str(path), "w", options=options) as target:
            stream = target.add_stream(codec, rate=25, options={"threads": "1", "g": "5", "bf": "0", "b": "400k"})
            stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
            for small in noise:
                picture = small.repeat(8, 0).repeat(8, 1)
                target.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            target.mux(stream.encode())
        found[ending] = path
    return found


@pytest.mark.parametrize("ending", CODECS)
def test_a_whole_file_is_taken_and_known_to_be_whole_where_its_container_can_tell(videos, ending):
    with VideoReader(videos[ending], short_side=32) as video:
        assert sum(1 for _ in video) == 50
        assert video.length_announced is (ending not in SILENT or ending in MARKED)


# Of fewer packets a last one that is torn is more than the share of damage that is allowed.
@pytest.mark.parametrize(
    ("ending", "share"), [(e, s) for e in CODECS for s in (0.3, 0.5, 0.8) if s > 0.3 or e not in SILENT]
)
def test_a_file_that_was_cut_off_is_truncated_or_says_that_it_may_be(videos, ending, share):
    data = videos[ending].read_bytes()
    data = data[: round(len(data) * share)]
    if ending in SILENT:
        with VideoReader(data, short_side=32) as video:
            assert 0.6 * share < sum(1 for _ in video) / 50 < 1.2 * share
            assert not video.length_announced
        return
    with pytest.raises(RejectedSource) as caught:
        sum(1 for _ in VideoReader(data, short_side=32))
    assert caught.value.reason == "truncated", caught.value
    percent = int(caught.value.detail.partition("%")[0])
    assert percent == pytest.approx(100 * share, abs=15)


@pytest.mark.parametrize("ending", ["mkv", "avi", "flv", "wmv", "mp4"])
def test_parts_of_a_cut_file_are_taken_where_their_pictures_are_there(videos, ending):
    data = videos[ending].read_bytes()
    data = data[: len(data) // 2]
    with VideoReader(data, short_side=32, start_s=0.2, end_s=0.6) as video:
        assert sum(1 for _ in video) == 10
        assert video.length_announced, "the file goes on behind the part"
    for start_s in (0.2, 1.6):
        with pytest.raises(RejectedSource, match=rf"truncated: \d+% of the announced .* from {start_s} s to 2 s"):
            sum(1 for _ in VideoReader(data, short_side=32, start_s=start_s, end_s=2.0))


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_a_file_whose_sound_is_longer_than_its_pictures_is_whole(tmp_path, videos, ending):
    path = tmp_path / f"long_sound.{ending}"
    with av.open(str(videos[ending])) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        sound = target.add_stream("aac", rate=8000)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
        for number in range(64):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, 1024 * number
            target.mux(sound.encode(frame))
        target.mux(sound.encode())
    with VideoReader(path, short_side=32) as video:
        assert sum(1 for _ in video) == 50
        assert video.length_announced
