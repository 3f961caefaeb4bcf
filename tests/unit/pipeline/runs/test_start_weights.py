"""Where a training's first weights come from: found, read and tried by the driver, told apart by their bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from jobs.recipes import find_recipe
from jobs.recipes.registry import missing_start, short_chain
from jobs.train import command as train_job
from pipeline.config.base import as_dict
from pipeline.config.data import ClipConfig
from pipeline.config.model import CRNConfig, MRSTConfig
from pipeline.config.train import TrainConfig, config_from_dict
from pipeline.errors import ConfigError
from pipeline.models import ActionModel, build_model
from pipeline.runs.folder import RunRecord, default_run_id, read_run, start_or_resume
from pipeline.runs.start_weights import StartWeights, find_start, first_model
from pipeline.storage import Storage, open_storage
from tests.support.memory_s3 import MemoryS3

TINY: dict[str, Any] = {"blocks": (1, 1), "mid": (3, 4), "out": (5, 6), "stem": 4, "lstm": 5, "num_steps": 4}
CLASSES = ("walk", "run", "sit")


def mrst(**model: Any) -> TrainConfig:
    config = MRSTConfig(**{**TINY, **model})
    return TrainConfig(model=config, clip=ClipConfig(num_frames=config.num_steps, crop=32))


def crn(clip: dict[str, Any] | None = None, **model: Any) -> TrainConfig:
    config = CRNConfig(**{"width": 0.05, "backbone_stages": 3, "hidden": 4, "adapted": 4, "num_steps": 2, **model})
    return TrainConfig(model=config, clip=ClipConfig(num_frames=2, crop=32, stack=config.stack, **(clip or {})))


def from_run(config: TrainConfig, run: Storage) -> TrainConfig:
    return dataclasses.replace(config, start_from=run.uri)


def pretrained(config: TrainConfig, file: object) -> TrainConfig:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, pretrained=str(file)))


def clip_norm(config: TrainConfig, norm: Any) -> TrainConfig:
    return dataclasses.replace(config, clip=dataclasses.replace(config.clip, norm=norm))


def built(config: TrainConfig, classes: Sequence[str] = CLASSES, seed: int = 0) -> ActionModel:
    torch.manual_seed(seed)
    return build_model(config.model, num_classes=len(classes), crop=config.clip.crop)


def store_run(run: Storage, config: TrainConfig, classes: Sequence[str] = CLASSES, seed: int = 7) -> dict[str, Tensor]:
    """A finished run, written by hand; returns its weights."""
    state = built(config, classes, seed).state_dict()
    run.write(
        "run.json",
        json.dumps(
            {"config": as_dict(config), "identity": config.identity(), "manifest_digest": "d" * 64, "code_version": "v"}
        ).encode(),
    )
    run.write(
        "checkpoint_9/model.safetensors",
        safetensors.torch.save({name: value.contiguous() for name, value in state.items()}),
    )
    run.write("checkpoint_9/state.json", json.dumps({"version": 1, "classes": list(classes)}).encode())
    run.write(
        "result.json",
        json.dumps({"checkpoint": "checkpoint_9", "metrics": {}, "seconds": 1.0, "tracking_run_id": "t"}).encode(),
    )
    return state


def start_of(config: TrainConfig, classes: Sequence[str] = CLASSES) -> tuple[TrainConfig, StartWeights]:
    found, start = find_start(config, classes)
    assert start is not None
    return found, start


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    return open_storage(f"file://{tmp_path}/runs/source")


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    """Weights of the 2D twin of ``mrst()``, after ``torch.save``."""
    file = tmp_path / "weights" / "twin.pt"
    file.parent.mkdir()
    torch.save(built(mrst(unit="2D")).state_dict(), file)
    return file


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryS3]:
    server = MemoryS3()
    for name, value in {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()


class Reached(Exception):
    """Ray was asked for workers."""


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        raise Reached

    monkeypatch.setattr("jobs.train.driver.connect", connect)


def command(tiny_set: str, tmp_path: Path, *args: str) -> list[str]:
    return [
        "mrst_demo",
        "--data.uri",
        tiny_set,
        "--run.output",
        f"file://{tmp_path}/out",
        "--data.batch-size",
        "2",
        *args,
    ]


def test_a_missing_file_is_refused_before_anything_is_started(tiny_set: str, tmp_path: Path, no_ray: None) -> None:
    with pytest.raises(ConfigError, match=r"model\.pretrained = '.*none\.pt': give the path of .*does not exist"):
        train_job.main(command(tiny_set, tmp_path, "--model.pretrained", str(tmp_path / "none.pt")))
    with pytest.raises(ConfigError, match=r"start_from = 'file://.*/none': .*is not a run"):
        train_job.main(command(tiny_set, tmp_path, "--start-from", f"file://{tmp_path}/none"))
    assert not (tmp_path / "out").exists()


def test_a_file_that_does_not_fit_is_refused_before_anything_is_started(
    tiny_set: str, tmp_path: Path, no_ray: None, twin: Path
) -> None:
    with pytest.raises(ConfigError, match=r"model\.pretrained = 'file://.*twin\.pt': \S+ .*shape"):
        train_job.main(command(tiny_set, tmp_path, "--model.pretrained", str(twin)))  # of a smaller net than the demo's
    twin.write_bytes(b"<html>404</html>")
    with pytest.raises(ConfigError, match=r"twin\.pt': give an intact .safetensors or torch.save file"):
        train_job.main(command(tiny_set, tmp_path, "--model.pretrained", str(twin)))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_driver_says_what_it_starts_from_and_prepare_says_nothing(
    tiny_set: str, tmp_path: Path, no_ray: None, run: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    def lines() -> str:
        text = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("jobs"))
        caplog.clear()
        return text

    caplog.set_level(logging.INFO)
    demo = find_recipe("mrst_demo")
    config = dataclasses.replace(demo, data=dataclasses.replace(demo.data, uri=tiny_set, batch_size=2))
    train_job.prepare(config)
    assert lines() == ""
    with pytest.raises(Reached):
        train_job.main(command(tiny_set, tmp_path))
    said = lines()
    assert "an epoch: train 20 samples" in said
    assert "weights of" not in said
    store_run(run, config, classes=("a", "b"))
    with pytest.raises(Reached):
        train_job.main(command(tiny_set, tmp_path, "--start-from", run.uri))
    assert f"weights of {run.uri}/checkpoint_9/model.safetensors (sha256 " in (said := lines())
    assert "classifier initialised: that run has other classes" in said
    assert "trained otherwise" not in said
    store_run(run, dataclasses.replace(config, model=dataclasses.replace(config.model, unit="S")))
    with pytest.raises(Reached):
        train_job.main(command(tiny_set, tmp_path, "--start-from", run.uri))
    assert "fit, but were trained otherwise: model.unit T here and S there" in lines()
    config = dataclasses.replace(
        config, recipe="mrst_t4_ucf", run=dataclasses.replace(config.run, output=f"file://{tmp_path}/out")
    )
    with pytest.raises(Reached):
        train_job.train(config)
    assert (
        "this run starts from random weights; the paper's from a finished run of mrst_t3_k400, with a new classifier:"
        " --start-from RUN" in lines()
    )


def test_a_checkpoint_of_a_run_that_has_not_finished_can_be_named(run: Storage) -> None:
    store_run(run, mrst(), classes=("a", "b"))
    whole = find_start(dataclasses.replace(mrst(), start_from=run.uri), ("a", "b"))[1]
    run.delete("result.json")
    found, start = find_start(dataclasses.replace(mrst(), start_from=f"{run.uri}/checkpoint_9"), ("a", "b"))
    assert start is not None
    assert whole is not None
    assert (start.digest, start.folder, start.name) == (whole.digest, whole.folder, whole.name)
    assert found.start_from == f"{run.uri}/checkpoint_9"
    with pytest.raises(ConfigError, match="checkpoint_8"):
        find_start(dataclasses.replace(mrst(), start_from=f"{run.uri}/checkpoint_8"), ("a", "b"))


def test_the_bytes_tell_files_apart_and_not_their_places(
    twin: Path, s3: MemoryS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.objects["weights/twin.pt"] = twin.read_bytes()
    monkeypatch.chdir(twin.parent)
    found = {
        place: start_of(pretrained(mrst(), place))
        for place in (str(twin), f"file://{twin}", "twin.pt", "s3://bucket/weights/twin.pt")
    }
    digest = hashlib.sha256(twin.read_bytes()).hexdigest()
    assert {config.start_digest for config, _ in found.values()} == {digest}
    assert {config.model.pretrained for config, _ in found.values()} == {
        f"file://{twin}",
        "s3://bucket/weights/twin.pt",
    }
    assert len({default_run_id(config, "d") for config, _ in found.values()}) == 1
    monkeypatch.chdir("/")  # where workers are is not where the command was
    for config, start in found.values():
        model = first_model(config, 3, StartWeights(**dataclasses.asdict(start)))
        assert torch.equal(model.state_dict()["stem.spatial.weight"], torch.load(twin)["stem.spatial.weight"])


def test_another_file_is_another_run(twin: Path, tmp_path: Path) -> None:
    folder = open_storage(f"file://{tmp_path}/run")
    config, start = start_of(pretrained(mrst(), twin))
    first = RunRecord(config=as_dict(config), identity=config.identity(), manifest_digest="d", code_version="v")
    assert start_or_resume(folder, first) is False
    assert start_or_resume(folder, first) is True
    torch.save(built(mrst(unit="2D"), seed=1).state_dict(), twin)
    changed, _ = start_of(pretrained(mrst(), twin))
    assert default_run_id(changed, "d") != default_run_id(config, "d")
    with pytest.raises(
        ConfigError,
        match=(
            rf"model\.pretrained = 'sha256:{changed.start_digest}': run .* was started with"
            rf" 'sha256:{config.start_digest}'; give another --run.run-id"
        ),
    ):
        start_or_resume(folder, dataclasses.replace(first, identity=changed.identity()))
    with pytest.raises(
        ConfigError,
        match=(
            rf"model\.pretrained = 'file://{twin}': the file had sha256 {config.start_digest[:12]} when the run started"
            rf" and has {changed.start_digest[:12]} now"
        ),
    ):
        first_model(config, 3, start)
    twin.unlink()
    with pytest.raises(
        ConfigError,
        match=rf"model\.pretrained = 'file://{twin}': node \S+ cannot read it; put it where every node can",
    ):
        first_model(config, 3, start)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("https://x.org/w.pt", "download files from elsewhere first"),
        ("s3://bucket", "give the path of a .safetensors"),
        ("s3://bucket/", "give the path of a .safetensors"),
        ("s3://bucket/none.pt", "s3://bucket/none.pt does not exist"),
        ("s3://absent/none.pt", "bucket 'absent' does not exist"),
        ("FOLDER", "is not a file, but a folder"),
        ("FOLDER/", "is not a file, but a folder"),
    ],
)
def test_places_that_hold_no_file(place: str, message: str, tmp_path: Path, s3: MemoryS3) -> None:
    with pytest.raises(ConfigError, match=rf"model\.pretrained = .*{message}"):
        find_start(pretrained(mrst(), place.replace("FOLDER", str(tmp_path))), CLASSES)


def test_a_digest_can_be_insisted_on(twin: Path) -> None:
    config, _ = start_of(pretrained(mrst(), twin))
    assert start_of(dataclasses.replace(pretrained(mrst(), twin), start_digest=config.start_digest))[0] == config
    with pytest.raises(
        ConfigError,
        match=rf"start_digest = '00': the file of model.pretrained = 'file://{twin}' has {config.start_digest}",
    ):
        find_start(dataclasses.replace(pretrained(mrst(), twin), start_digest="00"), CLASSES)
    with pytest.raises(ConfigError, match=r"start_digest = '00': name the weights"):
        dataclasses.replace(mrst(), start_digest="00")
    with pytest.raises(ConfigError, match=r"start_from = 'r': a run starts from one file of weights"):
        dataclasses.replace(pretrained(mrst(), twin), start_from="r")


@pytest.mark.parametrize(
    "classes", [CLASSES, ("walk", "run", "jump"), ("run", "walk", "sit"), ("a", "b", "c", "d", "e")]
)
@pytest.mark.parametrize("family", [mrst, crn])
def test_the_classifier_is_kept_for_the_same_list_of_classes_alone(
    family: Any, classes: Sequence[str], run: Storage
) -> None:
    theirs = store_run(run, family())
    config, start = start_of(from_run(family(), run), classes)
    torch.manual_seed(3)
    ours = first_model(config, len(classes), start).state_dict()
    fresh = built(family(), classes, seed=3).state_dict()
    heads = {name for name in ours if name.split(".")[0] == "fc" or ".head.fc." in name}
    assert heads
    for name, value in ours.items():
        expected = fresh[name] if name in heads and classes != CLASSES else theirs[name]
        assert torch.equal(value, expected), name


def test_a_run_on_s3_and_its_copy_are_the_same_start(run: Storage, s3: MemoryS3) -> None:
    store_run(run, mrst())
    there = open_storage("s3://bucket/runs/source")
    for path in run.list():
        there.write(path, run.read(path))
    (local, _), (remote, start) = start_of(from_run(mrst(), run)), start_of(from_run(mrst(), there))
    assert local.identity() == remote.identity()
    assert local.identity()["start_from"] == f"sha256:{local.start_digest}"
    assert remote.start_from == there.uri
    assert first_model(remote, 3, start).state_dict().keys() == built(mrst()).state_dict().keys()
    assert default_run_id(local, "d") != default_run_id(mrst(), "d")


def test_runs_to_start_from_that_cannot(run: Storage, s3: MemoryS3) -> None:
    def refused(message: str, config: TrainConfig | None = None, name: str = "") -> None:
        with pytest.raises(ConfigError, match=rf"(start_from|clip\.\w+) = .*{message}"):
            find_start(dataclasses.replace(config or mrst(), start_from=name or run.uri), CLASSES)

    refused("is not a run: run.json is missing")
    refused("give the run's full URI", name="some-run")
    refused("bucket 'absent' does not exist", name="s3://absent/runs/x")
    refused("is not a run", name="s3://bucket/runs/x")
    store_run(run, mrst())
    refused(
        r"stem\.spatial\.weight has shape \(8, 3, 7, 7\) here and \(4, 3, 7, 7\) in that run;"
        r" give a run of the same model, or change this one: .*model.stem 8 here and 4 there",
        mrst(stem=8, out=(8, 8)),
    )
    refused(
        r"lstm\.weight_ih_l0 has shape \(20, 96\) here and \(20, 24\) in that run; .* clip.crop 64 here and 32 there",
        dataclasses.replace(mrst(), clip=ClipConfig(num_frames=4, crop=64)),
    )
    refused("give a run of a crn model; that one is of a mrst", crn())
    store_run(run, mrst(unit="2D"))
    refused(
        r"stem\.\S+ has shape \(4.*\), expected \(8.*\);"
        r" give a run of the same model's 2D twin, or change this one: model.out .*, model.stem 8 here and 4 there",
        mrst(stem=8, out=(8, 8)),
    )
    refused("change this one: model.layout c3d here and resnet there", mrst(layout="c3d", num_steps=8))
    refused("was trained on rgb with clip.norm imagenet: use that", clip_norm(mrst(), "caffe"))
    store_run(run, crn({"flow_std": 2.0}))
    refused("was trained on flow with clip.flow_std 2.0: use that", crn())
    store_run(run, crn({"norm": "caffe"}))
    refused("was trained on rgb with clip.norm caffe: use that", crn())
    store_run(run, crn(modalities=("flow",), partner="off"))
    refused(
        r"branches\.flow\.\S+ has shape \(.*\) in this model and is missing in that run; "
        r".*model.partner self here and off there",
        crn(modalities=("flow",), partner="self"),
    )
    run.delete("checkpoint_9/model.safetensors")
    refused("checkpoint_9/model.safetensors is missing")
    run.delete("result.json")
    refused("has not finished: run the same jobs.train command again to resume it")


@pytest.mark.parametrize("unit", ["P", "S", "T", "STF", "STD"])
@pytest.mark.parametrize("named", ["", "/checkpoint_9"])
def test_a_run_of_the_2d_twin_is_inflated(run: Storage, unit: str, named: str) -> None:
    """As its file of weights is, whatever its classes were; with a classifier, and all that it lacks, initialised."""
    theirs = store_run(run, mrst(unit="2D", num_steps=1))
    config, start = start_of(dataclasses.replace(mrst(unit=unit), start_from=f"{run.uri}{named}"))
    assert (start.field, start.digest) == (
        "start_from",
        hashlib.sha256(run.read("checkpoint_9/model.safetensors")).hexdigest(),
    )
    assert config.identity()["start_from"] == f"sha256:{start.digest}"
    assert "a 2D twin: temporal convolutions, gates, LSTM and classifier initialised" in str(start)
    torch.manual_seed(3)
    ours = first_model(config, 3, StartWeights(**dataclasses.asdict(start))).state_dict()
    fresh = built(mrst(unit=unit), seed=3).state_dict()
    shared = {name for name in theirs if not name.startswith("fc.")}
    assert shared
    for name, value in ours.items():
        assert torch.equal(value, theirs[name] if name in shared else fresh[name]), name
    file, start = start_of(pretrained(mrst(unit=unit), f"{run.uri}/checkpoint_9/model.safetensors"))
    torch.manual_seed(3)
    same = first_model(file, 3, start).state_dict()
    assert all(torch.equal(ours[name], same[name]) for name in ours)


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        (
            mrst(unit="2D", num_steps=1),
            mrst(stem_downsample="pool"),
            "model.stem_downsample pool here and stride there",
        ),
        (mrst(unit="S"), mrst(unit="T", st_relu=False), "model.unit T here and S there, model.st_relu False here and"),
        (crn(partner="self"), crn(rib_dilations=(1, 1, 1)), "model.partner other here and self there, model.rib_dil"),
        (mrst(unit="2D", num_steps=1), mrst(), ""),
        (mrst(num_steps=2, dropout=0.1), mrst(), ""),
        (crn(strategy="a"), crn(), ""),
    ],
)
def test_weights_that_fit_another_computation_are_named(
    run: Storage, theirs: TrainConfig, ours: TrainConfig, said: str
) -> None:
    store_run(run, theirs)
    _, start = start_of(from_run(ours, run))
    assert start.warning == "" if not said else f"{run.uri} fit, but were trained otherwise: {said}" in start.warning


@pytest.mark.parametrize(
    ("recipe", "twin", "said"),
    [
        ("mrst_t4_ucf", True, "the paper's from a finished run of mrst_t3_k400, with a new classifier: temporal"),
        ("mrst_t4_ucf", False, ""),
        ("mrst_t3_k400", True, ""),
        ("mrst_demo", True, ""),
    ],
)
def test_a_link_of_the_chain_that_is_left_out_is_named(recipe: str, twin: bool, said: str) -> None:
    found = short_chain(find_recipe(recipe), twin)
    assert said in found
    assert bool(found) == bool(said)


def test_a_start_near_the_twin_and_its_refusals(run: Storage) -> None:
    theirs = store_run(run, mrst(unit="2D", num_steps=1))
    config, start = start_of(from_run(mrst(start="near"), run))
    ours = first_model(config, 3, start).state_dict()
    doubled = [name for name in theirs if name.endswith("tube.spatial_bn.weight")]
    assert doubled
    assert all(torch.equal(ours[name], 2 * theirs[name]) for name in doubled)
    twin, start = start_of(from_run(mrst(unit="2D", num_steps=1), run))  # a twin goes on from a twin
    assert "including the classifier" in str(start)
    assert torch.equal(first_model(twin, 3, start).state_dict()["fc.weight"], theirs["fc.weight"])


def test_runs_of_older_code_stay_readable(run: Storage) -> None:
    config = pretrained(mrst(), "w.pt")
    fields = {name: value for name, value in as_dict(config).items() if name not in ("start_from", "start_digest")}
    identity = {**fields, "run": {"seed": 0}}
    run.write(
        "run.json",
        json.dumps({"config": fields, "identity": identity, "manifest_digest": "d", "code_version": "old"}).encode(),
    )
    assert read_run(run).train_config() == config == config_from_dict(fields)
    assert (
        not {"start_from", "start_digest"} & mrst().identity().keys()
    )  # so that the default id of a run from random weights stays


def test_who_is_told_that_weights_are_missing(run: Storage) -> None:
    assert missing_start(find_recipe("mrst_demo")) == missing_start(find_recipe("mrst_t2_k400_t")) == ""
    row = find_recipe("crn_t1_ucf_bni_rib_flow")
    assert "public ImageNet weights of BN-Inception" in missing_start(row)
    assert "--model.pretrained FILE; model.backbone_norm partial keeps the initial statistics" in missing_start(row)
    assert missing_start(pretrained(row, "w.pth")) == missing_start(from_run(row, run)) == ""
    assert "a finished run of mrst_t2_k400_stf, with a new classifier: --start-from RUN" in missing_start(
        find_recipe("mrst_t2_hmdb_stf")
    )
    assert "a finished run of mrst_imagenet_twin" in missing_start(find_recipe("mrst_t3_k400"))
