"""Disturb a training of 12 steps with 3 checkpoints, and the preprocessing of one shard, at each of their storage
requests in four ways, run the same command again, and compare what is there with an undisturbed one's.

    python tests/integration/exhaustive_faults.py                 # every request: about 20 minutes
    python tests/integration/exhaustive_faults.py --every 9       # every ninth, a different one for each way

Ways     503: the server answers 503 from that request on, until the command has ended. cut: the connection ends in the
         body. killed before, killed after: the process gets SIGKILL before or after the server did what was asked.
Reads    nothing. Makes its clips, and starts an S3 server in memory.
Prints   a table: requests counted, faults tried, commands that needed no second run, ended as they should, seconds.
Exit     0 all ended as they should. 1 some did not; each is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, not as a module of the project

from tests.support.fault_commands import ShardCase, TrainingCase
from tests.support.memory_s3 import MemoryS3
from tests.support.nth_request import WAYS, ForkedCommands, NthRequest, environment

_KILLED = -9
CASES = (TrainingCase, ShardCase)


@dataclasses.dataclass
class Row:
    """All faults of one way on one command."""

    what: str
    way: str
    requests: int
    tried: int = 0
    at_once: int = 0
    well: int = 0
    seconds: float = 0.0
    problems: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.what:14} {self.way:14} {self.requests:8} {self.tried:6} {self.at_once:8} {self.well:6}"
            f" {self.seconds:8.0f}"
        )


HEAD = f"{'command':14} {'way':14} {'requests':>8} {'tried':>6} {'no rerun':>8} {'well':>6} {'seconds':>8}"


class Bench:
    """A server in memory, the proxy in front of it, and processes for the commands."""

    def __init__(self, folder: Path, server: MemoryS3, proxy: NthRequest, forked: ForkedCommands) -> None:
        self._folder, self._server, self._proxy, self._forked = folder, server, proxy, forked

    def rows(self, kind: type[TrainingCase] | type[ShardCase], every: int, ways: Sequence[str] = WAYS) -> Iterator[Row]:
        """Disturb a command at one of so many requests, one row a way."""
        case = kind(self._server, self._folder / kind.name)
        self._proxy.begin("", 0)
        out = f"s3://bucket/{kind.name}/undisturbed"
        code = self._forked.run(case.command, self._proxy, out, *case.more)
        assert code == 0, self._forked.output
        assert case.faults(out) == []
        requests = self._proxy.count
        for way in ways:
            row, start_s = Row(kind.name, way, requests), time.perf_counter()
            for at in range(1 + WAYS.index(way) * every // len(WAYS), requests + 1, every):
                out = f"s3://bucket/{kind.name}/{way.replace(' ', '-')}-{at}"
                self._proxy.begin(way, at)
                code = self._forked.run(case.command, self._proxy, out, *case.more)
                self._proxy.begin("", 0)
                again = self._forked.run(case.command, self._proxy, out, *case.more)
                problems = [f"exit codes {code}, {again}"] if again or code not in (0, 1, _KILLED) else []
                problems += case.faults(out) if not again else []
                problems += [f"left in TMPDIR: {name}" for name in self._forked.left()]
                row.tried, row.at_once, row.well = row.tried + 1, row.at_once + (not code), row.well + (not problems)
                row.problems += [f"{kind.name}, {way} at request {at}: {problem}" for problem in problems]
                if problems:
                    print(*row.problems[-len(problems) :], sep="\n", flush=True)
            row.seconds = time.perf_counter() - start_s
            yield row


@contextlib.contextmanager
def started_bench() -> Iterator[Bench]:
    """All of it, ended at last."""
    server = MemoryS3(page=1000)  # as Amazon's
    with (
        tempfile.TemporaryDirectory() as folder,
        NthRequest(server.endpoint) as proxy,
        ForkedCommands("tests.support.fault_commands", "torch._dynamo", "torch.profiler") as forked,
        contextlib.closing(server),
        mock.patch.dict(os.environ, environment(server.endpoint)),
    ):
        yield Bench(Path(folder), server, proxy, forked)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="of the requests, this share is disturbed")
    parser.add_argument("--only", choices=[kind.name for kind in CASES], help="one of the two")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    options = parser.parse_args()
    problems = []
    print(HEAD, flush=True)
    with started_bench() as bench:
        for kind in [kind for kind in CASES if options.only in (None, kind.name)]:
            for row in bench.rows(kind, options.every, options.ways):
                print(row, flush=True)
                problems += row.problems
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
