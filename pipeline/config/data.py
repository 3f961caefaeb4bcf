"""Knobs of loading: which data set, which clip, which augmentation."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from pipeline.config.base import require

HELD_OUT = "held-out"
"""Name of what data.val_share or data.val_sources holds out of the training split, in curves and summaries."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """How a clip is taken from a stored sample. Motion frame t belongs to RGB frames t and t+1."""

    num_frames: int = 10
    """T: frames of a clip."""
    stride: int = 1
    """Distance of two frames of the clip, in stored frames."""
    stack: int = 1
    """Motion frames joined along channels at each step: t, t+1, ... (edges repeated)."""
    short_videos: Literal["repeat", "stretch"] = "repeat"
    """Videos with fewer frames than a clip covers. repeat: their last frame is repeated. stretch: the frames of the
    clip are spread over the whole video, closer together than ``stride``, in all modalities alike.
    """
    crop: int = 224
    """Side of the square crop the model sees, in pixels."""
    train_crop: Literal["area", "corners", "fixed"] = "area"
    """Boxes of training clips. area: random area and ratio (Inception); corners: sides of 1, 7/8, 3/4 and 0.66 of the
    short side at one of 13 places (TSN's multi-scale corner crops); fixed: a test view's square (see ``resize``) at a
    random place.
    """
    min_area: float = 0.5
    """With train_crop=area: crops cover a share of the frame drawn from [min_area, 1], ratio from [3/4, 4/3]."""
    flip: bool = True
    """Training clips are mirrored with probability 1/2; u is negated with them."""
    brightness: float = 0.0
    """Colour jitter of training clips, for RGB alone, one draw a clip: brightness, contrast and saturation are
    multiplied by numbers drawn from [1 - x, 1 + x]; see ``pipeline.data.sampling.jitter``.
    """
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Hues are turned by an angle drawn from [-hue, hue], in whole turns (0.5: any hue)."""
    resize: int = 0
    """Short side of test views before the centre crop; 0: crop * 8/7, the usual 256 for 224."""
    norm: Literal["imagenet", "inception", "caffe"] = "imagenet"
    """RGB normalisation: mean/std of ImageNet; 0.5/0.5; BGR 0..255 minus (104, 117, 128)."""
    flow_std: float = 5.0
    """Flow in pixels is divided by this (no mean is subtracted)."""

    def __post_init__(self) -> None:
        for name in ("num_frames", "stride", "stack"):
            require(getattr(self, name) >= 1, f"clip.{name}", getattr(self, name), "must be at least 1")
        require(self.crop >= 16, "clip.crop", self.crop, "must be at least 16 pixels")
        require(
            self.resize == 0 or self.resize >= self.crop, "clip.resize", self.resize, "must be 0 or at least clip.crop"
        )
        require(0 < self.min_area <= 1, "clip.min_area", self.min_area, "must be in (0, 1]")
        for name, most in (("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.5)):
            require(0 <= getattr(self, name) <= most, f"clip.{name}", getattr(self, name), f"must be in [0, {most:g}]")
        require(self.flow_std > 0, "clip.flow_std", self.flow_std, "must be positive")

    @property
    def jitters(self) -> bool:
        """Whether training clips get a colour jitter."""
        return bool(self.brightness or self.contrast or self.saturation or self.hue)

    @property
    def test_resize(self) -> int:
        """Short side of test views in pixels."""
        return self.resize or round(self.crop * 8 / 7)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which stored data set a run reads, and how it is batched."""

    uri: str = ""
    """Folder of manifest.json: s3://BUCKET/PREFIX or file:///FOLDER."""
    manifest_digest: str = ""
    """If given, the sha256 the manifest must have; filled in by the driver and kept in every checkpoint."""
    train_split: str = "train"
    val_split: str = "val"
    """Split of the validation during training; an empty split (or name) means none."""
    val_share: float = 0.0
    """Without a val_split: the share of each class of the training split that is held out for validation, whole
    sources at a time, and never trained on. 0: none.
    """
    val_sources: tuple[str, ...] = ()
    """Without a val_split: the sources of the training split that are held out, as ``val_group`` finds their names; for
    leave-one-out evaluation.
    """
    val_group: str = ""
    """With val_share or val_sources: a regular expression that finds the source in a sample's key, in its first group
    or its whole match; samples of one source stay together. Empty: keys of UCF-101, HMDB-51 and Kinetics are known, any
    other file is a source of its own.
    """
    batch_size: int = 32
    """Global batch, over all ranks."""
    micro_batch: int = 0
    """Samples that a rank takes through the model at once; the gradients of its micro-batches add up, so that a few
    GPUs train with the batch of many. 0: its whole part of the global batch.
    """
    damaged_budget: int = 10
    """Distinct samples that one rank may find unreadable (black clips of weight 0) before the run fails."""
    fetch_threads: int = 32
    """Most ranged GETs in flight for one rank, at most 64; their number follows the decoder's rate."""
    fetch_buffer_mb: int = 256
    """Most MB that one rank reads ahead of its decoder."""
    fetch_deadline_s: float = 180.0
    """Longest wait for the bytes of one batch, the storage's own retries included; then the run fails and names
    shard and key.
    """
    cache_dir: str = ""
    """Folder on a local disk that keeps samples once read, shared by the ranks of a node; empty: none."""
    cache_gb: float = 50.0
    """Most that all files in cache_dir may hold, in GB."""
    decode_threads: int = 0
    """CPU threads of a rank's decoder; 0: the cores that the rank may use, with NVDEC at least eight."""
    prefetch: int = 2
    """Batches ready ahead; one more is being made."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where DALI decodes and augments; auto takes the GPU where there is one."""
    decoder: Literal["auto", "dali", "ffmpeg", "reference"] = "auto"
    """auto: dali on a GPU where a rank has few cores, else ffmpeg, which is several times as fast on the CPU. ffmpeg:
    FFmpeg decodes and compiled kernels crop, resize and normalise; reads H.264 too. reference: the same values from
    plain PyAV, torch and numpy; slow, the oracle of both.
    """

    def __post_init__(self) -> None:
        for name in ("batch_size", "fetch_threads", "prefetch"):
            require(getattr(self, name) >= 1, f"data.{name}", getattr(self, name), "must be at least 1")
        require(0 <= self.val_share <= 0.5, "data.val_share", self.val_share, "must be in [0, 0.5]")
        require(
            not (self.val_share and self.val_split),
            "data.val_share",
            self.val_share,
            f'validation is on split {self.val_split!r}: leave this at 0, or give data.val_split ""',
        )
        require(
            not (self.val_sources and (self.val_split or self.val_share)),
            "data.val_sources",
            self.val_sources,
            'validation is on a split or a share: leave this out, or give data.val_split "" and no data.val_share',
        )
        _require_pattern("data.val_group", self.val_group)
        require(self.micro_batch >= 0, "data.micro_batch", self.micro_batch, "must be 0 (a rank's whole part) or more")
        # The S3 client keeps that many connections.
        require(self.fetch_threads <= 64, "data.fetch_threads", self.fetch_threads, "must be at most 64")
        require(self.fetch_buffer_mb >= 1, "data.fetch_buffer_mb", self.fetch_buffer_mb, "must be at least 1")
        require(
            not self.cache_dir or self.cache_dir.startswith("/"),
            "data.cache_dir",
            self.cache_dir,
            "give the absolute path of a folder, or nothing for no cache",
        )
        require(self.cache_gb > 0, "data.cache_gb", self.cache_gb, 'must be positive; no cache is data.cache_dir ""')
        require(self.fetch_deadline_s > 0, "data.fetch_deadline_s", self.fetch_deadline_s, "must be positive")
        require(
            self.decode_threads >= 0,
            "data.decode_threads",
            self.decode_threads,
            "must be 0 (derived from the rank's cores) or more",
        )
        require(self.damaged_budget >= 0, "data.damaged_budget", self.damaged_budget, "must be 0 or more")
        require(
            self.uri == "" or self.uri.startswith(("s3://", "file://")),
            "data.uri",
            self.uri,
            "give s3://BUCKET/PREFIX or file:///FOLDER",
        )

    @property
    def validation(self) -> str:
        """Name of what is validated on during training; empty: nothing."""
        return HELD_OUT if self.val_share or self.val_sources else self.val_split


def _require_pattern(field: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        require(False, field, pattern, f"is not a regular expression ({error})")
