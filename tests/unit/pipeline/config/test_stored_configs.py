"""Configs that older code stored are still read, and the same command still means the same run."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from jobs.recipes import find_recipe
from jobs.train import command
from pipeline.config.base import as_dict
from pipeline.config.renamed import RENAMED, with_new_names, with_old_names
from pipeline.config.train import TrainConfig, config_from_dict
from pipeline.errors import ConfigError, UserError
from pipeline.runs.folder import RunRecord, default_run_id, start_or_resume
from pipeline.storage import open_storage

# crn_demo, as the code before any field was renamed stored it in run.json, state.json and predictor.json.
OLD: dict[str, Any] = json.loads("""
{"clip": {"brightness": 0.0, "contrast": 0.0, "crop": 56, "flip": true, "flow_std": 2.0, "hue": 0.0, "min_area": 0.7,
  "norm": "imagenet", "num_frames": 8, "resize": 64, "saturation": 0.0, "stack": 1, "stride": 1, "train_crop": "area"},
 "data": {"batch_size": 16, "cache_dir": "", "cache_gb": 50.0, "damaged_budget": 10, "decode_threads": 0,
  "device": "auto", "fetch_buffer_mb": 256, "fetch_deadline_s": 180.0, "fetch_threads": 32, "loader": "ffmpeg",
  "manifest_digest": "", "micro_batch": 0, "prefetch": 2, "train_split": "train", "uri": "file:///set",
  "val_split": "val"},
 "model": {"adapted": 64, "backbone": "bninception", "backbone_norm": "train", "backbone_stages": 3, "coupling": "top",
  "dropout": 0.0, "exact_literal": false, "fusion": "none", "hidden": 64, "kernel_size": 3, "kind": "crn",
  "modalities": ["rgb", "flow"], "num_layers": 2, "num_steps": 8, "partner": "other", "pretrained": "",
  "recompute": false, "rib": "rib", "rib_activation": "relu", "rib_dilations": [1, 2, 3], "rib_form": "cat", "stack": 1,
  "strategy": "c", "width": 0.25},
 "optim": {"backbone_lr": 0.002, "clip_norm": 5.0, "epochs": 36, "label_smoothing": 0.0, "lr": 0.002, "momentum": 0.9,
  "name": "adam", "schedule": "cosine", "warmup_steps": 20, "weight_decay": 0.0001},
 "recipe": "crn_demo",
 "run": {"checkpoint_epochs": 12, "checkpoint_steps": 0, "compile": false, "cpus_per_worker": 1.0,
  "experiment": "reciprocal", "freeze_batchnorm": false, "keep_checkpoints": 2, "log_samples": false, "log_steps": 14,
  "max_failures": 3, "num_workers": 2, "output": "", "precision": "auto", "run_id": "", "seed": 0, "spread": false,
  "use_gpu": "auto"},
 "start_digest": "", "start_from": ""}
""")


def config_of(recipe: str, decoder: str = "auto", **data: str) -> TrainConfig:
    config, changes = find_recipe(recipe), {"uri": "file:///set", "decoder": decoder, **data}
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def test_a_config_with_old_names_is_read_as_todays() -> None:
    before = copy.deepcopy(OLD)
    assert config_from_dict(OLD) == config_of("crn_demo", "ffmpeg")
    assert before == OLD  # what was passed in is left alone
    assert config_from_dict(as_dict(config_of("crn_demo", "ffmpeg"))) == config_from_dict(OLD)


def test_old_and_new_names_are_each_others_inverse() -> None:
    new = with_new_names(OLD)
    assert new["data"]["decoder"] == "ffmpeg"
    assert "loader" not in new["data"]
    assert with_old_names(new) == OLD
    assert with_new_names(new) == new


def test_every_renamed_field_exists_under_its_new_name_alone() -> None:
    fields = as_dict(TrainConfig())
    for old, new in RENAMED.items():
        section, name = new.split(".")
        assert name in fields[section]
        assert old.split(".")[1] not in fields[section]


@pytest.mark.parametrize(
    ("recipe", "decoder", "run_id"),
    [
        ("crn_demo", "auto", "crn-demo-54b9dd0d"),
        ("crn_demo", "ffmpeg", "crn-demo-967eb863"),
        ("mrst_demo", "auto", "mrst-demo-dfc15e58"),
        ("mrst_demo", "ffmpeg", "mrst-demo-bd5a7d5a"),
        ("crn_t1_ucf_bni_rib_flow", "auto", "crn-t1-ucf-bni-rib-flow-a35f4ddf"),
        ("crn_t1_ucf_bni_rib_flow", "ffmpeg", "crn-t1-ucf-bni-rib-flow-7d37a247"),
    ],
)
def test_run_ids_are_those_of_older_code(recipe: str, decoder: str, run_id: str) -> None:
    """The rows of UCF-101 had a validation then: a run that had one goes on with ``--data.val-split val``."""
    assert default_run_id(config_of(recipe, decoder, val_split="val"), "0" * 64) == run_id


def test_a_run_that_older_code_began_is_resumed(tmp_path: Path) -> None:
    run = open_storage(f"file://{tmp_path}")
    identity = config_from_dict(OLD).identity()
    assert identity["data"] == {
        "batch_size": 16,
        "loader": "ffmpeg",
        "train_split": "train",
        "uri": "file:///set",
        "val_split": "val",
    }
    old = {"config": OLD, "identity": identity, "manifest_digest": "d", "code_version": "old"}
    run.write("run.json", json.dumps(old).encode())

    def record(decoder: str) -> RunRecord:
        config = config_of("crn_demo", decoder)
        return RunRecord(config=as_dict(config), identity=config.identity(), manifest_digest="d", code_version="new")

    assert start_or_resume(run, record("ffmpeg")) is True
    with pytest.raises(ConfigError, match=r"data\.decoder = 'dali': run .* was started with 'ffmpeg'"):
        start_or_resume(run, record("dali"))


@pytest.mark.parametrize("flag", [["--data.loader", "ffmpeg"], ["--data.loader=ffmpeg"], ["--data.decoder", "ffmpeg"]])
def test_the_old_flag_works_and_warns_in_one_line(
    flag: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    configs: list[TrainConfig] = []
    monkeypatch.setattr(command, "train", lambda config: configs.append(config) or 0)
    with caplog.at_level(logging.WARNING):
        assert command.main(["crn_demo", *flag]) == 0
    assert configs[0].data.decoder == "ffmpeg"
    expected = ["--data.loader is now called --data.decoder; the old name still works"] if "loader" in flag[0] else []
    assert [record.getMessage() for record in caplog.records] == expected


def test_fields_that_older_code_lacked_have_their_defaults() -> None:
    fields = copy.deepcopy(OLD)
    del fields["start_from"], fields["start_digest"], fields["model"]["coupling"]
    assert config_from_dict(fields) == config_from_dict(OLD)


def record_of(config: TrainConfig) -> RunRecord:
    return RunRecord(config=as_dict(config), identity=config.identity(), manifest_digest="d", code_version="v")


def test_fields_added_since_then_count_as_soon_as_they_are_set(tmp_path: Path) -> None:
    old = config_from_dict(OLD)
    assert old.identity().keys() == OLD.keys() - {"start_from", "start_digest"}
    assert old.identity()["clip"] == OLD["clip"]
    changes = (
        ("clip", {"short_videos": "stretch"}, r"clip\.short_videos = 'stretch': .* started with 'repeat'"),
        ("optim", {"reference_batch": 8}, r"optim\.reference_batch = 8: .* started with 0;"),
        ("optim", {"ema_decay": 0.9}, r"optim\.ema_decay = 0\.9: .* started with 0\.0;"),
        (
            "optim",
            {"schedule": "step", "decay_epochs": (2,)},
            r"optim\.decay_epochs = \[2\]: .* started with \[\];",
        ),
        ("run", {"sync_batchnorm": True}, r"run\.sync_batchnorm = True: .* started with False;"),
        ("model", {"first_partner": "rib"}, r"model\.first_partner = 'rib': .* started with 'zero';"),
        ("stop", {"patience": 3}, r"stop\.patience = 3: .* started with 0;"),
        ("data", {"val_split": "", "val_share": 0.2}, r"data\.val_share = 0\.2: .* started with 0\.0;"),
    )
    for number, (section, fields, message) in enumerate(changes):
        changed = dataclasses.replace(old, **{section: dataclasses.replace(getattr(old, section), **fields)})
        for first, second, expected in ((old, changed, message), (changed, old, rf"{section}\.")):
            run = open_storage(f"file://{tmp_path}/{number}-{first is old}")
            for config in (first, first):
                start_or_resume(run, record_of(config))
            with pytest.raises(ConfigError, match=expected):
                start_or_resume(run, record_of(second))
        assert config_from_dict(as_dict(changed)) == changed


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("data", "shuffle", 3, r"data\.shuffle = 3: there is no such field; use one of uri, manifest_digest, "),
        ("model", "depth", 3, r"model\.depth = 3: there is no such field; use one of kind, modalities, "),
        ("model", "kind", "tsn", r"model\.kind = 'tsn': use crn or mrst"),
        ("data", "batch_size", 0, r"data\.batch_size = 0: must be at least 1"),
    ],
)
def test_what_cannot_be_read_names_field_and_fix(section: str, name: str, value: object, message: str) -> None:
    fields = copy.deepcopy(OLD)
    fields[section][name] = value
    with pytest.raises(ConfigError, match=message):
        config_from_dict(fields)
    record = RunRecord(config=fields, identity={}, manifest_digest="d", code_version="abc")
    with pytest.raises(UserError, match=f"made by code abc, whose config this code cannot read.*{message}.*use that"):
        record.train_config()
