"""Train a recipe with Ray Train; curves go to MLflow, checkpoints to the run's folder.

    python -m jobs.train crn_demo --data.uri s3://reciprocal/synthetic
    ray job submit --address http://HEAD:8265 --working-dir . -- python -m jobs.train crn_demo --data.uri s3://...
    python -m jobs.train mrst_t2_ucf_t --data.uri ... --start-from RUN      # from the weights of a finished run
    python -m jobs.train crn_demo --data.uri ... --dry-run                  # what it would do: steps, bytes, memory
    python -m jobs.train --list [NAME]      # recipes; PART of a name filters, a whole name shows everything

Reads    the data set of --data.uri, and only the shards its manifest lists; the weights of --start-from or
         --model.pretrained.
Writes   OUTPUT/RUN_ID/ (pipeline.runs.folder says what), an MLflow run tagged with the run id.
Tracking a server that is down or fails holds nothing up: the run's folder keeps what it missed, and the next command
         on the run sends it (or `python -m jobs.sync RUN`).
Restart  the same command resumes from the newest checkpoint, in the same MLflow run. A changed config,
         manifest or file of weights is refused; another --run.run-id starts afresh. A finished run is left alone.
Exit     0 finished; 1 failed while running; 2 refused before any worker started.
"""

from __future__ import annotations

import functools
import json
import logging
import secrets
import sys
import time
from collections.abc import Sequence

import psutil
import ray
import ray.train
import ray.train.torch
import tyro

from jobs.cluster.connect import check_resources, connect, wants_gpu
from jobs.cluster.errors import explain
from jobs.cluster.storage import ray_file_system
from jobs.recipes import find_recipe
from jobs.recipes.listing import show_recipes
from jobs.recipes.registry import missing_start
from jobs.train.dry_run import FLAG, dry_run
from jobs.train.page import open_page, run_page_of
from jobs.train.prepare import prepare
from jobs.train.process_group import NodeTorchConfig
from jobs.train.worker import WorkerTask, train_worker
from pipeline.common.cli import console, parse
from pipeline.common.words import counted
from pipeline.config.base import as_dict
from pipeline.config.renamed import with_new_flags
from pipeline.config.train import TrainConfig
from pipeline.config.version import code_version
from pipeline.errors import ReciprocalError, UserError
from pipeline.runs.folder import RESULT, RunRecord, read_result, start_or_resume
from pipeline.storage import join, open_storage
from pipeline.tracking.page import RunPage
from pipeline.training.checkpoint import RunFacts
from pipeline.training.loop import Outcome
from pipeline.training.watchdog import collective_limit_s

log = logging.getLogger("jobs.train")
_RAY_FOLDER = "ray_train"  # in the run's folder, while the run lasts: what Ray Train keeps for itself


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check everything that can be checked here, then hand the run to Ray Train."""
    argv = sys.argv[1:] if argv is None else list(argv)
    dry, argv = FLAG in argv, [word for word in argv if word != FLAG]
    if argv[:1] == ["--list"]:
        if len(argv) > 2:
            raise UserError(f"--list takes one name or part of a name, got {' '.join(argv[1:])}")
        show_recipes(console, "".join(argv[1:]))
        return 0
    if not argv or argv[0].startswith("-"):
        console.print(*(__doc__ or "").splitlines(), sep="\n")
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    base = find_recipe(argv[0])
    config = parse(
        tyro.conf.AvoidSubcommands[TrainConfig],
        args=with_new_flags(argv[1:]),
        default=base,
        prog=f"python -m jobs.train {argv[0]}",
        description=__doc__,
    )
    return dry_run(config, console) if dry else train(config)


def train(config: TrainConfig) -> int:
    """Run a config to its end; returns the exit code. Raises UserError before any worker has started."""
    prepared = prepare(config)
    config, manifest = prepared.config, prepared.manifest
    run_uri = join(config.run.output, config.run.run_id)
    run = open_storage(run_uri)
    run.probe(write=True)
    record = RunRecord(
        config=as_dict(config), identity=config.identity(), manifest_digest=manifest.digest, code_version=code_version()
    )
    resuming = start_or_resume(run, record)
    if run.exists(RESULT):
        page = open_page(run)
        page.finish()
        _print_end(config, run_uri, read_result(run), "finished before, nothing to do; it", page)
        return 0
    for line in prepared.plan.summary():
        log.info("%s", line)
    for line in prepared.warnings:
        log.warning("%s", line)
    if not resuming:
        if prepared.start:
            log.info("%s", prepared.start)
        elif missing := missing_start(config):
            log.warning("%s", missing)
    connect()
    gpu = wants_gpu(config.run.use_gpu)
    config.run.check_device(gpu)
    check_resources(config.run.num_workers, config.run.cpus_per_worker, gpu, config.run.spread)
    page = run_page_of(run, config, record, dataset=manifest.dataset)
    page.log_text(json.dumps(as_dict(config), indent=1, sort_keys=True), "config.json")
    page.start()
    log.info(
        "%s %s: %s, batch %d, MLflow %s",
        "resuming" if resuming else "starting",
        run_uri,
        counted(config.run.num_workers, "rank"),
        config.data.batch_size,
        page,
    )
    facts = RunFacts(
        config=config,
        manifest_digest=manifest.digest,
        dataset=manifest.dataset,
        classes=manifest.classes,
        stored=manifest.parameters,
        code_version=record.code_version,
        run_id=config.run.run_id,
        tracking_run_id=page.tracking_run_id,
    )
    start = time.perf_counter()
    try:
        started = psutil.Process().create_time(), time.time()
        result = _trainer(WorkerTask(facts=facts, gpu=gpu, start=prepared.start, started=started)).fit()
    except BaseException as error:
        page.finish("FAILED" if isinstance(error, Exception) else "KILLED")
        if found := explain(error):
            kind = UserError if isinstance(found, UserError) else ReciprocalError
            raise kind(f"training failed: {found}; fix it and run the same command again to resume") from error
        if isinstance(error, SystemExit):  # what Ray Train's own handler of Ctrl-C makes of it
            raise KeyboardInterrupt from error
        raise
    finally:
        for path in list(run.list(f"{_RAY_FOLDER}/")):
            run.delete(path)
    ended: Outcome = result.return_value  # type: ignore[assignment]
    outcome = {
        "checkpoint": ended.checkpoint,
        "metrics": ended.metrics,
        "seconds": round(time.perf_counter() - start, 1),
        "tracking_run_id": page.tracking_run_id,
    }
    run.write(RESULT, json.dumps(outcome, indent=1, sort_keys=True).encode())
    page.set_tags({"checkpoint": f"{run_uri}/{outcome['checkpoint']}"})
    page.finish("FINISHED")
    _print_end(config, run_uri, outcome, "finished;", page)
    return 0


def _trainer(task: WorkerTask) -> ray.train.torch.TorchTrainer:
    config, gpu = task.facts.config, task.gpu
    resources: dict[str, float] = {"CPU": config.run.cpus_per_worker}
    if gpu:
        resources["GPU"] = 1
    return ray.train.torch.TorchTrainer(
        functools.partial(train_worker, task),  # pickled as it is; a train_loop_config would have to be a dict
        # A lost rank must fail the step within minutes: what hangs longer than any sane step is an error.
        torch_config=NodeTorchConfig(
            backend="nccl" if gpu else "gloo",
            timeout_s=collective_limit_s(config.run.step_timeout_s, config.run.compile),
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.run.num_workers,
            use_gpu=gpu,
            resources_per_worker=resources,
            placement_strategy="STRICT_SPREAD" if config.run.spread else "PACK",
        ),
        run_config=ray.train.RunConfig(
            # A new folder each time: Ray would go on from what it finds there, and a run goes on from its checkpoints.
            name=f"{config.run.run_id}/{_RAY_FOLDER}/{secrets.token_hex(4)}",
            storage_filesystem=ray_file_system(config.run.output),
            storage_path="",
            failure_config=ray.train.FailureConfig(max_failures=config.run.max_failures),
            # Ray Train's own lines say every report of every rank, and every error as a traceback of many lines; ours
            # say what a person wants to know. Its log files have them all.
            logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
            # One rank must not take all cores of a node for its OpenMP threads: the ranks share them. All other
            # variables come with the connection (jobs.cluster.environment).
            worker_runtime_env={"env_vars": {"OMP_NUM_THREADS": str(max(1, int(config.run.cpus_per_worker)))}},
        ),
    )


def _print_end(config: TrainConfig, run_uri: str, outcome: dict, word: str, page: RunPage) -> None:
    shown = {
        name: round(value, 4)
        for name, value in outcome["metrics"].items()
        if name.startswith(("train/top1", "train/loss", "stop/", f"{config.data.validation or 'val'}/"))
    }
    console.print(f"run {config.run.run_id} {word} took {outcome['seconds']:.0f} s: {shown}", markup=False)
    console.print(f"run      {run_uri}", f"page     {page}", sep="\n")
