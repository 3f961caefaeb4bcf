"""Whole loaders, both backends: coverage, contents, resuming, views."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.config.data import ClipConfig
from pipeline.data.batch import Batch
from pipeline.data.decoding.reference import decode_frames, prepare_clip
from pipeline.data.sampling.clips import sample_plans
from pipeline.errors import ConfigError

# The clip of the ``loader`` fixture.
CLIP = ClipConfig(num_frames=3, stack=2, crop=16, norm="caffe", flow_std=1.0)


def rows_by_key(batches) -> dict[str, torch.Tensor]:
    """rgb and flow of each sample, flattened."""
    found = {}
    for batch in batches:
        for row, key in enumerate(batch.keys):
            if key:
                assert key not in found, "a sample came twice"
                found[key] = torch.cat([batch.inputs["rgb"][row].flatten(), batch.inputs["flow"][row].flatten()])
    return found


def test_two_ranks_cover_the_split_with_the_same_clips_as_one(loader, texture_set, backend) -> None:
    with loader(texture_set, batch=2, backend=backend) as one:
        alone = rows_by_key(one.iter_epoch(3))
    together: dict[str, torch.Tensor] = {}
    for rank in range(2):
        with loader(texture_set, batch=6, backend=backend, rank=rank, world_size=2) as part:
            assert part.num_steps(3) == 2
            mine = rows_by_key(part.iter_epoch(3))
        assert not mine.keys() & together.keys()
        together.update(mine)
    assert together.keys() == alone.keys() == {k for k in texture_set.videos if k in alone}
    assert len(alone) == 7
    for key, clip in alone.items():
        torch.testing.assert_close(
            together[key], clip, rtol=0, atol=1e-4, msg=f"augmentation of {key} depends on batch or rank"
        )


def test_batches_hold_what_was_stored(loader, counter_set, backend) -> None:
    """Every value of a flat picture says which sample's which frame it is, so labels, frames and stacks are checked
    at once.
    """
    with loader(counter_set, batch=5, backend=backend) as part:
        index, batches = part.index, list(part.iter_epoch(0))
    places = {index.key(i): i for i in range(len(index))}
    assert [len(b) for b in batches] == [5, 5, 5]
    assert [(b.epoch, b.step) for b in batches] == [(0, 0), (0, 1), (0, 2)]
    assert [int(b.weights.sum()) for b in batches] == [5, 5, 3]
    assert batches[-1].keys[3:] == ("", "")
    assert not any(x[3:].any() for x in batches[-1].inputs.values())
    starts = set()
    for batch in batches:
        assert batch.inputs["rgb"].shape == (5, 3, 3, 16, 16)
        assert batch.inputs["flow"].shape == (5, 3, 4, 16, 16)
        for row in torch.nonzero(batch.weights).flatten().tolist():
            i = places[batch.keys[row]]
            num_frames, height, width = (int(x) for x in index.sizes[i])
            (plan,) = sample_plans(
                batch.keys[row], num_frames, height, width, CLIP, ("rgb", "flow"), train=True, seed=11, epoch=0
            )
            assert batch.labels[row] == index.labels[i]
            t = torch.tensor(plan.rgb_frames)
            starts.add(int(t[0]))
            rgb = batch.inputs["rgb"][row].mean((2, 3)) + torch.tensor([104.0, 117.0, 128.0])
            assert (rgb.mean(1) - (20 + 8 * t)).abs().max() < 2
            sign = -1 if plan.flip else 1
            u_codes = (sign * batch.inputs["flow"][row][:, 0::2].mean((2, 3)) + 20) * 255 / 40
            v_codes = (batch.inputs["flow"][row][:, 1::2].mean((2, 3)) + 20) * 255 / 40
            wanted = t[:, None] + torch.arange(2)
            assert (u_codes - (40 + 6 * wanted)).abs().max() < 1
            assert (v_codes - (220 - 6 * wanted)).abs().max() < 1
    assert len(starts) > 4


def test_resuming_continues_with_the_next_sample_on_other_ranks(loader, counter_set, backend) -> None:
    with loader(counter_set, batch=4, backend=backend) as whole:
        straight = list(whole.iter_epoch(2))
        again = list(whole.iter_epoch(2, start_step=2))
        assert list(whole.iter_epoch(2, start_step=4)) == []
        with pytest.raises(ValueError, match=r"start_step 5 is outside 0\.\.4"):
            next(whole.iter_epoch(2, start_step=5))
    for a, b in zip(straight[2:], again, strict=True):
        assert (a.keys, a.step) == (b.keys, b.step)
        assert all(torch.equal(a.inputs[m], b.inputs[m]) for m in a.inputs)
    parts = []
    for rank in range(2):
        with loader(counter_set, batch=4, backend=backend, rank=rank, world_size=2) as part:
            parts.append(list(part.iter_epoch(2, start_step=2)))
    for whole_batch, left, right in zip(straight[2:], *parts, strict=True):
        assert left.keys + right.keys == whole_batch.keys
        assert torch.equal(torch.cat([left.inputs["rgb"], right.inputs["rgb"]]), whole_batch.inputs["rgb"])


def test_views_are_contiguous_and_each_sample_comes_once(loader, texture_set, backend) -> None:
    keys: list[str] = []
    clip = ClipConfig(num_frames=3, stack=2, crop=40, norm="caffe", flow_std=1.0)
    for rank in range(2):
        with loader(
            texture_set, "val", batch=2, backend=backend, clip=clip, rank=rank, world_size=2, num_views=3
        ) as part:
            for batch in part.iter_epoch(0):
                assert len(batch) == 3
                assert len(set(batch.keys)) == 1
                if not batch.keys[0]:
                    assert not batch.weights.any()
                    continue
                keys.append(batch.keys[0])
                (i,) = [n for n in range(len(part.index)) if part.index.key(n) == batch.keys[0]]
                num_frames, height, width = (int(x) for x in part.index.sizes[i])
                stored = texture_set.stored_member(part.index.key(i), "flow")
                codes = decode_frames(stored, "flow", range(num_frames - 1))
                plans = sample_plans(
                    "", num_frames, height, width, clip, ("rgb", "flow"), train=False, seed=0, epoch=0, num_views=3
                )
                assert len({p.rgb_frames for p in plans}) == 3
                for row, plan in enumerate(plans):
                    wanted = prepare_clip({"flow": codes}, plan, clip)["flow"]
                    inside = np.s_[..., 2:-2, 2:-2]  # at the rim of a shrunk picture DALI's filter differs
                    np.testing.assert_allclose(batch.inputs["flow"][row].numpy()[inside], wanted[inside], atol=1e-3)
    with loader(texture_set, "val", batch=2) as part:
        assert sorted(keys) == sorted(part.index.key(i) for i in range(len(part.index)))


def test_a_batch_says_what_does_not_fit() -> None:
    good = {"rgb": torch.zeros(2, 3, 3, 8, 8), "flow": torch.zeros(2, 3, 2, 8, 8)}
    labels, weights = torch.zeros(2, dtype=torch.int64), torch.ones(2)
    assert len(Batch(good, labels, weights, ("a", "b"), 0, 0).to("cpu")) == 2
    for inputs in (
        {},
        {**good, "flow": torch.zeros(2, 4, 2, 8, 8)},
        {"rgb": good["rgb"].double()},
        {"rgb": good["rgb"][:1]},
    ):
        with pytest.raises(ValueError, match="got 2 keys and"):
            Batch(inputs, labels, weights, ("a", "b"), 0, 0)
    with pytest.raises(ValueError, match=r"labels \(2,\) torch\.float32"):
        Batch(good, labels.float(), weights, ("a", "b"), 0, 0)


def test_views_ranks_and_index_are_checked(loader, counter_set) -> None:
    with loader(counter_set) as part:
        with pytest.raises(ValueError, match="the index is of train"):
            loader(counter_set, "val", index=part.index)
        with loader(counter_set, index=part.index) as same:
            assert same.index is part.index
    with pytest.raises(ValueError, match="num_views is 0"):
        loader(counter_set, num_views=0)
    with pytest.raises(ConfigError, match=r"data\.batch_size = 4: does not divide by 3 ranks"):
        loader(counter_set, world_size=3)
