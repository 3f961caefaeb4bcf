"""The size of a stored video's pictures, compared with its record before anything is decoded.

A clip's boxes lie in pictures of the record's size. In others they would cut out something else, or nothing; and
the few kilobytes of a member can unfold to pictures that fill the memory.
"""

from __future__ import annotations

import av

from pipeline.common.media import WrongPictureSize, open_stored
from pipeline.data.decoding.base import Size
from pipeline.data.decoding.mp4 import read_track
from pipeline.data.decoding.vp9 import other_size
from pipeline.errors import ReciprocalError


def member_size(modality: str, size: Size) -> Size:
    """Of a member's pictures, by its sample's record: flow stores u above v."""
    return (2 * size[0], size[1]) if modality == "flow" else size


def check_member(video: bytes, modality: str, size: Size) -> None:
    """Compare what a stored video says of its pictures with a sample's ``size``.

    In the files that preprocessing writes every frame is looked at; of others, what the container announces.

    Raises:
        WrongPictureSize: they differ.
        ReciprocalError: FFmpeg finds no video in it.
    """
    height, width = member_size(modality, size)
    track = read_track(video)
    if track is None:
        try:
            open_stored(video, width, height).close()
        except WrongPictureSize as error:
            raise WrongPictureSize(f"{modality}: {error}") from error
        except (av.FFmpegError, IndexError) as error:
            raise ReciprocalError(f"FFmpeg cannot decode this {modality} video: {error}") from error
        return
    try:
        found = other_size(video, track.offsets, track.sizes, width, height)
    except ValueError:
        return  # decoding says what is wrong with it
    if found:
        raise WrongPictureSize(f"{modality}: pictures of {found[0]}x{found[1]}, its record says {width}x{height}")
