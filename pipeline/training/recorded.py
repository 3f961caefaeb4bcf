"""Passes that are recorded once and replayed: CUDA graphs.

With few clips a rank a GPU waits for the host, which starts thousands of kernels a step. A graph starts them in one
call. What it reads and writes has to lie where it lay when it was recorded: each batch is copied to a place of its own,
gradients are views of one buffer that stays, and ranks add that buffer up themselves, because
DistributedDataParallel's exchange would be part of the graph.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
import torch.distributed as dist

from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch
from pipeline.models import ActionModel
from pipeline.models.precision import autocast
from pipeline.training.collective import sum_over_ranks, world_size
from pipeline.training.passes import judged

_WARM_UP = 3  # passes before one is recorded: cuDNN chooses its algorithms, Triton compiles, libraries allocate
_ALIGNED = 64  # numbers from one gradient's place to the next: kernels read 16 bytes at a time


class Recorder(Protocol):
    """Where passes run."""

    def aside(self) -> contextlib.AbstractContextManager[object]:
        """Around passes that warm up."""
        ...

    def record(self, passes: Callable[[], None]) -> Callable[[], None]:
        """What replays ``passes``; it may or may not run them once."""
        ...


class CudaRecorder:
    """CUDA graphs, which share one pool of memory, since no two of them run at once."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """On another stream, as torch asks of passes before a recording."""
        here, other = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)
        other.wait_stream(here)
        with torch.cuda.stream(other):
            yield
        here.wait_stream(other)

    def record(self, passes: Callable[[], None]) -> Callable[[], None]:
        """Nothing is computed yet. Other threads, such as the loader's, may go on using the device."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            passes()
        return graph.replay


class DirectRecorder:
    """Runs the passes again at each replay: what a recording must do, on any device."""

    def aside(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def record(self, passes: Callable[[], None]) -> Callable[[], None]:
        return passes


@dataclasses.dataclass
class _Place:
    """Where the batches of one shape lie for their recording, and its results."""

    batch: Batch
    drawn: torch.Tensor
    loss: torch.Tensor
    correct: torch.Tensor
    known: tuple[int, ...] = ()
    """The steps that ``drawn`` has."""
    replay: Callable[[], None] | None = None

    def take(self, batch: Batch, drawn: tuple[int, ...]) -> None:
        for name, x in batch.inputs.items():
            self.batch.inputs[name].copy_(x)
        self.batch.labels.copy_(batch.labels)
        self.batch.weights.copy_(batch.weights)
        if self.known != drawn:
            host = torch.tensor(drawn)
            # A copy from ordinary memory would wait for the device.
            self.drawn.copy_(host.pin_memory() if self.drawn.is_cuda else host, non_blocking=True)
            self.known = drawn


class RecordedPasses:
    """Passes of the bare model.

    Args:
        model: on ``device``, equal on all ranks.
        recorder: by default CUDA graphs on a GPU, and none elsewhere.
    """

    def __init__(
        self, model: ActionModel, config: TrainConfig, device: torch.device, recorder: Recorder | None = None
    ) -> None:
        self._model, self._config, self._device = model, config, device
        self._recorder = recorder or (CudaRecorder(device) if device.type == "cuda" else DirectRecorder())
        self._size = torch.tensor(float(config.data.batch_size), device=device)
        self._places: dict[tuple[int, ...], _Place] = {}
        self._gradients: list[torch.Tensor] = []
        if world_size() > 1:
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.detach(), src=0)

    def begin(self) -> None:
        """See ``Passes``."""
        for buffer in self._gradients:
            buffer.zero_()

    def __call__(self, batch: Batch, drawn: tuple[int, ...], *, last: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Passes``.

        Raises:
            ValueError: the clips are not what the model takes.
        """
        self._model.check_inputs(batch.inputs, side=getattr(self._model, "crop", None))
        shape = (len(batch), len(drawn), *next(iter(batch.inputs.values())).shape[3:])
        place = self._places.get(shape)
        if place is None:
            place = self._places[shape] = self._make_place(batch, drawn)
        place.take(batch, drawn)
        if place.replay is None:
            self._record(place)
        assert place.replay is not None
        place.replay()
        if last:
            for buffer in self._gradients:
                sum_over_ranks(buffer)
        return place.loss, place.correct

    def _make_place(self, batch: Batch, drawn: tuple[int, ...]) -> _Place:
        zero = torch.zeros((), device=self._device)
        same = {name: torch.empty_like(x) for name, x in batch.inputs.items()}
        own = dataclasses.replace(
            batch, inputs=same, labels=torch.empty_like(batch.labels), weights=torch.empty_like(batch.weights)
        )
        return _Place(own, torch.zeros(len(drawn), dtype=torch.int64, device=self._device), zero, zero.clone())

    def _record(self, place: _Place) -> None:
        """Record the passes; running statistics, random numbers and gradients are afterwards as they were."""
        changed = [*self._model.buffers(), *self._gradients]
        before = [tensor.clone() for tensor in changed]
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            with self._recorder.aside():
                for _ in range(_WARM_UP):
                    self._pass(place)
            if not self._gradients:
                self._gradients = _joined(self._model)
            place.replay = self._recorder.record(lambda: self._pass(place))
        with torch.no_grad():
            for tensor, then in zip(changed, before, strict=True):
                tensor.copy_(then)

    def _pass(self, place: _Place) -> None:
        batch = place.batch
        with autocast(self._config.run.precision, self._device):
            outputs = self._model.scores(batch.inputs, place.drawn)
        loss, correct = judged(outputs, batch.labels, batch.weights, self._size, self._config)
        loss.backward()
        place.loss.copy_(loss.detach())
        place.correct.copy_(correct)


def _joined(model: torch.nn.Module) -> list[torch.Tensor]:
    """Give every parameter that has a gradient a place for it in one buffer a dtype, laid out as the parameter; the
    buffers, full of zeros.
    """
    buffers, places = [], {}
    for parameter in model.parameters():
        if parameter.grad is not None:
            places.setdefault(parameter.dtype, []).append(parameter)
    for dtype, parameters in places.items():
        starts, total = [], 0
        for parameter in parameters:
            starts.append(total)
            total += -(-parameter.numel() // _ALIGNED) * _ALIGNED
        buffer = torch.zeros(total, dtype=dtype, device=parameters[0].device)
        for parameter, start in zip(parameters, starts, strict=True):
            parameter.grad = buffer.as_strided(parameter.shape, parameter.stride(), start)
        buffers.append(buffer)
    return buffers
