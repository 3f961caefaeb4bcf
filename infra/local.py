"""The local stack: a real S3 server, a real MLflow server and a real Ray cluster, all on this host.

    python -m infra.local up [--ray-cpus N]        start what is not running; tens of seconds the first time
    python -m infra.local status                   one row per server; exit code 0 when all are healthy, else 1
    python -m infra.local add-node [--cpus N]      one more Ray node on this host, for tests of clusters
    eval "$(python -m infra.local env)"            let Ray's and MLflow's own commands in (ray job submit, notebooks)
    python -m infra.local down                     end the servers; data stays

Reads    $RECIPROCAL_HOME (default ~/.reciprocal).
Writes   below it: s3/ (objects, metadata, credentials), mlflow/ (SQLite, password), ray/ (sessions), logs/,
         servers.json, and stack.json LAST: every command of the project finds the servers there
         (``pipeline.config.stack``).
Restart  ``up`` keeps what is healthy, at the same addresses, and starts the rest, at their old ports where those are
         free.
Exit     0 done. 1 a server did not start (the end of its log is printed) or is not healthy. 2 refused before any work.
"""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import sys
from collections.abc import Sequence

from infra.control import PARTS, ServerState, add_node, down, status, up
from infra.mlflow_server import login_file
from infra.ray_head import authentication
from infra.records import load_servers
from pipeline.common.cli import console, parse, run_main
from pipeline.common.words import counted
from pipeline.config.stack import Stack, find_stack, home, ray_token_file, stack_file
from pipeline.errors import UserError

__all__ = ["ServerState", "add_node", "addresses", "down", "main", "print_lines", "status", "up"]


def addresses(stack: Stack) -> list[str]:
    """One line for each server: where it is, and which file holds what it asks for."""
    return [
        f"MLflow         {stack.mlflow_uri} (user {stack.mlflow_user}, password in {login_file().absolute()})",
        f"Ray dashboard  {stack.ray_dashboard} (it asks for a token: cat {shlex.quote(str(ray_token_file()))})",
        f"Ray cluster    {stack.ray_address}",
        f"S3 server      {stack.s3_endpoint} (bucket {stack.bucket}; keys in {stack_file().absolute()})",
    ]


def print_lines(lines: Sequence[str], styles: Sequence[str] = ()) -> None:
    """Print lines whole, however narrow the terminal is: what is cut or folded cannot be copied."""
    for line, style in itertools.zip_longest(lines, styles):
        console.print(line, style=style, soft_wrap=True, markup=False, highlight=style is None)


@dataclasses.dataclass(frozen=True)
class Up:
    """Start what is not running."""

    ray_cpus: int | None = None
    """CPUs that the Ray head offers; default: all of this host."""
    timeout_s: float = 120.0
    """Deadline for all servers together, in seconds."""

    def run(self) -> int:
        before = {record.name: record.process for record in load_servers().records.values()}
        stack = up(ray_cpus=self.ray_cpus, timeout_s=self.timeout_s)
        after = {record.name: record.process for record in load_servers().records.values()}
        changed = [name for name in PARTS if before.get(name) != after.get(name)]
        console.print(f"started {', '.join(changed)}" if changed else "all servers were healthy already")
        print_lines([*addresses(stack), f"record         {stack_file()}"])
        return 0


@dataclasses.dataclass(frozen=True)
class Env:
    """Print what a shell needs for Ray's and MLflow's own commands: eval "$(python -m infra.local env)"."""

    def run(self) -> int:
        stack = find_stack()
        if stack is None:
            raise UserError("no local stack is up: python -m infra.local up")
        mlflow = {
            "MLFLOW_TRACKING_URI": stack.mlflow_uri,
            "MLFLOW_TRACKING_USERNAME": stack.mlflow_user,
            "MLFLOW_TRACKING_PASSWORD": stack.mlflow_password,
        }
        for name, value in {"RAY_API_SERVER_ADDRESS": stack.ray_dashboard, **authentication(), **mlflow}.items():
            sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
        return 0


@dataclasses.dataclass(frozen=True)
class Down:
    """End the servers; data stays."""

    def run(self) -> int:
        ended = down()
        console.print(f"ended {ended} processes; data stays in {home()}" if ended else "nothing was running")
        return 0


@dataclasses.dataclass(frozen=True)
class Status:
    """Show every server; exit code 0 when all are healthy, else 1."""

    def run(self) -> int:
        states = status()
        rows = [("server", "address", "pid", "state", "log")]
        rows += [(state.name, state.address, str(state.pid or ""), state.state, state.log) for state in states]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        print_lines(lines, ["bold", *("green" if state.healthy else "red" for state in states)])
        return 0 if all(state.healthy for state in states) and stack_file().exists() else 1


@dataclasses.dataclass(frozen=True)
class AddNode:
    """Start one more Ray node on this host."""

    cpus: int = 1
    """CPUs that it offers."""

    def run(self) -> int:
        record = add_node(cpus=self.cpus)
        console.print(f"{record.name} at {record.address} with {counted(int(record.settings['cpus']), 'CPU')}")
        return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code documented at the top of this file."""
    commands = Up | Env | Down | Status | AddNode
    return parse(commands, args=argv, prog="python -m infra.local", description=__doc__).run()


if __name__ == "__main__":
    run_main(main)
