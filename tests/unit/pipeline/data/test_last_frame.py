"""RGB alone needs no frame behind its clip: clips end at the video's last frame at the latest, in every loader."""

from __future__ import annotations

import itertools

import pytest
import torch

from pipeline.config.data import ClipConfig

CLIP = ClipConfig(num_frames=6, stride=2, stack=2, crop=16, norm="caffe")  # rgb: 11 frames; with its motion 13


def last_frames(loader, counter_set, backend: str, modalities: tuple[str, ...], **options) -> list[set[int]]:
    """Of each sample: how far before the video's end its clips end, in frames. A flat picture's level says which frame
    it is.
    """
    found: dict[str, set[int]] = {}
    with loader(counter_set, batch=4, backend=backend, modalities=modalities, clip=CLIP, **options) as part:
        sizes = {part.index.key(i): int(part.index.sizes[i][0]) for i in range(len(part.index))}
        for epoch in range(12 if options.get("train", True) else 1):
            for batch in part.iter_epoch(epoch):
                for row in torch.nonzero(batch.weights).flatten().tolist():
                    levels = batch.inputs["rgb"][row].mean((2, 3)) + torch.tensor([104.0, 117.0, 128.0])
                    frames = ((levels.mean(1) - 20) / 8).round().int().tolist()
                    assert [b - a for a, b in itertools.pairwise(frames)] == [2] * 5, "nothing is repeated"
                    found.setdefault(batch.keys[row], set()).add(sizes[batch.keys[row]] - 1 - frames[-1])
    return list(found.values())


@pytest.mark.parametrize(
    ("modalities", "kept_free"), [(("rgb",), 0), (("rgb", "flow"), 2), (("rgb", "diff-online"), 2)]
)
def test_training_clips_reach_the_last_frame_that_they_can(loader, counter_set, backend, modalities, kept_free) -> None:
    ends = last_frames(loader, counter_set, backend, modalities)
    assert min(min(end) for end in ends) == kept_free
    assert max(max(end) for end in ends) > kept_free + 4


@pytest.mark.parametrize(
    ("modalities", "kept_free"), [(("rgb",), 0), (("rgb", "flow"), 2), (("rgb", "diff-online"), 2)]
)
def test_the_last_test_view_ends_there(loader, counter_set, backend, modalities, kept_free) -> None:
    for ends in last_frames(loader, counter_set, backend, modalities, train=False, num_views=3):
        assert min(ends) == kept_free
        assert len(ends) == 3
