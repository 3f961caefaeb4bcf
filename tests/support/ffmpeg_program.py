"""The ffmpeg program: the one that is installed, or that of the package ``imageio-ffmpeg``."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np


@functools.cache
def ffmpeg_program() -> str | None:
    """Path of the program; None where there is none."""
    if importlib.util.find_spec("imageio_ffmpeg"):
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    return shutil.which("ffmpeg")


def run_ffmpeg(*arguments: str | Path) -> str:
    """Run the program and return what it prints; CalledProcessError if it fails."""
    program = ffmpeg_program()
    assert program is not None
    command = [program, "-hide_banner", "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def picture_times(path: Path, *before: str) -> np.ndarray:
    """Times in seconds at which the program shows the pictures of a file.

    Args:
        before: options of the input, such as ``-ss 1 -t 2``.
    """
    out = ["-an", "-sn", "-dn", "-fps_mode", "passthrough", "-enc_time_base", "demux", "-c:v", "rawvideo"]
    lines = run_ffmpeg(*before, "-i", f"file:{path.absolute()}", *out, "-f", "framecrc", "-").splitlines()
    num, den = next(line for line in lines if line.startswith("#tb 0:")).split(":")[1].split("/")
    ticks = [int(line.split(",")[2]) for line in lines if not line.startswith("#")]
    return np.array(ticks) * int(num) / int(den)


def pictures(path: Path, *options: str) -> Iterator[np.ndarray]:
    """The program's pictures of the video that it chooses, upright RGB (H, W, 3), each once.

    Args:
        options: of the output.
    """
    program = ffmpeg_program()
    assert program is not None
    out = ["-an", "-sn", "-dn", "-sws_flags", "bilinear+accurate_rnd+full_chroma_int", "-pix_fmt", "rgb24"]
    command = [program, "-v", "quiet", "-nostdin", "-threads", "1", "-i", f"file:{path.absolute()}", *out]
    options = options or ("-fps_mode", "passthrough")
    command += [*options, "-c:v", "ppm", "-f", "image2pipe", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        stream = child.stdout
        assert stream is not None
        while stream.readline() == b"P6\n":
            width, height = map(int, stream.readline().split())
            stream.readline()
            yield np.frombuffer(stream.read(width * height * 3), np.uint8).reshape(height, width, 3)
