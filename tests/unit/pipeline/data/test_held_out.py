"""What data.val_share holds out: a training reads all of its split but that, the validation that alone."""

from __future__ import annotations

import pytest

from pipeline.config.data import HELD_OUT, ClipConfig, DataConfig
from pipeline.data.index import load_index, load_run_index
from pipeline.data.preflight import check_data
from pipeline.errors import ConfigError

CLIP = ClipConfig(num_frames=2, crop=16)
DATA = {"val_split": "", "val_share": 0.3}


def keys(loader) -> list[str]:
    with loader as part:
        return sorted(key for batch in part.iter_epoch(0) for key in batch.keys if key)


def test_training_and_validation_share_no_sample_and_miss_none(counter_set, loader) -> None:
    whole = load_index(counter_set.storage, counter_set.manifest, "train", ("rgb",))
    options = {"modalities": ("rgb",), "clip": CLIP, "data": DATA}
    trained = keys(loader(counter_set, "train", **options))
    validated = keys(loader(counter_set, HELD_OUT, **options))
    assert sorted(trained + validated) == sorted(whole.key(i) for i in range(13))
    assert len(validated) == 3  # 0.3 of 5, 4 and 4 samples of a class are 1.5, 1.2 and 1.2: one of each
    assert keys(loader(counter_set, "train", **{**options, "train": False})) == sorted(trained + validated), (
        "an evaluation of the split reads all of it"
    )


def test_each_sample_keeps_its_bytes_and_label(counter_set) -> None:
    data = DataConfig(**DATA)
    arguments = (counter_set.storage, counter_set.manifest)
    whole = load_index(*arguments, "train", ("rgb", "flow"))
    known = {whole.key(i): (whole.sample_range(i), whole.labels[i], whole.sizes[i].tolist()) for i in range(13)}
    for split in ("train", HELD_OUT):
        index = load_run_index(*arguments, split, ("rgb", "flow"), data)
        assert index.split == split
        for i in range(len(index)):
            assert (index.sample_range(i), index.labels[i], index.sizes[i].tolist()) == known[index.key(i)]


def test_the_plan_counts_what_is_trained_on(counter_set) -> None:
    data = DataConfig(batch_size=4, **DATA)
    plan = check_data(
        counter_set.storage, counter_set.manifest, data=data, clip=CLIP, modalities=("rgb",), world_size=1
    )
    assert (plan.samples, plan.steps) == ({"train": 10, HELD_OUT: 3}, 3)
    assert plan.summary()[0].startswith("an epoch: train 10 samples (10 GETs, ")


def test_a_share_for_which_there_is_no_source_is_refused(counter_set) -> None:
    data = DataConfig(**DATA, val_group="clip")  # every name matches: one source
    with pytest.raises(ConfigError, match=r"data\.val_share = 0\.3: no class of split 'train' has a source to spare"):
        load_run_index(counter_set.storage, counter_set.manifest, HELD_OUT, ("rgb",), data)


def test_named_sources_are_held_out_and_nothing_else(counter_set) -> None:
    """Leave-one-out: over all folds every sample is validated on once."""
    arguments = (counter_set.storage, counter_set.manifest)
    whole = load_index(*arguments, "train", ("rgb",))
    names = [whole.key(i).rpartition("-")[0] for i in range(13)]
    pattern = r"(\d)$"
    folds = sorted({name[-1] for name in names})
    assert len(folds) > 2
    validated = []
    for fold in folds:
        data = DataConfig(val_split="", val_sources=(fold,), val_group=pattern)
        part = load_run_index(*arguments, HELD_OUT, ("rgb",), data)
        rest = load_run_index(*arguments, "train", ("rgb",), data)
        validated += [part.key(i) for i in range(len(part))]
        assert {part.key(i).rpartition("-")[0][-1] for i in range(len(part))} == {fold}
        assert len(part) + len(rest) == 13
        assert fold not in {rest.key(i).rpartition("-")[0][-1] for i in range(len(rest))}
    assert sorted(validated) == sorted(whole.key(i) for i in range(13))


def test_unknown_sources_and_no_rest_are_refused(counter_set) -> None:
    arguments = (counter_set.storage, counter_set.manifest, HELD_OUT, ("rgb",))
    with pytest.raises(ConfigError, match=r"data\.val_sources = 'seq99': split 'train' has 13 sources \(.*, \.\.\.\)"):
        load_run_index(*arguments, DataConfig(val_split="", val_sources=("seq99",)))
    with pytest.raises(ConfigError, match=r"data\.val_sources = .*: nothing is left to train on"):
        load_run_index(*arguments, DataConfig(val_split="", val_sources=("clip",), val_group="clip"))


def test_contradictions_are_refused() -> None:
    for changes, message in (
        ({"val_share": 0.2}, r"data\.val_share = 0\.2: validation is on split 'val': leave this at 0, or give"),
        ({"val_share": 0.6, "val_split": ""}, r"must be in \[0, 0\.5\]"),
        ({"val_sources": ("a",)}, r"data\.val_sources = \('a',\): validation is on a split or a share: leave this out"),
        ({"val_group": "seq("}, r"data\.val_group = 'seq\(': is not a regular expression"),
    ):
        with pytest.raises(ConfigError, match=message):
            DataConfig(**changes)  # type: ignore[arg-type]
