"""Refuse what cannot work, on the driver, before any worker or GPU is taken."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.data.index import check_modalities, load_index
from pipeline.data.order import num_steps, rank_batch_size
from pipeline.errors import ConfigError, ManifestError
from pipeline.manifest import Manifest
from pipeline.storage import Storage

_MAX_ENLARGING = 2.0


def check_data(
    storage: Storage, manifest: Manifest, *, data: DataConfig, clip: ClipConfig, modalities: Sequence[str], world_size: int
) -> dict[str, int]:
    """Check a data set against what a run wants of it. Reads the records of the training split.

    Returns:
        Samples of the training and validation splits by name, and ``steps``: global batches of a training epoch.

    Raises:
        ConfigError: the batch does not divide by the ranks, the manifest is not the one the config names, a split's name
            is unknown, or the crop asks for more than twice the stored pixels.
        ManifestError: a modality is not stored, the training split is empty, or a class has no training sample.
    """
    rank_batch_size(data.batch_size, world_size)
    if data.manifest_digest and data.manifest_digest != manifest.digest:
        fix = f"the manifest at {storage.uri} is {manifest.digest}: give that digest, or the folder of the version meant"
        raise ConfigError("data.manifest_digest", data.manifest_digest, fix)
    check_modalities(manifest, modalities)
    short_side = manifest.parameters.get("short_side")
    if short_side and clip.test_resize > _MAX_ENLARGING * short_side:
        largest = int(_MAX_ENLARGING * short_side * clip.crop / clip.test_resize)
        fix = (
            f"views of short side {clip.test_resize} px would enlarge the stored {short_side} px more than {_MAX_ENLARGING:g} times: "
            f"use at most {largest}, or preprocess again with a larger stored.short_side"
        )
        raise ConfigError("clip.crop", clip.crop, fix)
    sizes = manifest.split_sizes()
    for field, split in (("data.train_split", data.train_split), ("data.val_split", data.val_split)):
        if split and split not in sizes:
            none = "" if field == "data.train_split" else ', or "" for no validation'
            raise ConfigError(field, split, f"use one of the manifest's splits: {', '.join(sizes)}{none}")
    index = load_index(storage, manifest, data.train_split, modalities)
    empty = [name for name, count in zip(manifest.classes, index.class_counts(), strict=True) if count == 0]
    if empty:
        shown = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
        raise ManifestError(f"{len(empty)} of {len(manifest.classes)} classes have no sample in split {data.train_split!r}: {shown}")
    report = {split: sizes[split] for split in (data.train_split, data.val_split) if split}
    return {**report, "steps": num_steps(len(index), data.batch_size)}
