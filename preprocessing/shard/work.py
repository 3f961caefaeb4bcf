"""What the stages of preprocessing share: the time each takes, and errors that name their source."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from collections.abc import Iterator

import av
import cv2

from pipeline.common.timer import StageTimer
from pipeline.errors import ReciprocalError, StorageError
from preprocessing.annotations import Source


@dataclasses.dataclass
class StageTimes(StageTimer):
    """Seconds that each stage was busy; stages overlap, so they add up to more than the wall clock."""

    fetch_s: float = 0.0
    decode_s: float = 0.0
    flow_s: float = 0.0
    encode_s: float = 0.0
    verify_s: float = 0.0
    store_s: float = 0.0
    clips: int = 0  # samples written
    pairs: int = 0  # of frames whose flow was computed


@contextlib.contextmanager
def named(source: Source) -> Iterator[None]:
    """Let errors raised behind the decoder name their source; a full disk is reported as such."""
    try:
        yield
    except ReciprocalError as error:
        raise type(error)(f"{source.name}: {error}") from error
    except OSError as error:
        raise disk_error(source.name, error) from error
    except (ValueError, cv2.error, av.FFmpegError, ArithmeticError) as error:
        raise ReciprocalError(f"{source.name}: {type(error).__name__}: {error}") from error


def disk_error(what: str, error: OSError) -> ReciprocalError:
    """A full disk is a StorageError that says which; anything else keeps its text."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"{what}: no space left in the folder for temporary files: free some, set TMPDIR, or lower"
            " --samples-per-shard"
        )
    return ReciprocalError(f"{what}: {type(error).__name__}: {error}")
