"""Processes of the local stack: start them detached, know them again, end them and nobody else.

A pid alone names nothing: the kernel gives it to another program once its owner is gone. Here a process
is its pid, its start time in clock ticks since boot, and the boot. Servers start children (Ray starts a
dozen), some of which outlive their parent, so the family of a server is found three ways: parent links,
the session that each server leads, and a random token in the environment that children inherit.

psutil says what there is to know about a process, save two things. Its start time counts from the epoch and moves when
the clock is set, so that a process would not be known again from a record on disk; and it signals a pid, where a pidfd
cannot hit a later owner of it. Both are done here, which needs Linux.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from pipeline.errors import ReciprocalError, UserError

TOKEN_VARIABLE = "RECIPROCAL_STACK_TOKEN"
_PROC = Path("/proc")
_BOOT_ID = _PROC / "sys/kernel/random/boot_id"

# Children of this process must be waited for, or they stay zombies for as long as it lives. Entries stay until they
# ended.
_children: dict[int, subprocess.Popen[bytes]] = {}


class ProcessError(ReciprocalError):
    """A process could not be ended."""


@dataclasses.dataclass(frozen=True)
class ProcessId:
    """One process, never confused with a later owner of its pid."""

    pid: int
    start_ticks: int  # clock ticks from boot to the start of the process
    boot_id: str


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A living process in the table of all."""

    pid: int
    parent: int
    session: int
    start_ticks: int


def start(command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> ProcessId:
    """Start ``command`` in a session of its own, with stdin closed and output appended to ``log``.

    It survives the end of this process and of its terminal.

    Raises:
        OSError: the program cannot be executed.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            list(command),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _children[child.pid] = child
    identity = identify(child.pid)
    if identity is None:  # cannot happen: an unwaited child keeps its entry in /proc
        raise ProcessError(f"{command[0]}: process {child.pid} vanished")
    return identity


def boot_id() -> str:
    """Return the kernel's id of this boot.

    Raises:
        UserError: not Linux.
    """
    try:
        return _BOOT_ID.read_text().strip()
    except OSError as error:
        raise UserError(f"the local stack needs Linux: {error}") from error


def identify(pid: int) -> ProcessId | None:
    """Return the identity of the process that owns ``pid`` now (zombies included), or None."""
    ticks = _start_ticks(pid)
    return None if ticks is None else ProcessId(pid, ticks, boot_id())


def is_alive(process: ProcessId) -> bool:
    """Return whether exactly this process runs. A zombie does not, nor does another process with its pid."""
    # In this order: were the start time compared first, the pid could pass to another process before it is seen alive.
    alive = _runs(process.pid) and _start_ticks(process.pid) == process.start_ticks and process.boot_id == boot_id()
    _reap()  # after the look: a child that ended just before it would stay a zombie until somebody asks again
    return alive


def send(process: ProcessId, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; return False, and send nothing, where it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        # The handle pins whoever has the pid now. Comparing after opening leaves no gap for a recycled pid.
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def family(leaders: Iterable[ProcessId], token: str) -> list[ProcessId]:
    """Return every living process of the servers: leaders, members of their sessions, those with the token,
    descendants of all.

    This process and its ancestors never belong, whatever they inherited.

    Args:
        leaders: processes started with ``start``; dead ones are allowed.
        token: how the value of ``TOKEN_VARIABLE`` they were started with begins; empty for none.
    """
    _reap()
    table = {entry.pid: entry for entry in map(_look_at, psutil.pids()) if entry is not None}
    leaders = list(leaders)
    living = {leader.pid for leader in leaders if is_alive(leader)}
    marked = {pid for pid in table if token and _has_token(pid, token)}
    # A dead leader's session number stays reserved while the session has members. It is ours if a process
    # with the token is in it; otherwise the number may have been given away, and nobody in it is touched.
    marked_sessions = {table[pid].session for pid in marked}
    sessions = living | ({leader.pid for leader in leaders if leader.boot_id == boot_id()} & marked_sessions)
    members = living | marked | {pid for pid, entry in table.items() if entry.session in sessions}
    children: dict[int, list[int]] = {}
    for entry in table.values():
        children.setdefault(entry.parent, []).append(entry.pid)
    stack = list(members)
    while stack:
        for child in children.get(stack.pop(), ()):
            if child not in members:
                members.add(child)
                stack.append(child)
    spared = _ancestry(os.getpid(), table)
    return [ProcessId(pid, table[pid].start_ticks, boot_id()) for pid in sorted(members - spared) if pid in table]


def end(leaders: Sequence[ProcessId], token: str, *, grace_s: float = 8.0) -> int:
    """End the leaders and all their processes; return how many were found.

    Leaders are asked first (SIGTERM) and get ``grace_s`` to bring their children down in their own order, then whatever
    is left is asked, then killed.

    Raises:
        ProcessError: processes survive SIGKILL (stuck in the kernel, or not this user's).
    """
    found = set(family(leaders, token))
    if not found:
        return 0
    asked = [leader for leader in leaders if send(leader, signal.SIGTERM)]
    _wait_gone(asked, grace_s)
    for number, patience_s in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
        # Found anew: a server may have started a child meanwhile. Those found before are kept: once their parent is
        # dead, the link that made them ours is gone.
        found |= set(family(leaders, token))
        with contextlib.suppress(PermissionError):
            for process in found:
                send(process, number)
        if _wait_gone(found, patience_s):
            return len(found)
    left = sorted(process.pid for process in found if is_alive(process))
    raise ProcessError(f"processes {left} do not end; look at them with `ps -p {','.join(map(str, left))}`")


def wait_until(condition: Callable[[], bool], timeout_s: float, *, interval_s: float = 0.05) -> bool:
    """Poll ``condition`` until it holds; return False after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval_s)
    return True


def resident_mb(processes: Iterable[ProcessId]) -> float:
    """Return the processes' resident memory, shared pages counted once per process, in MiB."""
    total_bytes = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total_bytes += psutil.Process(process.pid).memory_info().rss
    return total_bytes / (1 << 20)


def _wait_gone(processes: Iterable[ProcessId], timeout_s: float) -> bool:
    processes = list(processes)
    return wait_until(lambda: not any(map(is_alive, processes)), timeout_s)


def _start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, counted from behind the name, which may hold blanks and parentheses."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return int(text[text.rindex(")") + 2 :].split()[19])


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


def _look_at(pid: int) -> _Entry | None:
    """What ``family`` asks of a process; None where it has ended."""
    try:
        if not _runs(pid):
            return None
        parent, session = psutil.Process(pid).ppid(), os.getsid(pid)
    except (psutil.Error, OSError):
        return None
    ticks = _start_ticks(pid)
    return None if ticks is None else _Entry(pid=pid, parent=parent, session=session, start_ticks=ticks)


def _has_token(pid: int, token: str) -> bool:
    try:
        return psutil.Process(pid).environ().get(TOKEN_VARIABLE, "").startswith(token)
    except (psutil.Error, OSError):  # gone, or another user's
        return False


def _ancestry(pid: int, table: Mapping[int, _Entry]) -> set[int]:
    line: set[int] = set()
    while pid in table and pid not in line:
        line.add(pid)
        pid = table[pid].parent
    return line


def _reap() -> None:
    for pid in [pid for pid, child in list(_children.items()) if child.poll() is not None]:
        _children.pop(pid, None)
