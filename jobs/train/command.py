"""Train a recipe with Ray Train; curves go to MLflow, checkpoints to the run's folder.

    python -m jobs.train crn_demo --data.uri s3://reciprocal/synthetic
    python -m jobs.submit --address http://HEAD:8265 -- train crn_demo --data.uri s3://...   # on a cluster
    python -m jobs.train mrst_t2_ucf_t --data.uri ... --start-from RUN      # from the weights of a finished run
    python -m jobs.train crn_demo --data.uri ... --dry-run                  # what it would do: steps, bytes, memory
    python -m jobs.train --list [NAME]      # recipes; PART of a name filters, a whole name shows everything

Reads    the data set of --data.uri, and only the shards its manifest lists; the weights of --start-from or
         --model.pretrained.
Writes   OUTPUT/RUN_ID/ (pipeline.runs.folder says what), an MLflow run tagged with the run id.
Tracking a server that is down or fails holds nothing up: the run's folder keeps what it missed, and the next command
         on the run sends it (or `python -m jobs.sync RUN`).
Restart  the same command resumes from the newest checkpoint, in the same MLflow run. A changed config,
         manifest or file of weights is refused; another --run.run-id starts afresh. A finished run is left alone, and
         so is one that another command trains.
Nodes    may go and come: the ranks follow, from run.num_workers down to run.min_workers (docs/train.md).
Stop     Ctrl-C and SIGTERM save a checkpoint first, within run.leave_s; once more leaves at once.
Exit     0 finished; 1 failed while running; 2 refused, or ended by what a person must mend first (a full disk,
         credentials, data that are gone); 130 Ctrl-C; 143 SIGTERM.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from jobs.cards.describe import finish_page
from jobs.recipes import find_recipe
from jobs.recipes.listing import show_recipes
from jobs.train.driver import drive, hold_run, record_of
from jobs.train.dry_run import FLAG, dry_run
from jobs.train.leaving import leaving
from jobs.train.page import open_page
from jobs.train.prepare import prepare
from pipeline.common.cli import console, parse
from pipeline.config.renamed import with_new_flags
from pipeline.config.train import TrainConfig
from pipeline.errors import UserError
from pipeline.runs.folder import RESULT, read_result, start_or_resume
from pipeline.storage import join, open_storage
from pipeline.storage.lease import remove_gone
from pipeline.tracking.page import RunPage


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
    config = parse_config(argv)
    return dry_run(config, console) if dry else train(config)


def parse_config(words: Sequence[str]) -> TrainConfig:
    """A recipe's name and flags that change it. Raises UserError."""
    return parse(
        tyro.conf.AvoidSubcommands[TrainConfig],
        args=with_new_flags(list(words[1:])),
        default=find_recipe(words[0]),
        prog=f"python -m jobs.train {words[0]}",
        description=__doc__,
    )


def train(config: TrainConfig) -> int:
    """Run a config to its end; returns the exit code. Raises UserError before any worker has started."""
    prepared = prepare(config)
    config = prepared.config
    run = open_storage(join(config.run.output, config.run.run_id))
    run.probe(write=True)
    with leaving() as signals:
        if run.exists(RESULT):
            start_or_resume(run, record_of(prepared))
            page = open_page(run)
            finish_page(page, run)
            remove_gone(run)
            _print_end(config, run.uri, read_result(run), "finished before, nothing to do; it", page)
            return 0
        with hold_run(run) as lease:
            outcome, page = drive(prepared, run, lease, signals)
    _print_end(config, run.uri, outcome, "finished;", page)
    return 0


def _print_end(config: TrainConfig, run_uri: str, outcome: dict, word: str, page: RunPage) -> None:
    shown = {
        name: round(value, 4)
        for name, value in outcome["metrics"].items()
        if name.startswith(("train/top1", "train/loss", "stop/", f"{config.data.validation or 'val'}/"))
    }
    console.print(f"run {config.run.run_id} {word} took {outcome['seconds']:.0f} s: {shown}", markup=False)
    console.print(f"run      {run_uri}", f"page     {page}", sep="\n")
