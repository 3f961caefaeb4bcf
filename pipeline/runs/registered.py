"""What was registered of a run: the digests of a version's files, kept in the run's folder.

    RUN/registered/NAME@VERSION.json
    RUN/registered/reports/IDENTITY.json     the report that a version was registered with; its tag ``report`` names it

A registry's users may write versions, tags and aliases; they cannot write here. So a version's files are compared with
this record, never with anything that the registry says about them.
"""

from __future__ import annotations

import dataclasses
import json
import re
import urllib.parse
from pathlib import Path

from pipeline.common.digest import file_sha256
from pipeline.common.strict_json import read_json
from pipeline.errors import NotFoundError, UserError
from pipeline.runs.folder import fetched_checkpoint, read_result
from pipeline.storage import Storage
from pipeline.training.checkpoint import WEIGHTS

_MAX_BYTES = 1 << 16
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Registration:
    """One version of a registered model, as it was uploaded. Each a sha256 in hex; fields of newer code are empty in
    records of older code.
    """

    weights: str
    card: str = ""
    code: str = ""
    """Of all that ``mlflow.pyfunc.load_model`` runs; see ``pipeline.tracking.model_files.code_digest``."""


def _path(name: str, version: str) -> str:
    return f"registered/{urllib.parse.quote(name, safe='')}@{version}.json"


def write_registration(run: Storage, name: str, version: str, registration: Registration) -> None:
    """Keep what was registered as ``models:/NAME/VERSION``."""
    text = json.dumps(dataclasses.asdict(registration), sort_keys=True, indent=1)
    run.write(_path(name, version), text.encode())


def read_registration(run: Storage, name: str, version: str) -> Registration | None:
    """The record of ``models:/NAME/VERSION``, or None: it is not of this run, or older than these records.

    Raises:
        UserError: there is something else in its place.
    """
    path = _path(name, version)
    try:
        if run.size(path) > _MAX_BYTES:
            raise UserError(
                f"{run.uri}/{path} is no record of a registered version: it has more than {_MAX_BYTES} bytes"
            )
        found = read_json(Registration, run.read(path), f"{run.uri}/{path}")
    except NotFoundError:
        return None
    for name, digest in dataclasses.asdict(found).items():
        if not _SHA256.fullmatch(digest):
            raise UserError(f"{run.uri}/{path}: {name} = {digest[:80]!r}: must be 64 hex digits")
    return found


def final_weights(run: Storage) -> Registration:
    """What can be said of a version that was registered before there were records: it has the weights of the run's
    final checkpoint.

    Raises:
        UserError: the run has not finished.
        StorageError: its checkpoint cannot be read.
    """
    with fetched_checkpoint(run, read_result(run)["checkpoint"], only=(WEIGHTS,)) as folder:
        return Registration(weights=file_sha256(Path(folder) / WEIGHTS))
