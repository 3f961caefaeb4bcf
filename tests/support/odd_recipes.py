"""How the odd files of ``tests.support.odd_files`` are made."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.ffmpeg_program import run_ffmpeg

_NOISE = "noise=alls=40:allf=t:all_seed=1"  # so that pictures, not headers, are most of the bytes
CUT_SHARES = (10, 30, 50, 70, 90)  # percent of the bytes that are left
Recipe = Callable[[Mapping[str, Path], Path], object]

# The upper half shows the picture's number in eight binary columns, the lower half tells left from right and up from
# down.
_PICTURE = (
    "geq=lum='if(lt(Y,H/2),30+190*mod(floor(N/pow(2,floor(X*8/W))),2),40+X*120/W+Y*60/H)'"
    ":cb='100+50*X/W':cr='110+40*Y/H'"
)
_X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-threads", "1", "-qp", "12")
_X265 = ("-c:v", "libx265", "-preset", "ultrafast")
_ENCODERS: dict[str, tuple[str, ...]] = {
    "h264.mp4": (*_X264, "-g", "25", "-bf", "2", "-x264-params", "scenecut=0"),
    "h264_intra.mp4": (*_X264, "-g", "1"),
    "h264_no_b.mp4": (*_X264, "-g", "10", "-bf", "0"),
    "hevc.mp4": (*_X265, "-x265-params", "keyint=12:min-keyint=12:bframes=3:open-gop=1:pools=1:log-level=error"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "12", "-b:v", "1M"),
    "mpeg4.mp4": ("-c:v", "mpeg4", "-q:v", "2", "-g", "12", "-bf", "2"),
}


def _drawn(seconds: float = 2, size: str = "64x48", rate: str = "25", then: str = "null") -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"nullsrc=s={size}:r={rate}:d={seconds},{_PICTURE},{then}")


_SOUND = ("-f", "lavfi", "-i", "sine=d=2")


def sources(folder: Path) -> dict[str, Path]:
    """Plain videos of 2 s, from which the odd ones are made without coding them again."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for name, encoder in _ENCODERS.items():
        made[name] = folder / name
        run_ffmpeg(*_drawn(), "-pix_fmt", "yuv420p", *encoder, made[name])
    return made


def cut_containers(folder: Path) -> dict[Path, bool]:
    """Whole files of ten containers, and whether such a file announces its length."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds: dict[str, tuple[bool, tuple[str, ...]]] = {
        ".mp4": (True, (*_X264, "-movflags", "faststart")),
        ".mov": (True, (*_X264, "-movflags", "faststart")),
        ".mkv": (True, _X264),
        ".webm": (True, _ENCODERS["vp9.webm"]),
        ".flv": (True, ("-c:v", "flv", "-q:v", "2")),
        ".avi": (True, ("-c:v", "mpeg4", "-q:v", "2")),
        ".wmv": (True, ("-c:v", "wmv2", "-q:v", "2")),
        ".mpg": (False, ("-c:v", "mpeg2video", "-q:v", "2")),
        ".ts": (False, _X264),
        ".ogv": (False, ("-c:v", "libtheora", "-q:v", "9")),
    }
    found = {}
    for ending, (announced, encoder) in kinds.items():
        path = folder / f"whole{ending}"
        run_ffmpeg(*_drawn(then=_NOISE), "-pix_fmt", "yuv420p", *encoder, path)
        found[path] = announced
    return found


# -- recipes -----------------------------------------------------------------------------------------------------------


def _copy(source: str, *after: str, before: tuple[str, ...] = ()) -> Recipe:
    """The packets of a source, with options of the input and of the output."""
    return lambda made, path: run_ffmpeg(*before, "-i", made[source], *after, "-c", "copy", path)


def _coded(*encoder: str, drawn: tuple[str, ...] = _drawn()) -> Recipe:
    return lambda made, path: run_ffmpeg(*drawn, *encoder, path)


def _turned(rotation: int, mirrored: bool) -> Recipe:
    flip = ("-display_hflip:v:0",) if mirrored else ()
    return _copy("h264_no_b.mp4", before=("-display_rotation:v:0", str(rotation), *flip))


def _with_edits(*edits: tuple[float, float], source: str = "h264.mp4") -> Recipe:
    """A source with another edit list: (seconds shown, second of the track from which; -1 shows nothing)."""

    def make(made: Mapping[str, Path], path: Path) -> None:
        data = made[source].read_bytes()
        (track_scale,) = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)
        (movie_scale,) = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)
        at = data.index(b"edts") - 4
        (old_size,) = struct.unpack_from(">I", data, at)
        (first,) = struct.unpack_from(">i", data, at + 28)  # B pictures: the track begins after 0
        rows = b"".join(
            struct.pack(
                ">IiI", round(shown * movie_scale), -1 if start < 0 else first + round(start * track_scale), 1 << 16
            )
            for shown, start in edits
        )
        elst = struct.pack(">I4sII", 16 + len(rows), b"elst", 0, len(edits)) + rows
        edts = struct.pack(">I4s", 8 + len(elst), b"edts") + elst
        out = bytearray(data[:at] + edts + data[at + old_size :])
        for box in (b"moov", b"trak"):  # both hold it; the media lies before them, so no offset moves
            start = data.index(box) - 4
            struct.pack_into(">I", out, start, struct.unpack_from(">I", data, start)[0] + len(edts) - old_size)
        path.write_bytes(out)

    return make


def _restamped(expression: str, *after: str, source: str = "h264_no_b.mp4") -> Recipe:
    return _copy(source, "-bsf:v", f"setts=ts='{expression}'", *after)


def _two_parts_of_ts(made: Mapping[str, Path], path: Path) -> None:
    """The clock starts again at the seam."""
    part = path.with_name("part.ts")
    run_ffmpeg("-i", made["h264_no_b.mp4"], "-c", "copy", part)
    path.write_bytes(2 * part.read_bytes())
    part.unlink()


def _late_video(delay_s: float) -> Recipe:
    after = ("-map", "1:v", "-map", "0:a", "-c:v", "copy", "-c:a", "aac")
    return lambda made, path: run_ffmpeg(*_SOUND, "-itsoffset", str(delay_s), "-i", made["h264_no_b.mp4"], *after, path)


def _streams(*after: str, second: tuple[str, ...] = _drawn(1, "32x32", "10")) -> Recipe:
    return lambda made, path: run_ffmpeg("-i", made["h264_no_b.mp4"], *second, *after, path)


_BOTH, _BOTH_SWAPPED = ("-map", "0:v", "-map", "1:v"), ("-map", "1:v", "-map", "0:v")

RECIPES: list[tuple[str, Any, Recipe]] = [
    *(
        (f"turned{rotation}{'_mirrored' if mirrored else ''}.{kind}", "pictures", _turned(rotation, mirrored))
        for kind in ("mp4", "mkv")
        for rotation in (0, 90, 180, 270)
        for mirrored in (False, True)
    ),
    *(
        (f"copied_from_{start}.mp4", "rate", _copy("h264.mp4", "-t", "0.8", before=("-ss", str(start))))
        for start in (0.1, 0.5, 0.96, 1.04, 1.16)
    ),
    ("copied_to_the_end.mov", "rate", _copy("h264.mp4", before=("-ss", "1.3"))),
    ("copied_hevc.mp4", "rate", _copy("hevc.mp4", "-t", "1", before=("-ss", "0.7"))),
    ("copied_mpeg4.mp4", "rate", _copy("mpeg4.mp4", "-t", "1", before=("-ss", "0.7"))),
    ("copied_vp9.mp4", "rate", _copy("vp9.webm", "-t", "1", before=("-ss", "0.7"))),
    ("copied_h264.mkv", "rate", _copy("h264.mp4", "-t", "1", before=("-ss", "0.5"))),
    ("copied_hevc.mkv", "rate", _copy("hevc.mp4", "-t", "1", before=("-ss", "0.7"))),
    ("copied_hevc.ts", "rate", _copy("hevc.mp4", "-t", "1", before=("-ss", "0.7"))),
    ("empty_edit_0.7.mp4", "pictures", _late_video(0.7)),
    ("empty_edit_1.5.mov", "pictures", _late_video(1.5)),
    ("edit_from_0.6.mp4", "rate", _with_edits((1.0, 0.6))),
    ("edit_empty_then_0.2.mp4", "rate", _with_edits((0.4, -1), (1.2, 0.2))),
    ("two_edits.mp4", "rate", _with_edits((0.6, 0.0), (0.6, 1.2))),
    ("two_edits_backwards.mp4", "pictures", _with_edits((0.6, 1.2), (0.6, 0.0), source="h264_intra.mp4")),
    ("duplicate_stamp.mkv", "pictures", _restamped("if(eq(N,20),PREV_OUTPTS,TS)")),
    ("duplicate_stamp.ts", "pictures", _restamped("if(eq(N,20),PREV_OUTPTS,TS)")),
    ("three_duplicates.mkv", "pictures", _restamped("if(eq(N,20)+eq(N,31)+eq(N,44),PREV_OUTPTS,TS)")),
    ("gap_0.4s.mkv", "rate", _restamped("TS+gte(N,20)*0.4/TB")),
    ("gap_1s.mp4", "rate", _restamped("TS+gte(N,20)*1/TB")),
    ("starts_at_5s.mkv", "pictures", _copy("h264_no_b.mp4", "-output_ts_offset", "5")),
    ("starts_at_5s.ts", "pictures", _copy("h264.mp4", "-output_ts_offset", "5")),
    (
        "negative.mkv",
        "pictures",
        _copy("h264_no_b.mp4", "-avoid_negative_ts", "disabled", "-output_ts_offset", "-0.52"),
    ),
    ("wrapped.ts", "pictures", _copy("h264_no_b.mp4", "-output_ts_offset", "95442.3")),
    ("wrapped_b.ts", "pictures", _copy("h264.mp4", "-output_ts_offset", "95442.3")),
    ("clock_starts_again.ts", "pictures", _two_parts_of_ts),
    ("every_third_missing.mkv", "rate", _coded("-vf", "select='mod(n,3)'", "-fps_mode", "vfr", *_X264)),
    ("half_rate_from_1s.mp4", "rate", _coded("-vf", "select='lt(n,25)+mod(n,2)'", "-fps_mode", "vfr", *_X264)),
    ("trembling.mkv", "rate", _restamped("TS+mod(N*7,5)*0.002/TB")),
    ("no_clock.h264", "pictures", _copy("h264_no_b.mp4")),
    ("ntsc.mkv", "pictures", _coded(*_X264, drawn=_drawn(rate="30000/1001"))),
    ("fragments.mp4", "pictures", _copy("h264.mp4", "-movflags", "frag_keyframe+empty_moov")),
    ("hevc_10bit.mp4", "pictures", _coded(*_X265, "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=error")),
    (
        "av1.mp4",
        "pictures",
        _coded("-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-pix_fmt", "yuv420p"),
    ),
    (
        "vp9_hidden.webm",
        "pictures",
        _coded(
            "-c:v", "libvpx-vp9", "-cpu-used", "5", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-pix_fmt", "yuv420p"
        ),
    ),
    ("vp8.webm", "pictures", _coded("-c:v", "libvpx", "-deadline", "realtime", "-b:v", "1M", "-pix_fmt", "yuv420p")),
    ("mpeg4_b.avi", "pictures", _copy("mpeg4.mp4")),
    ("h264_b.avi", "pictures", _copy("h264.mp4")),
    ("mpeg2_b.ts", "pictures", _coded("-c:v", "mpeg2video", "-bf", "2", "-q:v", "2", "-pix_fmt", "yuv420p")),
    (
        "mpeg2_interlaced.mpg",
        "pictures",
        _coded("-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-q:v", "2", "-pix_fmt", "yuv420p"),
    ),
    ("mjpeg.mov", "pictures", _coded("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p")),
    ("full_range.mp4", "pictures", _coded(*_X264, "-pix_fmt", "yuvj420p")),
    ("odd_67x51.mp4", "pictures", _coded(*_X264, "-pix_fmt", "yuv444p", drawn=_drawn(size="67x51"))),
    ("odd_51x67.webm", "pictures", _coded(*_ENCODERS["vp9.webm"], "-pix_fmt", "yuv444p", drawn=_drawn(size="51x67"))),
    ("tall_pixels.mp4", "pictures", _coded(*_X264, "-aspect", "1:2", "-pix_fmt", "yuv420p")),
    ("sound_first.mp4", "pictures", _late_video(0.0)),
    (
        "second_is_default.mkv",
        "pictures",
        _streams(*_BOTH_SWAPPED, *_X264, "-pix_fmt", "yuv420p", "-disposition:v:0", "0", "-disposition:v:1", "default"),
    ),
    (
        "second_is_larger.mkv",
        "pictures",
        _streams(*_BOTH_SWAPPED, *_X264, "-pix_fmt", "yuv420p", "-disposition:v", "0"),
    ),
    (
        "small_is_default.mkv",
        "pictures",
        _streams(*_BOTH, *_X264, "-pix_fmt", "yuv420p", "-disposition:v:0", "0", "-disposition:v:1", "default"),
    ),
    ("second_is_larger.mp4", "pictures", _streams(*_BOTH_SWAPPED, *_X264, "-pix_fmt", "yuv420p")),
    (
        "cover_last.mp4",
        "pictures",
        _streams(*_BOTH, "-c:v:0", "copy", "-c:v:1", "png", "-disposition:v:1", "attached_pic"),
    ),
    (
        "cover_first.mkv",
        "pictures",
        _streams(*_BOTH_SWAPPED, "-c:v:1", "copy", "-c:v:0", "png", "-disposition:v:0", "attached_pic"),
    ),
    (
        "cover_only.m4a",
        "not_video",
        lambda made, path: run_ffmpeg(
            *_SOUND,
            *_drawn(1, "32x32", "1"),
            "-map",
            "0",
            "-map",
            "1",
            "-c:v",
            "png",
            "-c:a",
            "aac",
            "-frames:v",
            "1",
            "-disposition:v:0",
            "attached_pic",
            path,
        ),
    ),
    ("sound_only.mkv", "not_video", lambda made, path: run_ffmpeg(*_SOUND, "-c:a", "flac", path)),
]
