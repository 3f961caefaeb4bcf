"""CUDA graphs of a step: the same losses as without, with a loader's thread at work on the same device."""

from __future__ import annotations

import threading

import pytest
import torch

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig, MRSTConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig
from pipeline.data.batch import Batch
from pipeline.models import build_model
from pipeline.training.optim import build_optimizer, build_scheduler
from pipeline.training.passes import EagerPasses
from pipeline.training.recorded import RecordedPasses
from pipeline.training.step import Stepper, move_to

CRN = CRNConfig(width=0.25, backbone_stages=3, hidden=16, adapted=16, num_steps=4, dropout=0.5)
MRST = MRSTConfig(blocks=(1,), mid=(8,), out=(16,), stem=8, num_steps=4, lstm=16, dropout=0.5)


def losses(model_config: CRNConfig | MRSTConfig, recorded: bool, micro_batch: int) -> list[float]:
    """Of 8 steps of 4 clips."""
    config = TrainConfig(
        model=model_config,
        clip=ClipConfig(num_frames=4, crop=32, resize=32),
        data=DataConfig(batch_size=4, micro_batch=micro_batch),
        optim=OptimConfig(name="sgd", lr=1e-2, backbone_lr=1e-2, warmup_steps=0),
        run=RunConfig(precision="fp32", cuda_graph=recorded),
    )
    device = torch.device("cuda")
    torch.manual_seed(0)
    model = build_model(config.model, num_classes=5, crop=32).train()
    move_to(device, model)
    optimizer = build_optimizer(model, config)
    passes = RecordedPasses(model, config, device) if recorded else EagerPasses(model, config, device)
    stepper = Stepper(passes, model, optimizer, build_scheduler(optimizer, config, 100), config, device)
    random, size = torch.Generator().manual_seed(1), micro_batch or 4
    found = []
    for step in range(8):
        for number in range(4 // size):
            inputs = {
                m: torch.randn(size, 4, 32, 32, model.channels[m], generator=random).to(device).permute(0, 1, 4, 2, 3)
                for m in model.modalities
            }
            labels = torch.randint(5, (size,), generator=random).to(device)
            keys = tuple(f"{step}.{number}.{i}" for i in range(size))
            weights = torch.ones(size, device=device)
            stepper(Batch(inputs, labels, weights, keys, 0, step, number, 4 // size, number * size), step)
        stepper.settle()
        found.append(stepper.sums.means()["loss"])
    return found


@pytest.mark.gpu
@pytest.mark.parametrize("micro_batch", [0, 2])
@pytest.mark.parametrize("model", [CRN, MRST], ids=["CRN", "MRST"])
def test_replayed_steps_have_the_losses_of_plain_ones(model: CRNConfig | MRSTConfig, micro_batch: int) -> None:
    stop = threading.Event()

    def load() -> None:
        stream = torch.cuda.Stream()
        while not stop.is_set():
            with torch.cuda.stream(stream):
                torch.empty(1 << 16).pin_memory().to("cuda", non_blocking=True)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        plain, recorded = losses(model, False, micro_batch), losses(model, True, micro_batch)
    finally:
        stop.set()
        thread.join()
    assert len(set(plain)) == 8
    assert recorded == pytest.approx(plain, rel=2e-3)
