"""What the ranks of a hanging step report, and what follows from it.

RUN/hangs/ATTEMPT/rank-N.txt     every Python thread's stack of rank N
RUN/hangs/ATTEMPT/rank-N.json    written after it: where rank N is (``Hang``)

A rank that hangs in a way that stops its whole process, or whose host is gone, writes nothing, and is known by that.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import logging
import os
import sys
import sysconfig
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.common.strict_json import JsonError, read_json
from pipeline.common.words import counted
from pipeline.errors import StorageError
from pipeline.storage import Storage, join

log = logging.getLogger(__name__)

_FOLDER = "hangs"
_LOOK_S, _REQUEST_S = 0.25, 15.0
_LONGEST_WAIT_S = 30.0  # for other ranks' reports
_MOST_NAMED = 4  # ranks
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hang:
    """Where one rank is."""

    step: int
    stage: str
    """Field of ``StepTimes``; "" between two."""
    seconds: float
    place: str
    """Innermost line of the training thread that is not a library's."""
    in_backward: bool = False
    in_collective: bool = False
    waiting_for: str = ""

    @property
    def progress(self) -> tuple[int, int]:
        """Ranks with less hold up those with more."""
        if self.stage in ("wait_s", "copy_s"):
            return self.step, ("wait_s", "copy_s").index(self.stage)
        return self.step, 4 if self.in_collective else 3 if self.in_backward else 2

    def __str__(self) -> str:
        if self.stage == "wait_s":
            return f"waits for data: {self.waiting_for or 'the loader does not say for which'}"
        if self.in_collective:
            return f"waits for other ranks in {self.place}"
        what = {"copy_s": "copies a batch to its device", "validate_s": "validates", "": "is between two steps"}
        computes = "computes or exchanges gradients" if self.in_backward else "computes"
        return f"{what.get(self.stage, computes)} in {self.place}"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a thread is."""

    where: str
    in_backward: bool
    in_collective: bool


def place_of(thread: int) -> Place:
    """Where the thread with this ``ident`` is."""
    frame = sys._current_frames().get(thread)
    stack = traceback.extract_stack(frame) if frame else traceback.StackSummary()
    ours = [line for line in stack if not line.filename.startswith(_LIBRARIES)]
    inner = ours[-1] if ours else None
    root = Path(__file__).parents[2]
    where = "an unknown place"
    if inner:
        file = Path(inner.filename)
        shown = file.relative_to(root) if file.is_relative_to(root) else file.name
        where = f"{inner.name} ({shown}:{inner.lineno})"
    return Place(
        where,
        in_backward=any(line.name == "backward" and "torch" in Path(line.filename).parts for line in stack),
        in_collective=any(Path(line.filename).name in ("collective.py", "distributed_c10d.py") for line in stack),
    )


class HangReports:
    """Reports of the ranks of one attempt, in the run's folder.

    Args:
        run: the run's folder.
        attempt: the same on all ranks, and another in every attempt.
        nodes: the host of each rank.
    """

    def __init__(self, run: Storage, attempt: str, rank: int, nodes: Sequence[str]) -> None:
        self._run, self._folder = run.within(_REQUEST_S), f"{_FOLDER}/{attempt}"
        self._rank, self.nodes = rank, nodes

    def exchange(self, hang: Hang, limit_s: float) -> tuple[dict[int, Hang], str]:
        """Store this rank's report and read the others'; waits for them for as long as they can be expected.

        Returns:
            The reports by rank, without those of ranks that did not answer; where the stacks are, or why they are not
            there.
        """
        found = {self._rank: hang}
        stacks = _stacks(f"rank {self._rank} on {self.nodes[self._rank]}, step {hang.step}: {hang}")
        state = {"where": f"stacks not stored: {self._run.uri} does not answer"}

        def exchange() -> None:
            try:
                self._run.write(f"{self._folder}/rank-{self._rank}.txt", stacks)
                text = json.dumps(dataclasses.asdict(hang), indent=1, sort_keys=True)
                self._run.write(f"{self._folder}/rank-{self._rank}.json", text.encode())
                state["where"] = f"stacks of all ranks: {join(self._run.uri, self._folder)}/"
                while len(found) < len(self.nodes) and time.monotonic() < until_s:
                    time.sleep(_LOOK_S)
                    self._read(found)
            except (StorageError, OSError) as error:
                state["where"] = f"stacks not stored: {error}"

        # Ranks notice a hang at times that differ by as long as they need to look, and to write what they saw.
        until_s = time.monotonic() + min(_LONGEST_WAIT_S, max(3.0, limit_s / 2))
        thread = threading.Thread(target=exchange, name="hang-report", daemon=True)  # the storage may be what hangs
        thread.start()
        thread.join(until_s - time.monotonic() + 2 * _LOOK_S)
        if state["where"].startswith("stacks not"):
            log.warning("rank %d hangs:\n%s", self._rank, stacks.decode(errors="replace"))
        return dict(found), state["where"]

    def _read(self, found: dict[int, Hang]) -> None:
        there = set(self._run.list(f"{self._folder}/"))
        for rank in range(len(self.nodes)):
            path = f"{self._folder}/rank-{rank}.json"
            if rank not in found and path in there:
                try:
                    found[rank] = read_json(Hang, self._run.read(path), path, extra=True)
                except JsonError as error:  # of other code; the rank lives
                    log.debug("%s", error)


def _stacks(title: str) -> bytes:
    """Python stacks of all threads of this process."""
    with tempfile.TemporaryFile() as file:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        names = [f"thread {thread.ident or 0:#018x} is {thread.name}" for thread in threading.enumerate()]
        file.write("\n".join([title, f"process {os.getpid()}, {when}", *names, "", ""]).encode())
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def describe(hangs: Mapping[int, Hang], nodes: Sequence[str], *, limit_s: float, where: str = "") -> str:
    """One line about a step that hangs: which ranks hold it up, in what, and who waits for them."""
    step = min(hang.step for hang in hangs.values())
    silent = [rank for rank in range(len(nodes)) if rank not in hangs]
    least = min(hang.progress for hang in hangs.values())
    behind = [rank for rank, hang in sorted(hangs.items()) if hang.progress == least]
    waiting = [rank for rank in sorted(hangs) if rank not in behind]
    if silent and all(hangs[rank].stage not in ("wait_s", "copy_s") for rank in behind):
        behind, waiting = [], sorted(hangs)  # where they are follows from the silent rank
    parts = [f"{_name(rank, nodes)} does not answer" for rank in silent[:_MOST_NAMED]]
    parts += [f"{_name(rank, nodes)} {hangs[rank]}" for rank in behind[:_MOST_NAMED]]
    if unnamed := max(0, len(silent) - _MOST_NAMED) + max(0, len(behind) - _MOST_NAMED):
        parts.append(f"{counted(unnamed, 'more rank')} like these")
    if waiting:
        ranks = f"rank {waiting[0]}" if len(waiting) == 1 else f"the {len(waiting)} other ranks"
        parts.append(f"{ranks} wait{'s' if len(waiting) == 1 else ''} for {'it' if len(parts) == 1 else 'them'}")
    end = f"; {where}" if where else ""
    return f"step {step} made no progress for {limit_s:g} s (run.step_timeout_s): {'; '.join(parts)}{end}"


def _name(rank: int, nodes: Sequence[str]) -> str:
    return f"rank {rank} on {nodes[rank]}" if nodes[rank] else f"rank {rank}"
