"""What a run will do and hold, worked out from its config and data set before any worker has started."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.common.words import alternatives, counted, sized
from pipeline.config.train import TrainConfig
from pipeline.data.preflight import DataPlan
from pipeline.training.footprint import Footprint, footprint, learning_norms
from pipeline.training.optim import lr_factor

_FEW_CLIPS = 4  # statistics of fewer are noisy


def clips_at_once(config: TrainConfig) -> int:
    """Clips that pass through the model together on one rank."""
    share = config.data.batch_size // config.run.num_workers
    return min(share, config.data.micro_batch or share)


def fewer_ranks(config: TrainConfig) -> list[int]:
    """Numbers of ranks that the run goes on with where there is no room for all; largest first."""
    run = config.run
    least = run.min_workers or run.num_workers
    return [count for count in range(run.num_workers - 1, least - 1, -1) if config.data.batch_size % count == 0]


def norm_warning(config: TrainConfig, num_classes: int) -> str:
    """A line where batch normalisation learns from too few clips at a time, and what to do about it; else nothing."""
    ranks, batch, clips = config.run.num_workers, config.data.batch_size, clips_at_once(config)
    seen = clips * ranks if config.run.sync_batchnorm else clips
    if seen >= _FEW_CLIPS:
        return ""
    learning, total = learning_norms(config, num_classes)
    if not learning:
        return ""
    fixes = []
    if clips < batch // ranks:
        fixes.append(f"--data.micro-batch {min(_FEW_CLIPS, batch // ranks)}")
    if ranks > 1 and not config.run.sync_batchnorm:
        fixes.append(f"--run.sync-batchnorm on GPUs (statistics of {counted(clips * ranks, 'clip')})")
    if batch // ranks < _FEW_CLIPS:
        reference = "" if config.optim.reference_batch else f" with --optim.reference-batch {batch}"
        fixes.append(f"--data.batch-size {_FEW_CLIPS * ranks}{reference}")
        if ranks > 1 and batch >= _FEW_CLIPS:
            fewer = max(n for n in range(1, batch // _FEW_CLIPS + 1) if batch % n == 0)
            fixes.append(f"--run.num-workers {fewer}")
    fixes.append("--run.freeze-batchnorm where the weights are pre-trained")
    where = "over all ranks" if config.run.sync_batchnorm else "on each rank"
    return (
        f"batch normalisation learns from {counted(seen, 'clip')} at a time {where} ({learning} of {total} layers), and"
        f" statistics of fewer than {_FEW_CLIPS} are noisy: use {', or '.join(fixes)}"
    )


def num_checkpoints(config: TrainConfig, steps_per_epoch: int) -> int:
    """Checkpoints of a whole run, by epochs and by steps; the clock (run.checkpoint_minutes) may add some."""
    run, epochs = config.run, config.optim.epochs
    found = sum(epoch % run.checkpoint_epochs == 0 or epoch == epochs for epoch in range(1, epochs + 1))
    if run.checkpoint_steps:
        by_epochs = {
            epoch * steps_per_epoch for epoch in range(run.checkpoint_epochs, epochs + 1, run.checkpoint_epochs)
        }
        both = sum(step % run.checkpoint_steps == 0 for step in by_epochs | {epochs * steps_per_epoch})
        found += epochs * steps_per_epoch // run.checkpoint_steps - both
    return found


def forecast(config: TrainConfig, plan: DataPlan, num_classes: int) -> Iterator[str]:
    """Lines for a person: ranks, steps, learning rates, bytes read, checkpoints, memory."""
    run, optim, clips = config.run, config.optim, clips_at_once(config)
    kind = {"yes": ", a GPU each", "no": ", on CPUs", "auto": ", a GPU each where the cluster has any"}[run.use_gpu]
    share = config.data.batch_size // run.num_workers
    pieces = "" if clips == share else f", in micro-batches of {clips}"
    yield f"ranks: {run.num_workers}{kind}; a step takes {counted(share, 'clip')} a rank{pieces}"
    if fewer := fewer_ranks(config):
        yield f"while nodes are missing: {alternatives(fewer)} ranks, the same steps in more micro-batches"
    yield from plan.summary()
    total = optim.epochs * plan.steps
    read = sum(
        plan.bytes[split] * (optim.epochs if split == config.data.train_split else _validations(config))
        for split in plan.bytes
    )
    early = ", fewer if it stops early" if config.stop.patience else ""
    yield f"the run: {counted(optim.epochs, 'epoch')}, {counted(total, 'step')}{early}; reads {sized(read)}"
    yield f"learning rates: {_rates(config, plan.steps)}"
    size = footprint(config, num_classes, clips)
    count = num_checkpoints(config, plan.steps)
    kept = run.keep_checkpoints + bool(run.keep_best) + 1  # the new one is whole before an old one is deleted
    clock = f", and one after {run.checkpoint_minutes:g} minutes without one" if run.checkpoint_minutes else ""
    room = f"they take at most {sized(kept * size.checkpoint)} at a time"
    yield f"checkpoints: {count} of {sized(size.checkpoint)}{clock}; {room}"
    for name, bf16 in _devices(config):
        yield f"memory a rank{name}: {_memory(footprint(config, num_classes, clips, bf16=bf16), plan)}"


def _validations(config: TrainConfig) -> int:
    return -(-config.optim.epochs // config.run.checkpoint_epochs)


def _rates(config: TrainConfig, steps_per_epoch: int) -> str:
    optim, batch = config.optim, config.data.batch_size
    total, warmup = optim.epochs * steps_per_epoch, optim.warmup(batch, steps_per_epoch)
    scale = optim.scale(batch)
    first, peak, last = (optim.lr * scale * lr_factor(config, total, step) for step in (0, warmup, total - 1))
    text = f"{first:.3g} rising over {counted(warmup, 'step')} to {peak:.3g}" if warmup else f"{peak:.3g}"
    text += {
        "constant": "",
        "cosine": f", half a cosine down to {last:.3g}",
        "step": f", times {optim.decay_factor:g} after epochs {', '.join(map(str, optim.decay_epochs))}: {last:.3g}",
    }[optim.schedule]
    if optim.backbone_lr != optim.lr:
        text += f"; {optim.backbone_lr / optim.lr:.3g} times that in the backbone"
    if optim.classifier_multiplier != 1:
        text += f"; {optim.classifier_multiplier:g} times that in the classifier"
    if optim.reference_batch:
        text += f" (those for {counted(optim.reference_batch, 'clip')} times {scale:g}, since the batch has {batch})"
    return text


def _devices(config: TrainConfig) -> list[tuple[str, bool]]:
    """Where the run may compute, and whether in bfloat16 there."""
    both = {"yes": ["GPU"], "no": ["CPU"], "auto": ["GPU", "CPU"]}[config.run.use_gpu]
    return [
        (f" ({device})", config.run.precision == "bf16" or (config.run.precision == "auto" and device == "GPU"))
        for device in both
    ]


def _memory(size: Footprint, plan: DataPlan) -> str:
    parts = {
        "weights": size.weights,
        "their average": size.average,
        "gradients": size.gradients,
        "optimiser": size.optimizer,
        "activations": size.activations,
        "batches": plan.batch_bytes,
        "index": plan.index_bytes,
    }
    named = ", ".join(f"{name} {sized(part)}" for name, part in parts.items() if part)
    return f"about {sized(sum(parts.values()))} ({named}), and what torch and its libraries take"
