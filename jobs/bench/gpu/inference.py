"""Frames a second of CRN on RGB and RGB differences, against the 200 of the paper's Table 6 (GTX 1080)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from jobs.bench.gpu.settings import Row, Settings, guarded
from jobs.bench.gpu.timing import profiled, seconds
from jobs.bench.models.gpu import PAPER_FRAMES_PER_S
from jobs.recipes.crn import paper_crn
from pipeline.models import branch_probabilities, build_model, fuse
from pipeline.models.precision import autocast


def measure(settings: Settings) -> Iterator[Row]:
    """Both backbones, one clip and many, launched kernel by kernel and out of a graph."""
    if settings.tiny:
        cases = [("bni", 1, False), ("bni", 1, True)]
    else:
        cases = [(b, n, g) for b in ("bni", "v3") for n, g in ((1, False), (1, True), (16, False), (16, True))]
    for backbone, clips, graph in cases:
        name = f"{backbone} rgb+diff, {clips} clips{', graph' if graph else ''}"
        yield from guarded(settings, name, lambda b=backbone, n=clips, g=graph: _infer(settings, b, n, g))


@torch.inference_mode()
def _infer(settings: Settings, backbone: str, clips: int, graph: bool) -> Row:
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    config = paper_crn("ucf", backbone, ("rgb", "diff"))
    model_config, crop = config.model, config.clip.crop
    if settings.tiny:
        model_config, crop = dataclasses.replace(model_config, width=0.1, hidden=8, adapted=8, num_steps=3), 64
    with torch.device(settings.device):
        model = build_model(model_config, num_classes=101, crop=crop).eval()
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    inputs = {
        m: torch.randn(clips, model.num_steps, crop, crop, model.channels[m], device=settings.device).permute(
            0, 1, 4, 2, 3
        )
        for m in model.modalities
    }

    def run() -> torch.Tensor:
        with autocast("bf16", settings.device):
            return fuse(branch_probabilities(model(inputs)))

    work = run
    if graph and settings.cuda:
        for _ in range(3):
            run()
        torch.cuda.synchronize()
        recording = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recording):
            run()
        work = recording.replay
    s = seconds(work, settings)
    frames = clips * model.num_steps / s
    return {
        "ms": 1000 * s,
        "frames_per_s": frames,
        "times_the_paper": frames / PAPER_FRAMES_PER_S,
        **profiled(work, settings),
    }
