"""What the local stack knows about itself between commands, on disk under ``home()``.

``stack.json``    the addresses and credentials clients read (``pipeline.config.stack.Stack``); written last, when all
                  is healthy
``servers.json``  which process serves what; written as soon as a server starts, so that ``down`` finds it after a crash
``lock``          held by ``up``, ``down`` and ``add-node``, one at a time

All are readable by their user alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from infra.process import ProcessId
from pipeline.common.atomic import write_atomically
from pipeline.config.stack import Stack, home, stack_file, state_folder
from pipeline.errors import UserError

_ANEW = "delete it, new credentials are made by the next `up`"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerRecord:
    """One server that was started. ``settings`` is what it was started with: where it differs from what is wanted,
    restart.
    """

    name: str
    address: str
    ports: dict[str, int]
    pid: int
    start_ticks: int
    boot_id: str
    log: str
    settings: dict[str, str]

    @property
    def process(self) -> ProcessId:
        return ProcessId(self.pid, self.start_ticks, self.boot_id)


@dataclasses.dataclass(kw_only=True)
class Servers:
    """All started servers by name, in the order of their start, and the token in their environment."""

    token: str
    records: dict[str, ServerRecord] = dataclasses.field(default_factory=dict)

    def save(self) -> None:
        records = [dataclasses.asdict(record) for record in self.records.values()]
        write_private(servers_file(), json.dumps({"token": self.token, "servers": records}, indent=1))


def servers_file() -> Path:
    return home() / "servers.json"


def load_servers() -> Servers:
    """Read the record, or begin an empty one with a new token.

    Raises:
        UserError: the file is damaged; nothing is guessed, because it decides which processes get signals.
    """
    path = servers_file()
    try:
        content = json.loads(path.read_text())
        records = [ServerRecord(**record) for record in content["servers"]]
        return Servers(token=content["token"], records={record.name: record for record in records})
    except FileNotFoundError:
        return Servers(token=secrets.token_hex(16))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); end the servers it names by hand, then delete it") from error


def write_stack(stack: Stack) -> None:
    """Publish the addresses for clients, atomically."""
    write_private(stack_file(), json.dumps(dataclasses.asdict(stack), indent=1))


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` atomically by a file of mode 0600 holding ``text``; a reader sees the old or the new, never
    a part.
    """
    state_folder(*path.absolute().parent.relative_to(home().absolute()).parts)
    write_atomically(path, text.encode(), mode=0o600)


def kept_secret(path: Path, make: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Return the credentials in ``path``: made up on the first call, the same ever after. File mode 0600.

    Raises:
        UserError: the file is damaged.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        made = make()
        write_private(path, json.dumps(made))
        return made
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); {_ANEW}") from error
    if not isinstance(found, dict) or found.keys() != make().keys() or not all(map(_is_text, found.values())):
        raise UserError(f"{path} is damaged; {_ANEW}")
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


@contextlib.contextmanager
def locked(timeout_s: float = 300.0) -> Iterator[None]:
    """Hold the stack's lock; the kernel frees it when the holder dies, however it dies.

    Raises:
        UserError: another command held it for ``timeout_s``.
    """
    path = state_folder() / "lock"
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    raise UserError(
                        f"{path} is held by process {file.read().strip() or '?'}; wait for it, or end it"
                    ) from None
                time.sleep(0.1)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
