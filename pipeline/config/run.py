"""How a run is placed, saved and watched: what decides where and how fast it computes, and its seed."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pipeline.config.base import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run lives and what it may use."""

    run_id: str = ""
    """Name of the run: the same id resumes from its last checkpoint. Default: the recipe's name and a hash of the
    config.
    """
    output: str = ""
    """Folder of all runs (s3:// or file://). Default: ``runs`` next to the data set."""
    experiment: str = "reciprocal"
    """MLflow experiment."""
    seed: int = 0
    num_workers: int = 1
    """Ranks. The global batch stays, whatever their number."""
    min_workers: int = 0
    """The least ranks to go on with where nodes are missing, from num_workers downwards; 0: num_workers."""
    wait_minutes: float = 10.0
    """How long to wait for the CPUs, GPUs and nodes of min_workers ranks, at the start and after some were lost."""
    cpus_per_worker: float = 1.0
    use_gpu: Literal["auto", "yes", "no"] = "auto"
    """auto: one GPU per rank where the cluster has any; fewer ranks where GPUs are fewer, unless min_workers is set."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on a GPU, fp32 on the CPU."""
    compile: bool = False
    """Training steps run through torch.compile: some minutes at the start for faster steps. Needs a C++ compiler on
    the CPU, Triton on a GPU.
    """
    cuda_graph: bool = False
    """On a GPU, record the passes of a step once and replay them: for few clips a rank, where starting kernels takes
    the time. All clips have one shape then, and compile and sync_batchnorm are left out.
    """
    spread: bool = False
    """Place the ranks on different nodes."""
    checkpoint_steps: int = 0
    """A checkpoint every so many steps, besides those at the end of epochs; 0: none."""
    checkpoint_epochs: int = 1
    """A checkpoint (and a validation) every so many epochs, and at the end."""
    checkpoint_minutes: float = 10.0
    """A checkpoint where none was written for so long; 0: none by the clock."""
    keep_checkpoints: int = 2
    """The newest checkpoints that are kept."""
    keep_best: str = ""
    """Metric of a validation, such as val/top1_1x1, whose best checkpoint is kept too; of a loss, the least. Empty:
    none.
    """
    max_failures: int = 3
    """Restarts in a row, without a new checkpoint in between, after errors that may pass, such as lost workers. Nodes
    that are taken away with notice, and changes of the number of ranks, do not count.
    """
    leave_s: float = 60.0
    """Seconds for a checkpoint after Ctrl-C or SIGTERM; then the command ends without one."""
    step_timeout_s: float = 600.0
    """Longest time without progress in a step: then every rank stores its stacks in the run's folder and the step ends
    with an error that says which rank, shard and key the others wait for; 0: no limit.
    """
    log_steps: int = 10
    """Steps between two points of a curve."""
    log_samples: bool = False
    """Keep the keys of every step next to the checkpoint (small sets, audits)."""
    freeze_batchnorm: bool = False
    """BatchNorm keeps its running statistics: results do not depend on the number of ranks."""
    sync_batchnorm: bool = False
    """BatchNorm that learns takes its statistics over all ranks instead of each rank's own clips; several ranks need
    GPUs for it.
    """

    def __post_init__(self) -> None:
        for name in ("num_workers", "checkpoint_epochs", "keep_checkpoints", "log_steps"):
            require(getattr(self, name) >= 1, f"run.{name}", getattr(self, name), "must be at least 1")
        for name in (
            "checkpoint_steps",
            "checkpoint_minutes",
            "max_failures",
            "seed",
            "step_timeout_s",
            "wait_minutes",
            "leave_s",
        ):
            require(getattr(self, name) >= 0, f"run.{name}", getattr(self, name), "must be 0 or more")
        both = self.compile and self.sync_batchnorm
        fix = "a compiled step is one graph without exchanges between ranks: leave this out, or run.compile"
        require(not both, "run.sync_batchnorm", self.sync_batchnorm, fix)
        fix = "a recorded step is not compiled, and has no exchange between ranks: leave this out, or run.{}"
        for name in ("compile", "sync_batchnorm"):
            require(not (self.cuda_graph and getattr(self, name)), "run.cuda_graph", self.cuda_graph, fix.format(name))
        both = self.freeze_batchnorm and self.sync_batchnorm
        fix = "frozen layers have no statistics to synchronise: leave this out, or run.freeze_batchnorm"
        require(not both, "run.sync_batchnorm", self.sync_batchnorm, fix)
        self.check_device(self.use_gpu != "no")
        require(
            0 <= self.min_workers <= self.num_workers,
            "run.min_workers",
            self.min_workers,
            f"must be 0 (run.num_workers) to {self.num_workers}",
        )
        require(self.cpus_per_worker > 0, "run.cpus_per_worker", self.cpus_per_worker, "must be positive")
        require(
            "/" not in self.run_id and "." not in self.run_id,
            "run.run_id",
            self.run_id,
            "use letters, digits, - and _, at most 120 of them",
        )
        require(
            self.output == "" or self.output.startswith(("s3://", "file://")),
            "run.output",
            self.output,
            "give s3://BUCKET/PREFIX or file:///FOLDER",
        )

    def check_device(self, gpu: bool) -> None:
        """Refuse what needs a GPU where ranks have none. Raises ConfigError."""
        fix = "ranks without a GPU cannot: use run.use_gpu yes, run.num_workers 1, or run.freeze_batchnorm instead"
        require(gpu or not self.sync_batchnorm or self.num_workers == 1, "run.sync_batchnorm", self.sync_batchnorm, fix)
        fix = "ranks without a GPU have nothing to record: leave it out, or use run.use_gpu yes"
        require(gpu or not self.cuda_graph, "run.cuda_graph", self.cuda_graph, fix)
