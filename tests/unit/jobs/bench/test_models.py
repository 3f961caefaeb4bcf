"""The bench of the models: its counts against sums by hand, what it writes, what it judges and refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from jobs.bench.command import main
from jobs.bench.models import command as bench_models
from jobs.bench.models import gpu as on_gpu
from jobs.bench.models import subjects as subjects_of
from jobs.bench.models import timing as bench_models_time
from jobs.bench.models.networks import Subject, count, step_loss
from jobs.bench.models.subjects import SUBJECTS, find_subjects
from jobs.bench.models.timing import Comparison, compare, peak_memory_mb, relative
from pipeline.config.model import CRNConfig, MRSTConfig
from pipeline.errors import ConfigError, UserError

SMALL_MRST = MRSTConfig(unit="T", blocks=(1, 1), mid=(8, 8), out=(16, 24), stem=8, lstm=16, num_steps=8)
SMALL_CRN = CRNConfig(width=0.1, backbone_stages=3, hidden=8, adapted=8, num_steps=3, stack=2)
ROW_KEYS = {
    "name",
    "params",
    "paper_params",
    "gflop",
    "paper_gflop",
    "literal_ms",
    "fast_ms",
    "speedup",
    "max_abs_diff",
    "literal_peak_mb",
    "fast_peak_mb",
}


def named(name: str) -> Subject:
    return next(s for s in SUBJECTS if s.name == name)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> tuple[Subject, ...]:
    """The subcommand on networks of a thousandth of the size."""
    small = (
        Subject("small MRST", SMALL_MRST, 96, 5, timed=True, min_speedup=1e-6, paper_params=1e6, why="it is small"),
        Subject("small CRN, recurrent part", SMALL_CRN, 96, 5, "recurrent", timed=True),
        Subject("small C3D", MRSTConfig(layout="c3d", unit="C3D", c3d_out=(4,) * 8, c3d_fc=8), 96, 5),
    )
    monkeypatch.setattr(subjects_of, "SUBJECTS", small)
    return small


@pytest.mark.slow
def test_parameters_and_flops_of_mrst_net() -> None:
    """By hand: 36 690 064 weights in products, 63 104 of BN; 98.91 GFLOP on maps, of which P needs 75.91 and T
    87.41.
    """
    literal, fast = count(named("MRST-Net, units T"), True), count(named("MRST-Net, units T"), False)
    assert literal[0] == fast[0] == 36_690_064 + 63_104
    assert literal[1] == pytest.approx(98.91, abs=0.01)
    assert fast[1] == pytest.approx(87.41, abs=0.01)
    assert count(named("MRST-Net, units P"), False)[1] == pytest.approx(75.91, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reading", "more", "literal", "fast"),
    [
        ("BN in the gates", 8 * 5_632, 98.91, 98.91),  # 5632: channels of all 34 tubes
        ("biases in the gates", 4 * 5_632, 98.91, 87.41),
        ("pool in conv1", 0, 110.9, 99.4),
        ("pool in conv1, projected shortcuts", 173_824, 113.4, 101.9),
        ("without LSTM", 1024 * 400 - 12_591_104, 98.51, 87.01),
    ],
)
def test_counts_of_the_readings(reading: str, more: int, literal: float, fast: float) -> None:
    """Parameters more than T units have; GFLOP: at stride 1 the S and T of conv1 take 4 times their 4.008, and nothing
    else changes.
    """
    subject = named(f"MRST-Net, units T, {reading}")
    assert count(subject, False)[0] == 36_753_168 + more
    assert count(subject, True)[1] == pytest.approx(literal, abs=0.06)
    assert count(subject, False)[1] == pytest.approx(fast, abs=0.06)


@pytest.mark.parametrize(
    ("name", "million", "gflop"),
    [
        ("CRN RIB, BN-Inception at 224, recurrent part", 92.39, 2 * 45.2),
        ("CRN RIB, Inception v3 at 299, recurrent part", 93.44, 2 * 59.7),
        ("CRN RIB, Inception v3 at 224, recurrent part", 93.44, 2 * 23.3),
        ("N-CRN with RIB, BN-Inception at 224, recurrent part", 92.39, 2 * 45.2),
    ],
)
def test_the_recurrent_part_is_what_lies_behind_the_backbones(name: str, million: float, gflop: float) -> None:
    """Sums over RIB, RAB and layers by hand. At the first step there is no partner state; and only the literal path
    multiplies its zero states (4 % in all).
    """
    params, fast = count(named(name), False)
    _, literal = count(named(name), True)
    assert params / 1e6 == pytest.approx(million, abs=0.006)
    assert literal == pytest.approx(gflop, rel=0.02)
    assert 0.935 * gflop < fast < 0.96 * literal


def test_c3d_has_its_published_size() -> None:
    assert count(named("C3D"), False)[0] * 4 / 1e6 == pytest.approx(320.0, abs=0.05)


@pytest.mark.slow
def test_both_paths_are_compared_on_the_same_weights(small: tuple[Subject, ...]) -> None:
    torch.set_num_threads(1)
    for subject in small[:2]:
        taken = compare(subject, rounds=1)
        assert taken.max_abs_diff is not None
        assert taken.relative_diff is not None
        assert taken.gradient_relative_diff is not None
        assert 0 <= taken.relative_diff < 1e-4
        assert 0 < taken.gradient_relative_diff < 1e-3
        assert taken.speedup == pytest.approx(taken.literal_ms / taken.fast_ms)  # type: ignore[operator]
    alone = compare(small[2].scaled(0.1), rounds=1)
    assert (alone.literal_ms, alone.speedup, alone.max_abs_diff) == (None, None, None)
    assert alone.fast_ms > 0


@pytest.mark.slow
def test_gradients_that_differ_are_held_against_float64(
    small: tuple[Subject, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    calm = compare(small[1], rounds=1)
    assert (calm.fast_gradient_error, calm.literal_gradient_error) == (None, None)
    monkeypatch.setattr(bench_models_time, "TOLERANCE", 0.0)
    taken = compare(small[1], rounds=1)
    assert taken.float64_gradient_relative_diff is not None
    assert taken.float64_gradient_relative_diff < 1e-12
    errors = taken.fast_gradient_error, taken.literal_gradient_error
    assert all(error is not None and 1e-8 < error < 1e-4 for error in errors)
    # three gradients make a triangle
    assert taken.gradient_relative_diff <= sum(errors) * (1 + 1e-3)  # type: ignore[operator, arg-type]


def test_relative_is_a_norm_over_all_tensors() -> None:
    true = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    assert relative([torch.tensor([3.0, 0.3]), torch.tensor([[4.4]])], true) == pytest.approx(0.5 / 5, rel=1e-6)


def test_step_loss_by_hand(small: tuple[Subject, ...]) -> None:
    model = small[1].build(literal=False, device="cpu")
    inputs = small[1].inputs(model, 2, "cpu")
    outputs: list[torch.Tensor] = []
    loss = step_loss(model, inputs, outputs)
    drawn = model.draw_steps(torch.Generator().manual_seed(0))
    assert [tuple(o.shape) for o in outputs] == [(2, len(drawn), 5)] * 2
    expected = sum(F.cross_entropy(o.flatten(0, 1), torch.zeros(2 * len(drawn), dtype=torch.long)) for o in outputs)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_scaling_keeps_widths_and_full_size_is_untouched() -> None:
    full = named("MRST-Net, units T")
    assert full.scaled(1) is full
    half = full.scaled(0.5)
    assert (half.model.num_steps, half.crop) == (8, 128)
    assert dataclasses.replace(half.model, num_steps=16) == full.model  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_result_file_holds_every_figure_and_its_setting(
    small: tuple[Subject, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models.json"
    assert main(["models", "--json", str(out), "--rounds", "1", "--threads", "1", "--skip", "memory", "gpu"]) == 0
    result = json.loads(out.read_text())
    assert {"hardware", "versions", "commit", "threads", "scale", "flop_per_multiply_add", "rows", "missed"} <= set(
        result
    )
    assert [row["name"] for row in result["rows"]] == [s.name for s in small]
    for row in result["rows"]:
        assert set(row) >= ROW_KEYS
    mrst, crn, c3d = result["rows"]
    assert mrst["speedup"] == pytest.approx(mrst["literal_ms"] / mrst["fast_ms"])
    assert mrst["bound"] == pytest.approx(mrst["gflop"] / mrst["fast_gflop"])
    assert mrst["bound"] > 1
    assert crn["max_abs_diff"] is not None
    assert (c3d["fast_ms"], mrst["fast_peak_mb"]) == (None, None)
    shown = capsys.readouterr().out
    assert "small CRN, recurrent part" in shown
    assert "it is small" in shown


@pytest.mark.slow
def test_the_peak_is_that_of_a_process_of_its_own() -> None:
    """A wide first layer's maps are known: 8 frames of 48 x 48 pixels and 256 maps in fp32 are 19 MB, kept more
    than ten times over.
    """
    thin = Subject("thin", SMALL_MRST, 96, 5)
    wide = dataclasses.replace(thin, model=dataclasses.replace(SMALL_MRST, stem=256, out=(256, 256)))
    ballast = torch.ones(300_000_000, dtype=torch.uint8)  # of this process, not of that
    first, second = peak_memory_mb(thin, False, 1), peak_memory_mb(wide, False, 1)
    assert first is not None
    assert second is not None
    assert ballast.numel() == 300_000_000
    assert second[0] - first[0] > 5 * 18.9
    assert first[0] > first[1] > 50


def test_what_must_hold_is_judged_at_full_size() -> None:
    subject = Subject("x", SMALL_MRST, 96, 5, min_speedup=1.2, less_memory=True)
    row = {
        "name": "x",
        "speedup": 1.19,
        "fast_peak_mb": 10.0,
        "literal_peak_mb": 10.0,
        "relative_diff": 1e-5,
        "gradient_relative_diff": 1e-5,
    }
    assert [line.split(":")[1].split()[0] for line in bench_models.missed(subject, row, 1)] == ["speed-up", "peak"]
    assert bench_models.missed(subject, row, 0.5) == []
    assert bench_models.missed(subject, {**row, "speedup": 1.2, "fast_peak_mb": 9.0}, 1) == []
    assert bench_models.missed(subject, {**row, "speedup": None, "fast_peak_mb": None}, 1) == []
    assert "scores differ by 0.001" in bench_models.missed(subject, {**row, "relative_diff": 1e-3}, 0.5)[0]
    apart = {**row, "speedup": 1.2, "fast_peak_mb": 9.0, "gradient_relative_diff": 3e-4}
    assert bench_models.missed(subject, {**apart, "float64_gradient_relative_diff": 1e-12}, 1) == []
    assert (
        "gradients differ by 0.0003, in float64 by 2e-07"
        in bench_models.missed(subject, {**apart, "float64_gradient_relative_diff": 2e-7}, 1)[0]
    )
    required = {s.name: s.min_speedup for s in SUBJECTS if s.min_speedup}
    assert required["MRST-Net, units P"] == 1.2
    assert required["MRST-Net, units T"] == 1.1
    assert {minimum for name, minimum in required.items() if name.startswith("CRN")} == {1.15}


def test_a_miss_is_exit_code_1(small: tuple[Subject, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_models, "compare", lambda subject, rounds: Comparison(1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.0))
    args = ["models", "--json", str(tmp_path / "x.json"), "--skip", "memory", "gpu", "--only", "MRST"]
    assert main(args) == 1
    assert "scores differ by 0.5" in json.loads((tmp_path / "x.json").read_text())["missed"][0]


@pytest.mark.slow
def test_gpu_rows_on_the_cpu(small: tuple[Subject, ...]) -> None:
    """The same code with a CPU for a device, not compiled: figures follow from one another."""
    crn = Subject("small CRN", SMALL_CRN, 64, 5)
    cpu = torch.device("cpu")
    row = on_gpu._guarded(on_gpu._train, crn, cpu, 2, 1, False, 1e12)
    assert row["error"] is None
    assert row["clips_per_s"] == pytest.approx(2000 / row["ms_per_step"])
    assert row["share_of_matrix_rate"] == pytest.approx(row["tflops"])
    assert row["tflops"] == pytest.approx(on_gpu.flop_of_step(crn) * row["clips_per_s"] / 1e12)
    seen = on_gpu._guarded(
        on_gpu._infer,
        dataclasses.replace(crn, model=dataclasses.replace(SMALL_CRN, modalities=("rgb", "diff"))),
        cpu,
        2,
        1,
        False,
        1e12,
    )
    assert seen["frames_per_s"] == pytest.approx(2 * 3 * 1000 / seen["ms_per_batch"])
    assert seen["times_the_paper"] == pytest.approx(seen["frames_per_s"] / 200)
    forward = count(crn, False)[1] * 1e9
    assert (
        2 * forward < on_gpu.flop_of_step(crn) < 3.2 * forward
    )  # backward is twice a forward, but for the first layer's inputs


def test_a_failure_is_told_in_its_row_and_memory_halves_the_batch() -> None:
    tried: list[int] = []

    def hungry(subject: Subject, device: torch.device, batch: int, *_: object) -> dict:
        tried.append(batch)
        if batch > 2:
            raise torch.OutOfMemoryError("no room")
        return {"clips_per_s": 1.0}

    def broken(*_: object) -> dict:
        raise RuntimeError("no such kernel\nand more")

    subject, cpu = Subject("x", SMALL_CRN, 64, 5), torch.device("cpu")
    row = on_gpu._guarded(hungry, subject, cpu, 8, 1, False, 1.0)
    assert (tried, row["batch"], row["clips_per_s"]) == ([8, 4, 2], 2, 1.0)
    assert on_gpu._guarded(broken, subject, cpu, 8, 1, True, 1.0)["error"] == "RuntimeError: no such kernel"


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])  # minutes of compiling
def test_gpu_rows_on_a_gpu(compiled: bool) -> None:
    small = (Subject("small CRN", SMALL_CRN, 64, 5), Subject("small MRST", SMALL_MRST, 96, 5))
    result = on_gpu.gpu_rows(torch.device("cuda", 0), 2, 2, small, matrix_side=1024, compiled=(compiled,))
    assert [row["error"] for row in (*result["training"], *result["inference"])] == [None] * (2 + 2)
    assert all(0 < row["share_of_matrix_rate"] < 1 for row in result["training"])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--scale", "0"], r"scale = 0.*\(0, 1\]"),
        (["--scale", "2"], r"scale = 2"),
        (["--rounds", "0"], r"rounds = 0: must be at least 1"),
        (["--threads", "-1"], r"threads = -1"),
        (["--only", "VGG"], r"only = 'VGG': use a part of one of: MRST-Net"),
        (["--json", "no/folder/x.json"], r"json = .*create it first"),
    ],
)
def test_wrong_input_is_refused(words: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, UserError), match=text):
        main(["models", "--json", "x.json", *words])
    assert not (tmp_path / "x.json").exists()


def test_subjects_are_found_by_part_of_a_name() -> None:
    assert {"MRST-Net, units P", "C3D", "STD in C3D's layout"} < {s.name for s in find_subjects(["C3D", "units P"])}
    assert len(find_subjects([])) == len(SUBJECTS) == len({s.name for s in SUBJECTS})
