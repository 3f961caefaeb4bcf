"""A registered model, ready to answer: its weights and card with the code of this installation, or its own code.

Weights and card are data: checked, and compared with what the folder of the run says was registered. The code that a
version carries is run on request alone, and only if that folder has its digest. The folder is what a registry's users
cannot write. But the version itself names it, in a tag that they can write: where code is to run, it must be a folder
that the user named, or one where the local stack keeps its runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jobs.predict.carried import carried_code
from pipeline.common.digest import file_sha256
from pipeline.config.stack import find_stack
from pipeline.errors import StorageError, UserError
from pipeline.runs.folder import open_run
from pipeline.runs.registered import Registration, final_weights, read_registration
from pipeline.serving.card import CARD, MOST_BYTES, WEIGHTS
from pipeline.serving.predictor import Predictor
from pipeline.storage import Storage
from pipeline.tracking.model_files import code_digest, fetch_all, fetch_data, resolve
from pipeline.tracking.registry import facts_of, version_of

log = logging.getLogger("jobs.predict")

Answerer = Callable[[Path], dict[str, Any]]
"""From a video file to ``labels`` and ``probabilities``, most probable first, and how it went; RejectedSource where
there is no answer.
"""


@contextlib.contextmanager
def open_model(uri: str, *, run: str, code: str, trust_code: bool) -> Iterator[Answerer]:
    """A model of the registry; arguments as of ``jobs.predict``'s flags.

    Raises:
        UserError: there is no such model, its files are not what they should be, or not what was registered.
    """
    version = resolve(uri)
    pinned = f"models:/{version[0]}/{version[1]}" if version else uri  # an alias may move while files are fetched
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fetch_data(pinned, MOST_BYTES, folder)
        found = Registration(weights=file_sha256(folder / WEIGHTS), card=file_sha256(folder / CARD))
        witness = _witness(version, run, trusted=code == "carried")
        if code == "installed":
            _compare(pinned, found, witness)
            try:
                predictor = Predictor(folder)
            except UserError as error:
                raise UserError(f"{pinned}: {error}; a version of other code runs with --code carried") from error
            yield lambda path: _answer(predictor, path)
            return
        place = fetch_all(pinned, folder / "model") if not Path(pinned).is_dir() else Path(pinned)
        found = dataclasses.replace(found, code=code_digest(place))
        if trust_code:
            log.warning("%s: its own code runs unchecked (--trust-model-code)", pinned)
        else:
            _compare(pinned, found, witness)
            if witness is None or not witness.registration.code:
                fix = (
                    f"{witness.run_uri} has none of this version, registered by older code or not from there"
                    if witness
                    else "name the run that it was registered from by --run"
                )
                raise UserError(
                    f"{pinned}: no digest of its code is known (sha256 {found.code}): {fix};"
                    " --trust-model-code runs any code"
                )
        with carried_code(place, folder) as answer:
            yield answer


@dataclasses.dataclass(frozen=True)
class _Witness:
    """The folder of a run, and what it says was registered."""

    run_uri: str
    registration: Registration


def _witness(version: tuple[str, str] | None, run: str, *, trusted: bool) -> _Witness | None:
    """What the run says that the version is of; None, with a warning, where that cannot be known.

    Args:
        run: as the user named it, or empty: the one that the version names.
        trusted: the version's word counts only where the local stack keeps its runs.
    """
    if version is None:
        return None  # a folder or a model that is not registered: nobody vouches for it, and nobody claims to
    name, number = version
    if run:
        folder = open_run(run)
        return _Witness(folder.uri, _registration(folder, name, number))
    found = version_of(name, number)
    run_uri = facts_of(found).get("run_uri", "") if found else ""
    if not run_uri or (trusted and not _in_own_stack(run_uri)):
        log.warning("models:/%s/%s is compared with no run: give --run to compare it", name, number)
        return None
    try:
        folder = open_run(run_uri)
        return _Witness(folder.uri, _registration(folder, name, number))
    except (UserError, StorageError) as error:
        log.warning("models:/%s/%s is compared with no run, because its run cannot be read: %s", name, number, error)
        return None


def _in_own_stack(run_uri: str) -> bool:
    """Not just in its bucket: MLflow keeps artifacts there too, which its users write."""
    stack = find_stack()
    return stack is not None and run_uri.startswith(f"s3://{stack.bucket}/runs/") and ".." not in run_uri


def _registration(run: Storage, name: str, number: str) -> Registration:
    return read_registration(run, name, number) or final_weights(run)


def _compare(uri: str, found: Registration, witness: _Witness | None) -> None:
    if witness is None:
        return
    pairs = (
        (WEIGHTS, found.weights, witness.registration.weights),
        (CARD, found.card, witness.registration.card),
        ("code", found.code, witness.registration.code),
    )
    for file, ours, theirs in pairs:
        if ours and theirs and ours != theirs:
            how = "; --trust-model-code runs it all the same" if file == "code" else ""
            raise UserError(
                f"{uri} is not what was registered of {witness.run_uri}: {file} has sha256 {ours[:16]}..., there it is"
                f" {theirs[:16]}...{how}"
            )
    compared = [file for file, ours, theirs in pairs if ours and theirs]
    log.info("%s is what was registered of %s: %s compared", uri, witness.run_uri, ", ".join(compared) or "nothing")


def _answer(predictor: Predictor, path: Path) -> dict[str, Any]:
    answer = predictor.answer(path)
    labels, probabilities = answer.ranked(predictor.classes)
    return {
        "labels": labels,
        "probabilities": probabilities,
        "frames": answer.num_frames,
        "fps": answer.fps,
        "exact": answer.exact,
        **({"note": answer.note} if answer.note else {}),
        "stages": {stage: round(seconds, 3) for stage, seconds in dataclasses.asdict(answer.times).items()},
    }
