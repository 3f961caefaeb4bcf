"""The clips that ``jobs.bench loader`` times all contenders with, and whether a contender really delivers them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.data.decoding.base import Device, Row
from pipeline.data.decoding.reference import mean_std
from pipeline.data.decoding.reference_decoder import ReferenceDecoder
from pipeline.data.decoding.stacks import stack_motion
from pipeline.data.index import SplitIndex, load_index
from pipeline.data.loader import Loader, make_loader
from pipeline.data.sampling.clips import sample_plans
from pipeline.data.sampling.order import epoch_order, global_batch
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.sample import extension, stored_modalities
from pipeline.dataset.shards import split_members
from pipeline.errors import ReciprocalError
from pipeline.storage import Storage

WARM_STEPS = 3
"""Batches before a measurement: buffers have their size, the loader's queue is as full as it gets."""
_READ_THREADS = 8
_AHEAD_STEPS, _AHEAD_SAMPLES = 4, 64  # more than the loader decodes and fetches ahead


@dataclasses.dataclass(frozen=True)
class Workload:
    """The clips of a bench: training clips of epoch 0 of some shards, each shard ``repeats`` times where the set is
    small.
    """

    storage: Storage
    manifest: Manifest
    index: SplitIndex
    """Of the whole pass: a shard that is read again stands in it again."""
    tars: tuple[str, ...]
    """Tars of the pass in the order they are dealt to worker processes."""
    repeats: int
    clip: ClipConfig
    seed: int
    steps: int
    """Batches of a measurement."""
    data: DataConfig
    device: Device

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.index.modalities

    @property
    def batch_size(self) -> int:
        return self.data.batch_size

    @property
    def threads(self) -> int:
        """Our decoder's threads, and the baseline's processes."""
        return self.data.decode_threads

    def loader(self) -> Loader:
        """Ours."""
        return make_loader(
            self.storage,
            self.manifest,
            self.index.split,
            data=self.data,
            clip=self.clip,
            modalities=self.modalities,
            train=True,
            seed=self.seed,
            device=self.device,
            index=self.index,
        )

    def batches(self) -> list[np.ndarray]:
        """Indices of the batches that ours and the ceiling take, warm-up first."""
        order = epoch_order(len(self.index), self.seed, 0, shuffle=True)
        return [global_batch(order, step, self.batch_size) for step in range(WARM_STEPS + self.steps)]

    def row(self, i: int, members: dict[str, bytes]) -> Row:
        """Sample ``i``'s training clip of epoch 0."""
        num_frames, height, width = (int(x) for x in self.index.sizes[i])
        (plan,) = sample_plans(
            self.index.key(i),
            num_frames,
            height,
            width,
            self.clip,
            self.modalities,
            train=True,
            seed=self.seed,
            epoch=0,
        )
        return {m: members[extension(m)] for m in stored_modalities(self.modalities)}, plan, (height, width)


def make_workload(
    storage: Storage,
    manifest: Manifest,
    split: str,
    modalities: Sequence[str],
    *,
    data: DataConfig,
    clip: ClipConfig,
    seed: int,
    clips: int,
    spare: int,
    device: Device,
) -> Workload:
    """Choose the shards of a bench: as many as give every worker process its part of warm-up, measurement and ``spare``
    samples.

    Args:
        data: its batch_size and decode_threads (the workers, not 0) count, and what our loader needs of the rest.
        clips: of a measurement, at least.

    Raises:
        ManifestError: a modality is not stored, or a record cannot be read.
    """
    shards = [s for s in manifest.shards if s.split == split and s.num_samples]
    workers, batch_size = data.decode_threads, data.batch_size
    per_worker = -(-clips // (batch_size * workers))
    wanted = (per_worker + 3) * batch_size + spare  # 2 batches warm up, 1 ends the pass
    # Ours looks further ahead than one batch, and must not run out of work while it is measured.
    in_all = (per_worker * workers + WARM_STEPS + _AHEAD_STEPS) * batch_size + _AHEAD_SAMPLES
    dealt, count = [0] * workers, 0
    while shards and (min(dealt) < wanted or sum(dealt) < in_all):
        dealt[count % workers] += shards[count % len(shards)].num_samples
        count += 1
    repeats = -(-count // len(shards)) if shards else 1
    used = tuple(shards[:count])
    index = load_index(storage, dataclasses.replace(manifest, shards=used), split, modalities)
    arrays = {f.name: getattr(index, f.name) for f in dataclasses.fields(index)}
    tiled = {
        n: np.concatenate([a] * repeats)
        for n, a in arrays.items()
        if isinstance(a, np.ndarray) and len(a) == len(index)
    }
    index = dataclasses.replace(index, **tiled)
    tars = tuple(f"{s.path}.tar" for s in used) * repeats
    return Workload(storage, manifest, index, tars, repeats, clip, seed, per_worker * workers, data, device)


def read_members(workload: Workload, indices: Iterable[int]) -> dict[str, dict[str, bytes]]:
    """Members of samples by key, each read once and checked.

    Raises:
        StorageError: they cannot be read. ReciprocalError: a sample differs from its record.
    """
    samples = {workload.index.key(i): i for i in indices}

    def read(i: int) -> dict[str, bytes]:
        sample = workload.index.sample_range(i)
        try:
            return split_members(sample, workload.storage.read_range(sample.tar, sample.offset, sample.size))
        except ValueError as error:
            raise ReciprocalError(
                f"sample {sample.key} in {sample.tar} is damaged, and a bench needs intact ones: {error}"
            ) from error

    with ThreadPoolExecutor(_READ_THREADS) as pool:
        return dict(zip(samples, pool.map(read, samples.values()), strict=True))


def check_keys(keys: Sequence[str], workload: Workload) -> None:
    """Raise ReciprocalError unless ``keys`` are those of the workload, each as often: a loader that skips samples is
    not slower or faster, it is wrong.
    """
    found, wanted = Counter(keys), Counter(workload.index.key(i) for i in range(len(workload.index)))
    if found != wanted:
        missing, surplus = wanted - found, found - wanted
        shown = ", ".join([*list(missing)[:3], *list(surplus)[:3]])
        raise ReciprocalError(
            f"the baseline skipped {missing.total()} samples and repeated {surplus.total()} ({shown}): its speed"
            " means nothing"
        )


def codes_off(workload: Workload, batch: dict[str, Any]) -> dict[str, float]:
    """Largest difference of a batch (keys, clips by modality) from the reference loader, by modality, in stored
    8-bit codes.
    """
    place = {workload.index.key(i): i for i in range(len(workload.index))}
    indices = [place[key] for key in batch["key"]]
    members = read_members(workload, indices)
    decoder = ReferenceDecoder(workload.modalities, workload.clip, workload.index.flow_bound_px)
    clips = decoder.decode([workload.row(i, members[workload.index.key(i)]) for i in indices])
    decoder.close()
    worst: dict[str, float] = {}
    for modality, clip in clips.items():
        expected = clip if modality == "rgb" else stack_motion(clip, workload.clip)
        std = torch.tensor(mean_std(modality, workload.clip, workload.index.flow_bound_px)[1])
        scale = std.repeat(expected.shape[2] // len(std)).view(-1, 1, 1)
        worst[modality] = float(((batch[modality] - expected).abs() * scale).max())
    return worst
