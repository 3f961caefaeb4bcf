"""Command lines, in the order in which data passes through them. The only package that imports ray.

    command                     reads                                   writes
    python -m jobs.preprocess   videos, annotation lists                shards, indexes, records; the manifest last
    python -m jobs.verify       a stored data set                       nothing: every fault by its name
    python -m jobs.report       a stored data set                       one HTML page
    python -m jobs.train        shards that the manifest lists          run.json, checkpoints, result.json; curves
    python -m jobs.evaluate     the final checkpoint, shards            report, page, confusion matrix, predictions
    python -m jobs.ensemble     reports and predictions of runs         the report of their mean
    python -m jobs.promote      the final checkpoint, its report        a registered version; the alias if it is earned
    python -m jobs.predict      a registered model, video files         nothing: the most probable classes

    python -m jobs.submit       the working directory                   nothing: any job, run on a cluster
    python -m jobs.compare      reports and predictions of runs         nothing: runs beside the papers' numbers

    python -m jobs.demo         nothing                                 all of the above, on a synthetic data set
    python -m jobs.ablations    shards                                  the papers' variants, compared with error bars
    python -m jobs.bench        videos or shards                        measurements of one part against alternatives

``recipes`` holds named configs of trainings, ``cluster`` what the commands share about Ray.
"""

import logging
import os
import sys
from types import TracebackType

from pipeline.common.printable import PrintableFormatter
from pipeline.config.ray_local import ray_binding
from pipeline.config.stack import ray_authentication

_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # A lost worker is noticed within this time; Ray's own is 2 s.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # then the nodes are counted again (jobs.train.places)
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # jobs.train.attempts watches the nodes; Ray's prints tracebacks
    "RAY_DEDUP_LOGS": "0",  # ranks that print alike are worth seeing apart
    # Of several tasks that fail a command reports the first; Ray would print the tracebacks of the others at its end.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    # A submitted job may name a variable (--runtime-env-json) that our workers' environment holds too. Both values are
    # the same, because the job's are in the driver's environment, but without this Ray refuses the pair.
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
}

# Here, because Ray reads most of these when it is imported, and every module of this package may import it first.
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
os.environ.update(ray_authentication() | ray_binding())


def _end_in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        print("interrupted before it began", file=sys.stderr, flush=True)
        os._exit(130)  # a hook cannot give the exit code; nothing has been opened yet


if sys.argv[:1] == ["-m"]:  # python -m jobs.COMMAND, whose imports take seconds, before its own handling of Ctrl-C
    sys.excepthook = _end_in_one_line
# In Ray's workers nobody sets up logging: what is logged there is printed by this handler, and reaches the driver.
if logging.lastResort is not None:
    logging.lastResort.setFormatter(PrintableFormatter())
