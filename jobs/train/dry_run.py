"""``python -m jobs.train RECIPE --dry-run``: what a run would do, without a worker, a GPU or a written byte."""

from __future__ import annotations

from rich.console import Console

from jobs.recipes.registry import missing_start, short_chain
from jobs.train.forecast import forecast
from jobs.train.prepare import prepare
from pipeline.config.base import as_dict
from pipeline.config.train import TrainConfig
from pipeline.config.version import code_version
from pipeline.runs.folder import RESULT, RUN, RunRecord, start_or_resume
from pipeline.storage import Storage, join, open_storage

FLAG = "--dry-run"


def dry_run(config: TrainConfig, console: Console) -> int:
    """Print what training with this config would do; returns the exit code. Reads what a run reads before it starts.

    Raises:
        UserError: the run would be refused.
    """
    prepared = prepare(config)
    config, manifest = prepared.config, prepared.manifest
    run = open_storage(join(config.run.output, config.run.run_id))
    run.probe(write=False)
    record = RunRecord(
        config=as_dict(config), identity=config.identity(), manifest_digest=manifest.digest, code_version=code_version()
    )
    lines = [f"run {config.run.run_id} in {run.uri}: {_state(run, record)}"]
    lines += forecast(config, prepared.plan, len(manifest.classes))
    lines += [f"start: {prepared.start}"] if prepared.start else []
    start = prepared.start
    of_start = (start.warning, short_chain(config, start.twin)) if start else (missing_start(config),)
    warnings = [*prepared.warnings, *of_start]
    lines += [f"warning: {line}" for line in warnings if line]
    lines.append("nothing was started or written; without --dry-run the run starts")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _state(run: Storage, record: RunRecord) -> str:
    if not run.exists(RUN):
        return "starts afresh"
    start_or_resume(run, record)  # the run exists: it is compared, and nothing is written
    return "has finished, there is nothing to do" if run.exists(RESULT) else "goes on from its newest checkpoint"
