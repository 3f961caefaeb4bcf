"""Folders of runs as jobs.train and jobs.evaluate leave them, without a training."""

from __future__ import annotations

import dataclasses
import json

from jobs.recipes import find_recipe
from pipeline.config.base import as_dict
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import UserError
from pipeline.runs.folder import RESULT, RUN, RunRecord
from pipeline.storage import Storage, open_storage

RESULT_FIELDS = {"checkpoint": "checkpoint_1", "metrics": {}, "seconds": 1.0, "tracking_run_id": "t"}


def write_run(run: Storage, recipe: str, *, data_uri: str, digest: str = "") -> Storage:
    """``run.json`` and ``result.json`` of a finished run on the data set at ``data_uri``; returns ``run``."""
    config = find_recipe(recipe)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, uri=data_uri))
    if not digest:
        try:
            digest = read_manifest(open_storage(data_uri)).digest
        except UserError:  # a damaged one, which a test wants
            digest = "d" * 64
    record = RunRecord(config=as_dict(config), identity=config.identity(), manifest_digest=digest, code_version="v")
    run.write(RUN, json.dumps(dataclasses.asdict(record)).encode())
    run.write(RESULT, json.dumps(RESULT_FIELDS).encode())
    return run
