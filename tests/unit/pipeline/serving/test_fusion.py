"""Models with one head for several modalities: their only stream is "fused", from evaluation to the registered
model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from jobs.evaluate.command import print_report
from pipeline.config.base import as_dict
from pipeline.data.loader import make_loader
from pipeline.dataset.manifest import read_manifest, read_records
from pipeline.evaluation.evaluate import join_parts, predict_part
from pipeline.evaluation.plots import plot_confusion
from pipeline.evaluation.predictions import read_predictions, write_predictions
from pipeline.evaluation.report import EvalReport, compare
from pipeline.models import build_model
from pipeline.serving.predictor import load_predictor, pack
from pipeline.storage import open_storage
from tests.support.finished_run import small_crn


@pytest.mark.parametrize("fusion", ["early", "late"])
@pytest.mark.slow
def test_a_fused_score_goes_the_whole_way(
    fusion: Any, tiny_set: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = open_storage(tiny_set)
    manifest = read_manifest(storage)
    config, weights = small_crn(tiny_set, partner="off", rib="none", fusion=fusion)
    model = build_model(config.model, num_classes=4, crop=32)
    model.load_state_dict(weights)
    with make_loader(
        storage,
        manifest,
        "test",
        data=config.data,
        clip=config.clip,
        modalities=("rgb", "flow"),
        train=False,
        seed=0,
        num_views=2,
    ) as loader:
        records = [s for record in read_records(storage, manifest, "test") for s in record.samples]
        batches = list(loader.iter_epoch(0))
    found = join_parts([predict_part(model, batches, device=torch.device("cpu"))], {r.key: r.label for r in records})

    # By hand: softmax of the model's one output, mean over a video's views.
    by_hand: dict[str, list[np.ndarray]] = {}
    model.eval()
    for batch in batches:
        with torch.inference_mode():
            (output,) = model(batch.inputs).values()
        for key, logits in zip(batch.keys, output[:, -1].double().numpy(), strict=True):
            if key:
                by_hand.setdefault(key, []).append(np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum())
    assert list(found.branches) == ["fused"]
    np.testing.assert_allclose(found.streams["fused"], [np.mean(by_hand[key], axis=0) for key in found.keys], atol=1e-6)
    assert found.streams["fused"].std(0).max() > 0.01, "the model answers the same for all videos"

    digest = write_predictions(found, tmp_path / "p.npz")
    assert read_predictions((tmp_path / "p.npz").read_bytes(), digest).scores() == found.scores()
    report = EvalReport(
        run_id="r",
        model=fusion,
        modalities=("rgb", "flow"),
        dataset="d",
        manifest_digest=manifest.digest,
        split="test",
        protocol="2x1",
        num_videos=len(found.keys),
        num_damaged=0,
        classes=manifest.classes,
        scores=found.scores(),
        per_class=tuple(found.per_class()),
        confusion=tuple(tuple(map(int, row)) for row in found.confusion()),
        checkpoint="c",
        code_version="v",
        seconds=1.0,
        predictions=digest,
    )
    assert EvalReport.from_json(report.to_json()) == report
    assert report.branches == ("fused",)
    assert set(report.metrics()) == {"test/top1_2x1", "test/top5_2x1", "test/mean_class_2x1"}
    assert compare(report, None).promote
    plot_confusion(report, tmp_path / "c.png")
    print_report(report)
    assert capsys.readouterr().out.count("fused") == 1

    safetensors.torch.save_file(model.state_dict(), tmp_path / "raw.safetensors")
    state = {
        "config": as_dict(config),
        "classes": list(manifest.classes),
        "stored": manifest.parameters,
        "manifest_digest": manifest.digest,
        "run_id": "r",
    }
    pack(tmp_path, tmp_path / "raw.safetensors", state, num_views=2)
    predictor = load_predictor(tmp_path)
    raw = Path(tiny_set.removeprefix("file://")).parent / "raw" / "videos"
    fused = dict(zip(found.keys, found.streams["fused"], strict=True))
    for r in records:
        answer = predictor.answer((raw / r.source).read_bytes())
        np.testing.assert_allclose(answer.probabilities_N, fused[r.key], atol=1e-6)
