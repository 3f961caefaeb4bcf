"""How long a checkpoint of 400 MB holds up training while it travels to a store that takes 100 MB/s.

    python -m tests.integration.checkpoint_share                    # about five minutes; by hand
    python -m tests.integration.checkpoint_share --megabytes 40 --pairs 1

Training is a loop of matrix products of one thread, with the weights and Adam's state of the given size. The store is
an S3 server in memory behind the fault proxy as a slow line, both in a process of their own. In turns: so many steps
without a checkpoint, with one in the background, and with one that is waited for.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection

import torch

from pipeline.checkpoints.record import Position
from pipeline.checkpoints.store import CheckpointStore
from pipeline.config.train import TrainConfig
from pipeline.storage import open_storage
from pipeline.training.ask import never
from pipeline.training.checkpoint import RunFacts, snapshot
from pipeline.training.saving import Saver
from tests.support.fault_proxy import FaultProxy, Faults
from tests.support.memory_s3 import MemoryS3

FACTS = RunFacts(
    config=TrainConfig(), manifest_digest="d", dataset="set", classes=("a",), stored={}, code_version="1", run_id="r"
)
EVERY_S = 600.0  # run.checkpoint_minutes


def _serve(bytes_per_s: float, answer: Connection) -> None:
    server = MemoryS3()
    with FaultProxy(server.endpoint, Faults(upload_bytes_per_s=bytes_per_s)) as proxy:
        answer.send(proxy.endpoint)
        answer.recv()


class Training:
    """Steps of a model with a state of so many bytes; a third is its weights."""

    def __init__(self, state_bytes: int) -> None:
        torch.manual_seed(0)
        width, number = 1024, max(1, round(state_bytes / 3 / (4 * 1024 * 1024)))
        self.model = torch.nn.ModuleList(torch.nn.Linear(width, width, bias=False) for _ in range(number))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda _: 1.0)
        self.inputs = torch.randn(64, width)

    def step(self) -> None:
        self.optimizer.zero_grad()
        sum(layer(self.inputs).square().mean() for layer in self.model).backward()  # type: ignore[union-attr]
        self.optimizer.step()


def measure(training: Training, saver: Saver, steps: int, save: str, number: int) -> tuple[float, float]:
    """Seconds of so many steps, a checkpoint after the first included, and of these the seconds in ``Saver.save``."""
    start_s, held_s = time.perf_counter(), 0.0
    for step in range(steps):
        training.step()
        if step == 0 and save:
            before_s = time.perf_counter()
            parts = [
                lambda copies: snapshot(
                    copies, training.model, training.optimizer, training.scheduler, Position(), FACTS, {}
                )
            ]
            saver.save(Position(global_step=number), {}, parts, wait=save == "waited for")
            held_s = time.perf_counter() - before_s
    return time.perf_counter() - start_s, held_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=400.0, help="of the state")
    parser.add_argument("--megabytes-per-s", type=float, default=100.0, help="that the store takes")
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(args.megabytes_per_s * 1e6, theirs), daemon=True)
    server.start()
    os.environ.update(AWS_ENDPOINT_URL=ours.recv(), AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_REGION="x")
    training = Training(int(args.megabytes * 1e6))
    saver = Saver(CheckpointStore(open_storage("s3://bucket/run"), keep=1), 0, minutes=0, ask=never)
    measure(training, saver, 3, "waited for", 0)  # memory, connections
    start_s = time.perf_counter()
    training.step()
    travel_s = args.megabytes / args.megabytes_per_s
    steps = max(4, int(3 * travel_s / (time.perf_counter() - start_s)))  # the checkpoint arrives within them
    seconds: dict[str, list[tuple[float, float]]] = {}
    for number in range(args.pairs):
        for save in ("", "in the background", "waited for"):
            seconds.setdefault(save, []).append(measure(training, saver, steps, save, 1 + number))
            saver.finish()
    plain_s = statistics.median(whole for whole, _ in seconds[""])
    print(f"{steps} steps, {args.megabytes:.0f} MB, {args.megabytes_per_s:.0f} MB/s, medians of {args.pairs}")
    for save in ("in the background", "waited for"):
        held_s = statistics.median(held for _, held in seconds[save])
        extra_s = statistics.median(
            whole - plain for (whole, _), (plain, _) in zip(seconds[save], seconds[""], strict=True)
        )
        share, whole = 100 * held_s / EVERY_S, 100 * extra_s / EVERY_S
        print(f"{save}: holds up the loop {held_s:.2f} s, {share:.3f} % of 10 minutes")
        print(f"    with the steps that it slows down {extra_s:.2f} s, {whole:.3f} % ({extra_s / plain_s:.2f} of them)")
    ours.send(None)
    server.join()


if __name__ == "__main__":
    main()
