"""Videos are opened in one way: nothing but the video itself is read, and no picture takes more memory than allowed."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import av
import pytest

from pipeline.common.media import FORMATS, STORED_FORMATS, open_media
from pipeline.errors import RejectedSource
from preprocessing.media.decode import decode_video
from tests.support.memory import peak_growth_mb
from tests.support.odd_media import moving, with_vp9_size, write_video
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("media") / "video.mkv", moving(5), codec="ffv1", pix_fmt="bgr0")


@pytest.fixture(scope="module")
def vp9(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = write_video(tmp_path_factory.mktemp("vp9") / "small.mp4", moving(3), codec="libvpx-vp9")
    return path.read_bytes()


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile video.mkv\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nvideo.mkv\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 26\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period></Period></MPD>',
        "# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 000000000\n",
    ],
    ids=["concat", "hls", "sdp", "dash", "vobsub"],
)
def test_what_names_other_files_is_not_opened(video: Path, text: str, as_bytes: bool) -> None:
    path = video.with_name("names_others.mp4")
    path.write_text(text)
    with pytest.raises(av.FFmpegError, match="Invalid"):
        open_media(text.encode() if as_bytes else path)


@pytest.mark.parametrize("formats", [FORMATS, STORED_FORMATS])
def test_a_video_is_opened_by_path_by_its_bytes_and_as_a_file(video: Path, formats: tuple[str, ...]) -> None:
    for source in (video, str(video), video.read_bytes(), io.BytesIO(video.read_bytes())):
        with open_media(source, formats=formats) as container:
            assert sum(1 for _ in container.decode(video=0)) == 5


def test_every_format_is_one_of_ffmpegs() -> None:
    names = {name for listed in av.formats_available for name in listed.split(",")}
    assert set(FORMATS) <= names
    assert not {"concat", "hls", "dash", "sdp", "rtsp", "rtp", "image2", "lavfi", "imf", "vobsub"} & set(FORMATS)


def test_a_picture_over_the_limit_is_refused_without_memory_for_it(vp9: bytes, tmp_path: Path) -> None:
    path = tmp_path / "huge.mp4"
    path.write_bytes(with_vp9_size(vp9, 8192, 8192))
    script = """
with open_media(sys.argv[1], max_pixels=int(sys.argv[2])) as container, contextlib.suppress(av.FFmpegError):
    next(container.decode(video=0))
"""
    imports = "import av, contextlib, sys\nfrom pipeline.common.media import open_media"
    more_mb = [peak_growth_mb(imports, script, str(path), str(limit)) for limit in (8192 * 8192, 320 * 256)]
    print(f"{path.stat().st_size} bytes: {more_mb[0]:.0f} MiB, limited {more_mb[1]:.0f} MiB")
    assert more_mb[0] > 40
    assert more_mb[1] < 16


def test_a_source_with_pictures_over_the_limit_is_too_large(vp9: bytes) -> None:
    with pytest.raises(RejectedSource, match="too_large: pictures of more than 67108864 pixels"):
        decode_video(with_vp9_size(vp9, 8256, 8192), short_side=32)


def test_videos_are_opened_for_reading_in_one_place_only() -> None:
    """``av.open`` elsewhere writes."""
    found = []
    for path in sorted(
        p for part in ("pipeline", "preprocessing", "jobs", "docs") for p in (ROOT / part).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            opens = isinstance(node, ast.Call) and ast.unparse(node.func) in ("av.open", "av.container.open")
            if opens and "'w'" not in ast.unparse(node):
                found.append(str(path.relative_to(ROOT)))
    assert found == ["pipeline/common/media.py"]
