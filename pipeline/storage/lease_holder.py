"""One writer of a storage as its lease object describes it."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any, get_type_hints


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lease. Everything but ``name``, ``plan``, ``held``, ``beat`` and ``took_over`` is for messages, or
    for whoever looks from the same machine.
    """

    name: str  # random
    plan: str  # what is written: writers of equal plans write equal bytes
    held: bool  # False while it still looks for others
    beat: int  # changes with every heartbeat
    user: str
    host: str
    machine: str  # names one start of one kernel and one space of process ids; empty: unknown
    pid: int
    started: int  # when the process began, in the kernel's ticks
    since: str  # UTC, by the writer's own clock
    about: dict[str, Any]  # what the plan is made of
    took_over: list[str]  # names of abandoned leases that it removed

    @classmethod
    def new(cls, plan: str, about: dict[str, Any]) -> Holder:
        """This process, before it has looked for others."""
        return cls(
            name=secrets.token_hex(8),
            plan=plan,
            held=False,
            beat=0,
            user=_user(),
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=_started(os.getpid()),
            since=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            about=about,
            took_over=[],
        )

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, name: str, data: bytes) -> Holder:
        """The holder in ``data``; where that is none (cut off, or of another version), one with an unknown plan."""
        try:
            fields = json.loads(data)
            kinds = {key: getattr(kind, "__origin__", kind) for key, kind in get_type_hints(cls).items()}
            texts = (fields["user"], fields["host"], fields["since"])
            if (
                fields["name"] == name
                and all(isinstance(fields[key], kind) for key, kind in kinds.items())
                and all(text.isprintable() for text in texts)
            ):
                return cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass
        unknown = {"user": "", "host": "", "machine": "", "since": "", "plan": ""}
        return cls(name=name, held=True, beat=0, pid=0, started=0, about={}, took_over=[], **unknown)

    @property
    def is_gone(self) -> bool:
        """Whether this machine can tell that the process has ended."""
        return bool(self.machine) and self.machine == _machine() and _started(self.pid) != self.started

    def __str__(self) -> str:
        if not self.plan:
            return f"somebody whose lease .lease-{self.name}.json cannot be read"
        return f"{self.user} on {self.host} (process {self.pid}, since {self.since})"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return str(os.getuid())


def _machine() -> str:
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    return ""


def _started(pid: int) -> int:
    """When a process began, in ticks since the kernel started; -1 where there is no such process."""
    try:
        # The name of the program, in brackets, may hold anything.
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return -1 if state in "ZX" else int(rest[18])
