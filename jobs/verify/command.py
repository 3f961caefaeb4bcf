"""Re-read a stored data set, compare it with its manifest and report every fault.

    python -m jobs.verify s3://bucket/kinetics                    # everything, every video decoded
    python -m jobs.verify file:///data/toy --decode none          # only checksums, sizes, indexes and counts
    python -m jobs.verify s3://bucket/kinetics --decode 2         # and decode two samples of every shard

Reads    the manifest, every record, index and tar once (a task copies one shard at a time to its local disk).
Writes   nothing to the data set.
Prints   one line per fault: SHARD/SAMPLE.MEMBER: kind: what, expected, found. --json FILE has the same for programs.
Exit     0 sound. 1 faults, or shards that could not be verified because the storage failed. 2 no data set there, or
         wrong arguments.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.verify.tasks import verify_shards
from pipeline.common.cli import console, parse
from pipeline.common.words import counted
from pipeline.dataset.manifest import Manifest
from pipeline.errors import ConfigError, StorageError
from pipeline.storage import Storage, open_storage
from preprocessing.verify.dataset import Totals, find_strays, open_manifest
from preprocessing.verify.faults import Fault
from preprocessing.verify.shard import Decode

log = logging.getLogger("jobs.verify")


@dataclasses.dataclass(frozen=True)
class VerifyArgs:
    """Report every fault of a stored data set."""

    uri: Annotated[str, tyro.conf.Positional]
    """The data set: s3://BUCKET/PREFIX or file:///FOLDER."""
    decode: str = "all"
    """Samples whose videos are decoded: all, none, or a number per shard, evenly spaced."""
    json: Path | None = None
    """File for the result: faults, failures and totals."""

    def __post_init__(self) -> None:
        if self.decode not in ("all", "none") and not (self.decode.isdecimal() and int(self.decode) > 0):
            raise ConfigError("decode", self.decode, "use all, none, or a number of samples per shard")
        if self.json is not None and not self.json.absolute().parent.is_dir():
            raise ConfigError("json", str(self.json), "its folder does not exist")

    @property
    def samples_to_decode(self) -> Decode:
        """``decode`` as the library takes it."""
        return int(self.decode) if self.decode.isdecimal() else "none" if self.decode == "none" else "all"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and verify."""
    return verify(parse(VerifyArgs, args=argv, description=__doc__))


def verify(args: VerifyArgs) -> int:
    """Verify a data set; returns the exit code.

    Raises:
        UserError: there is no data set, or its storage cannot be reached.
    """
    start_s = time.perf_counter()
    storage = open_storage(args.uri)
    storage.probe(write=False)
    manifest, faults = open_manifest(storage)
    _show(faults)
    totals, failures = Totals(), dict[str, str]()
    if manifest is not None:
        found, failures = _verify_shards(storage, manifest, args.samples_to_decode, totals)
        try:
            strays = find_strays(storage, manifest)
        except StorageError as error:
            strays, failures = [], {**failures, "listing": str(error)}
            log.error("%s could not be listed: %s", storage.uri, error)
        _show(strays)
        faults = [*faults, *found, *strays]
    seconds = time.perf_counter() - start_s
    _summarise(storage, manifest, faults, failures, totals, seconds)
    if args.json is not None:
        args.json.write_text(
            json.dumps(_as_dict(storage, manifest, faults, failures, totals, args, seconds), indent=1) + "\n"
        )
    return 1 if faults or failures else 0


def _verify_shards(
    storage: Storage, manifest: Manifest, decode: Decode, totals: Totals
) -> tuple[list[Fault], dict[str, str]]:
    """Faults of all shards, shown as they are found, and by path the shards that could not be verified."""
    faults: list[Fault] = []
    failures: dict[str, str] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("shards", total=len(manifest.shards))
        for entry, result in verify_shards(storage, manifest, decode):
            progress.advance(bar)
            if isinstance(result, str):
                failures[entry.path] = result
                log.error("%s could not be verified: %s", entry.path, result)
                continue
            new = [*result.faults, *totals.add(result)]
            _show(new)
            faults += new
    last = totals.finish()
    _show(last)
    return [*faults, *last], failures


def _show(faults: Sequence[Fault]) -> None:
    for fault in faults:
        console.print(str(fault), markup=False)


def _summarise(
    storage: Storage,
    manifest: Manifest | None,
    faults: Sequence[Fault],
    failures: dict[str, str],
    totals: Totals,
    seconds: float,
) -> None:
    rate = totals.num_bytes / max(seconds, 1e-9) / 1e6
    console.print(
        f"{counted(totals.num_shards, 'shard')}, {counted(totals.num_samples, 'sample')},"
        f" {totals.num_bytes / 1e6:.1f} MB read, {counted(totals.num_decoded, 'sample')} decoded"
        f" ({counted(totals.num_frames, 'frame')}) in {seconds:.1f} s ({rate:.1f} MB/s,"
        f" {totals.num_samples / max(seconds, 1e-9):.1f} samples/s)"
    )
    if faults:
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(fault.kind for fault in faults).most_common())
        console.print(f"{counted(len(faults), 'fault')} in {storage.uri}: {kinds}", style="bold red", markup=False)
    if failures:
        console.print(
            f"{len(failures)} parts could not be verified ({next(iter(failures))}: {next(iter(failures.values()))}):"
            " run the same command again",
            style="bold red",
            markup=False,
        )
    if any(fault.kind != "stray" for fault in faults):
        console.print("the jobs.preprocess command that made it, with --overwrite, builds damaged shards again")
    if not faults and not failures and manifest is not None:
        console.print(f"sound: {storage.uri} is what its manifest {manifest.digest} says", markup=False)


def _as_dict(
    storage: Storage,
    manifest: Manifest | None,
    faults: Sequence[Fault],
    failures: dict[str, str],
    totals: Totals,
    args: VerifyArgs,
    seconds: float,
) -> dict[str, object]:
    return {
        "uri": storage.uri,
        "digest": manifest.digest if manifest else None,
        "sound": not faults and not failures,
        "decode": args.decode,
        "faults": [dataclasses.asdict(fault) for fault in faults],
        "failures": failures,
        "shards": totals.num_shards,
        "samples": totals.num_samples,
        "inputs": totals.num_inputs,
        "bytes": totals.num_bytes,
        "samples_decoded": totals.num_decoded,
        "frames_decoded": totals.num_frames,
        "seconds": round(seconds, 3),
    }
