"""``--dry-run``: what a run would do, or why it is refused, for every recipe on 8 and 64 ranks; nothing is started."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from jobs.recipes import RECIPES, find_recipe
from jobs.train import command
from jobs.train.forecast import norm_warning, num_checkpoints
from pipeline.config.base import as_dict
from pipeline.config.train import TrainConfig
from pipeline.dataset.manifest import MANIFEST, read_manifest
from pipeline.errors import ConfigError, UserError
from pipeline.runs.folder import RESULT, RunRecord, default_run_id, start_or_resume
from pipeline.storage import Storage, open_storage
from pipeline.training import footprint


@pytest.fixture(scope="module")
def large_set(tiny_set: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny set with a manifest that says short side 256, so that every recipe's crop is accepted."""
    source, copy = open_storage(tiny_set), open_storage(f"file://{tmp_path_factory.mktemp('large')}/set")
    for path in source.list():
        copy.write(path, source.read(path))
    manifest = read_manifest(source)
    parameters = {**manifest.parameters, "short_side": 256}
    copy.write(MANIFEST, dataclasses.replace(manifest, parameters=parameters).to_json())
    return copy.uri


@pytest.fixture(autouse=True)
def _no_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take seconds, and tests of the footprint hold them against memory."""
    monkeypatch.setattr(footprint, "_activations_of_a_clip", lambda *_: 10**8)


@pytest.fixture(autouse=True)
def _no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a dry run starts nothing")

    for name in ("driver.connect", "driver.run_page_of"):
        monkeypatch.setattr(f"jobs.train.{name}", never)


def dry(capsys: pytest.CaptureFixture[str], recipe: str, *args: str) -> list[str]:
    assert command.main(["--dry-run", recipe, *args]) == 0
    return capsys.readouterr().out.splitlines()


def _cases() -> list:
    return [
        pytest.param(recipe, ranks, marks=[] if number % 9 == 0 else pytest.mark.slow)
        for number, (recipe, ranks) in enumerate((r, n) for r in RECIPES for n in (8, 64))
    ]


@pytest.mark.parametrize(("recipe", "ranks"), _cases())
def test_every_recipe_is_accepted_or_refused_with_the_fix(
    recipe: str, ranks: int, large_set: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    args = ["--data.uri", large_set, "--run.num-workers", str(ranks), "--run.output", f"file://{tmp_path}/runs"]
    batch = find_recipe(recipe).data.batch_size
    if batch % ranks:
        with pytest.raises(ConfigError, match=rf"data\.batch_size = {batch}: {ranks} ranks .* use (\d+)") as caught:
            dry(capsys, recipe, *args)
        larger = re.search(r"use (\d+)(?: with optim\.reference_batch (\d+))?", str(caught.value))
        assert larger is not None
        args += ["--data.batch-size", larger[1], *(["--optim.reference-batch", larger[2]] if larger[2] else [])]
        assert larger[2] == str(batch)
    lines = dry(capsys, recipe, *args)
    assert lines[0].endswith(": starts afresh")
    assert lines[1].startswith(f"ranks: {ranks}")
    assert {"an epoch", "the run", "learning rates", "checkpoints", "memory a rank (GPU)"} <= {
        line.partition(":")[0] for line in lines
    }
    few = [line for line in lines if line.startswith("warning: batch normalisation")]
    assert bool(few) == (max(batch, ranks) // ranks < 4)
    assert not (tmp_path / "runs").exists(), "nothing is written"


def test_the_rate_of_a_fresh_classifier_is_said(large_set: str, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = [line for line in dry(capsys, "mrst_t4_ucf", "--data.uri", large_set) if line.startswith("learning")]
    assert line == "learning rates: 1e-05, half a cosine down to 1e-07; 100 times that in the classifier"


@pytest.mark.parametrize(
    "recipe", [name for name, entry in RECIPES.items() if "UCF" in entry.data or "HMDB" in entry.data]
)
def test_rows_on_lists_without_validation_need_none(recipe: str) -> None:
    """The official lists of UCF-101 and HMDB-51 have training and test videos."""
    assert find_recipe(recipe).data.val_split == ""


def test_fewer_ranks_that_the_run_may_go_on_with_are_named(large_set: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Those from the least on that divide the batch of 12."""
    args = ["--data.uri", large_set, "--data.batch-size", "12", "--run.num-workers", "6"]
    named = {
        least: [line for line in dry(capsys, "rgb_demo", *args, "--run.min-workers", least) if "nodes are" in line]
        for least in ("1", "4", "6")
    }
    assert named == {
        "1": ["while nodes are missing: 4, 3, 2 or 1 ranks, the same steps in more micro-batches"],
        "4": ["while nodes are missing: 4 ranks, the same steps in more micro-batches"],
        "6": [],
    }


def test_mrst_on_64_ranks_says_what_batch_normalisation_sees(
    large_set: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = dry(capsys, "mrst_net", "--data.uri", large_set, "--run.num-workers", "64")
    (line,) = [line for line in lines if "batch normalisation" in line]
    assert line == (
        "warning: batch normalisation learns from 1 clip at a time on each rank (134 of 134 layers), and statistics of"
        " fewer than 4 are noisy: use --run.sync-batchnorm on GPUs (statistics of 64 clips), or --data.batch-size 256"
        " with --optim.reference-batch 64, or --run.num-workers 16, or --run.freeze-batchnorm where the weights are"
        " pre-trained"
    )
    for fix in (
        ["--run.sync-batchnorm"],
        ["--data.batch-size", "256", "--optim.reference-batch", "64"],
        ["--run.num-workers", "16"],
        ["--run.freeze-batchnorm"],
    ):
        fixed = dry(capsys, "mrst_net", "--data.uri", large_set, "--run.num-workers", "64", *fix)
        assert not [line for line in fixed if "batch normalisation" in line], fix


@pytest.mark.parametrize(
    ("recipe", "run", "batch", "micro", "expected"),
    [
        ("mrst_net", {"num_workers": 16}, 64, 0, ""),
        ("mrst_net", {"num_workers": 8}, 64, 2, "from 2 clips at a time .*: use --data.micro-batch 4, or --run.sync"),
        (
            "mrst_net",
            {"num_workers": 1},
            2,
            0,
            r"from 2 clips .*: use --data.batch-size 4 with --optim.ref.* 2, or --r",
        ),
        ("mrst_net", {"num_workers": 2, "sync_batchnorm": True}, 2, 0, "from 2 clips at a time over all ranks"),
        ("crn_t1_ucf_bni_rib_flow", {"num_workers": 32}, 32, 0, r"1 clip at .* \(2 of 138 layers\)"),  # partial BN
    ],
)
def test_who_is_warned(recipe: str, run: dict, batch: int, micro: int, expected: str) -> None:
    config = find_recipe(recipe)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, batch_size=batch, micro_batch=micro),
        run=dataclasses.replace(config.run, **run),
    )
    warning = norm_warning(config, 101)
    assert re.search(expected, warning), warning
    assert bool(warning) == bool(expected)


def test_large_batches_say_their_rates(large_set: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--data.uri", large_set, "--data.batch-size", "2", "--run.num-workers", "1", "--optim.reference-batch", "1"]
    lines = dry(capsys, "crn_bninception", *args)
    (line,) = [line for line in lines if line.startswith("learning rates")]
    assert line == (
        "learning rates: 0.01 rising over 50 steps to 0.02, half a cosine down to 0.0002; 0.1 times that in the"
        " backbone (those for 1 clip times 2, since the batch has 2)"
    )


@pytest.mark.parametrize(
    ("epochs", "every", "steps", "of"),
    [(5, 1, 0, 4), (5, 2, 0, 4), (4, 2, 0, 3), (3, 1, 2, 5), (3, 9, 4, 6), (2, 1, 1, 7), (4, 3, 6, 4)],
)
def test_checkpoints_are_counted_as_the_loop_writes_them(epochs: int, every: int, steps: int, of: int) -> None:
    expected = global_step = 0
    for epoch in range(1, epochs + 1):
        for step in range(1, of + 1):
            global_step += 1
            by_epoch = step == of and (epoch % every == 0 or epoch == epochs)
            expected += by_epoch or (bool(steps) and global_step % steps == 0)
    config = TrainConfig()
    config = dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, epochs=epochs),
        run=dataclasses.replace(config.run, checkpoint_epochs=every, checkpoint_steps=steps),
    )
    assert num_checkpoints(config, of) == expected


def _begin(uri: str, output: str) -> Storage:
    config = find_recipe("mrst_demo")
    manifest = read_manifest(open_storage(uri))
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, uri=uri, manifest_digest=manifest.digest)
    )
    run = open_storage(f"{output}/{default_run_id(config, manifest.digest)}")
    start_or_resume(
        run,
        RunRecord(
            config=as_dict(config), identity=config.identity(), manifest_digest=manifest.digest, code_version="v"
        ),
    )
    return run


def test_a_run_that_exists_is_named_and_compared(
    large_set: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = f"file://{tmp_path}"
    run = _begin(large_set, output)
    args = ["--data.uri", large_set, "--run.output", output]
    assert (
        dry(capsys, "mrst_demo", *args)[0]
        == f"run {run.uri.rsplit('/', 1)[1]} in {run.uri}: goes on from its newest checkpoint"
    )
    other = ["--run.run-id", run.uri.rsplit("/", 1)[1], "--optim.ema-decay", "0.9"]
    with pytest.raises(UserError, match=r"optim\.ema_decay = 0\.9: run .* was started with 0\.0"):
        dry(capsys, "mrst_demo", *args, *other)
    run.write(RESULT, b"{}")
    assert dry(capsys, "mrst_demo", *args)[0].endswith("has finished, there is nothing to do")
    assert sorted(run.list()) == ["result.json", "run.json"], "nothing is written"
