"""Command lines, in the order in which data passes through them. The only package that imports ray.

    command                     reads                                   writes
    python -m jobs.preprocess   videos, annotation lists                shards, indexes, records; the manifest last
    python -m jobs.verify       a stored data set                       nothing: every fault by its name
    python -m jobs.report       a stored data set                       one HTML page
    python -m jobs.train        shards that the manifest lists          run.json, checkpoints, result.json; curves
    python -m jobs.evaluate     the final checkpoint, shards            report, confusion matrix, predictions
    python -m jobs.ensemble     reports and predictions of runs         the report of their mean
    python -m jobs.promote      the final checkpoint, its report        a registered version; the alias if it is earned
    python -m jobs.predict      a registered model, video files         nothing: the most probable classes

    python -m jobs.demo         nothing                                 all of the above, on a synthetic data set
    python -m jobs.ablations    shards                                  the papers' variants, compared with error bars
    python -m jobs.bench        videos or shards                        measurements of one part against alternatives

``recipes`` holds named configs of trainings, ``cluster`` what the commands share about Ray.
"""

import os

from pipeline.config.stack import ray_authentication

# Here, because Ray reads these when it is imported, and every module of this package may import it first.
os.environ.update(ray_authentication())
