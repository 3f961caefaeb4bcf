"""How many ranks a run can have on the nodes there are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from jobs.cluster.nodes import Node
from pipeline.common.words import counted
from pipeline.config.train import TrainConfig

_ROUNDING = 1e-6  # 3 x 0.1 CPUs fit into 0.3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Need:
    """What a run asks of its cluster: ``least`` to ``most`` ranks, and what each of them takes."""

    most: int
    least: int
    batch_size: int
    cpus: float
    gpus: int = 0
    spread: bool = False
    """Every rank on a node of its own."""

    @classmethod
    def of(cls, config: TrainConfig, gpu: bool) -> Need:
        run = config.run
        return cls(
            most=run.num_workers,
            least=run.min_workers or run.num_workers,
            batch_size=config.data.batch_size,
            cpus=run.cpus_per_worker,
            gpus=int(gpu),
            spread=run.spread,
        )

    def at_most(self, gpus: int) -> Need:
        """For a run that takes whatever GPUs there are: it may start with as many ranks as ``gpus``, or the next
        smaller number that divides the global batch.
        """
        return dataclasses.replace(self, least=min(self.least, dataclasses.replace(self, least=1).ranks(gpus)))

    @property
    def resources(self) -> dict[str, float]:
        """Of one rank, as Ray names them."""
        return {"CPU": self.cpus, **({"GPU": float(self.gpus)} if self.gpus else {})}

    def places(self, nodes: Iterable[Node], of: Literal["free", "total"] = "free", used: Collection[str] = ()) -> int:
        """Ranks that fit on ``nodes``, leaving out those that are about to be taken away.

        Args:
            used: ids of the nodes that have ranks of this run already.
        """
        taken = used if self.spread else ()
        fit = [self._fit(getattr(node, of)) for node in nodes if node.leaves_at is None and node.id not in taken]
        return sum(min(count, 1) for count in fit) if self.spread else sum(fit)

    def _fit(self, resources: Mapping[str, float]) -> int:
        return min(math.floor(resources.get(name, 0.0) / each + _ROUNDING) for name, each in self.resources.items())

    def ranks(self, places: int) -> int:
        """The largest number of ranks that fits, is allowed and divides the global batch; 0 where there is none."""
        allowed = range(min(self.most, places), self.least - 1, -1)
        return next((count for count in allowed if count and self.batch_size % count == 0), 0)

    def __str__(self) -> str:
        each = f"{self.cpus:g} CPU{'' if self.cpus == 1 else 's'}" + (" and a GPU" if self.gpus else "")
        ranks = counted(self.least, "rank") if self.least == self.most else f"{self.least} to {self.most} ranks"
        return f"{ranks} of {each}{', each on its own node' if self.spread else ''}"


def with_ranks(config: TrainConfig, ranks: int) -> TrainConfig:
    """The config for an attempt with fewer ranks than the run may have.

    What passes through the model at once stays as large as with all ranks, or is the next smaller size that divides a
    rank's part: so memory stays as it is, and, where the parts divide evenly, so do BatchNorm's statistics.
    """
    part, size = config.data.batch_size // ranks, config.data.batch_size // config.run.num_workers
    if config.data.micro_batch or part <= size:
        return config
    size = next(count for count in range(size, 0, -1) if part % count == 0)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, micro_batch=size))
