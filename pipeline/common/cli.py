"""What every command line shares: exit codes, one-line errors, logs.

Exit codes: 0 finished; 1 failed while running (fix the cause and run the same command again); 2 refused, because of
what the user gave or of what is missing around it; 130 interrupted, 143 terminated (SIGTERM).

An error is one line on standard error: ``error: ...`` for 2, ``failed: ...`` for 1. Where there is more to know (the
error came from a worker or from a library, or is a defect of ours) the line ends with the name of a file below
``RECIPROCAL_HOME/logs`` that holds the whole traceback. No traceback is printed.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from pipeline.common.atomic import write_atomically
from pipeline.common.printable import PrintableFormatter, printable
from pipeline.config.base import check_numbers
from pipeline.config.stack import home, state_folder
from pipeline.errors import ReciprocalError, UserError

if TYPE_CHECKING:
    from typing_extensions import TypeForm  # a class, or a union of classes

log = logging.getLogger("jobs")


class PrintableConsole(Console):
    """Prints strings as they are, each on one line: what is printed holds names that come from outside, which must
    neither style nor forge anything (``pipeline.common.printable``). ``[bold]`` is no style here; give ``style=`` or a
    ``rich.text.Text`` of your own words. Several lines are several strings, with ``sep="\\n"``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


console = PrintableConsole(soft_wrap=True)
errors = PrintableConsole(stderr=True, soft_wrap=True)

T = TypeVar("T")


class Terminated(KeyboardInterrupt):
    """SIGTERM. ``run_main`` has it raised where the command is, as Ctrl-C is."""


_terminated = threading.Event()
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def parse(
    kind: TypeForm[T],
    *,
    args: Sequence[str] | None = None,
    default: T | None = None,
    prog: str | None = None,
    description: str | None = None,
) -> T:
    """Arguments of a command line as a config; ``--help`` prints and exits.

    Raises:
        UserError: an unknown field, or a value that is not of its type or no number that a field can mean: one line in
            place of tyro's panel.
    """
    import tyro  # here, so that benches and tests of kernels run where it is not installed

    panel = io.StringIO()
    prog = prog or f"python -m {_command()}"
    help_text = _HelpText(sys.stdout, description or "")
    options: dict[str, Any] = {} if default is None else {"default": default}
    if description:
        options["description"] = _HelpText.MARK
    try:
        with contextlib.redirect_stderr(panel), contextlib.redirect_stdout(help_text):
            parsed = tyro.cli(kind, args=args, prog=prog, **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        words = re.sub(r"[\u2500-\u257f]+", " ", panel.getvalue())  # without the panel's frame and its title
        words = re.split(r"Argument helptext|For full helptext", words)[0]
        message = " ".join(words.split())
        title = re.match(
            r"(Unrecognized options|Value error|Parsing error|Required options|Missing subcommand|Invalid choice)\s+",
            message,
        )
        raise UserError(f"{message[title.end() :] if title else message}; --help lists all fields") from None
    check_numbers(parsed)
    return parsed


class _HelpText:
    """Standard output for ``--help``, with a description in the place of ``MARK``: its lines and paragraphs stay as
    they were written, where tyro would join them.
    """

    MARK = "<description>"

    def __init__(self, out: TextIO, description: str) -> None:
        self._out, self._description = out, description.strip("\n")

    def write(self, text: str) -> int:
        self._out.write(text.replace(self.MARK, self._description))
        return len(text)

    def flush(self) -> None:
        self._out.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)


def _command() -> str:
    """Name of the module that runs, as after ``python -m``."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else "command"


def set_up_logging(level: int = logging.INFO) -> None:
    """Project logs to standard error: in colour on a terminal, one line each in a file; other libraries from
    WARNING on.
    """
    handler: logging.Handler
    if errors.is_terminal:
        handler = RichHandler(console=errors, show_path=False, omit_repeated_times=False)
        handler.setFormatter(PrintableFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("jobs", "pipeline", "preprocessing", "infra"):
        logging.getLogger(name).setLevel(level)


def run_main(
    main: Callable[[], int], *, explain: Callable[[BaseException], ReciprocalError | None] = lambda error: None
) -> NoReturn:
    """Run ``main`` and exit with its code, or with that of the error it ends with (see the module).

    Args:
        explain: makes one of our errors of an error that is not ours and has one behind it, or returns None. Commands
            that use Ray give ``jobs.cluster.errors.explain``.
    """
    set_up_logging()
    signal.signal(signal.SIGTERM, _terminate)
    _terminated.clear()
    try:
        code = main()
    except KeyboardInterrupt as stop:
        code = 143 if _terminated.is_set() or isinstance(stop, Terminated) else 130
        for number in (
            signal.SIGINT,
            signal.SIGTERM,
        ):  # what is still to be put away shall not be interrupted by an error
            signal.signal(number, lambda number, _: os._exit(128 + number))
        errors.print(f"{'terminated' if code == 143 else 'interrupted'}: run the same command again to continue")
    except Exception as error:
        code = _report(error, explain)
    sys.exit(code)


def terminated() -> Terminated:
    """What a handler of SIGTERM raises. Ray makes a plain KeyboardInterrupt of whatever is raised while it waits, so
    that ``run_main`` is told here too.
    """
    _terminated.set()
    return Terminated()


def _terminate(number: int, frame: object) -> NoReturn:
    raise terminated()


def _report(error: Exception, explain: Callable[[BaseException], ReciprocalError | None]) -> int:
    """Print one line about an error and return the exit code."""
    known = explain(error) or _full_disk(error) or error
    refused = isinstance(known, UserError)
    text = str(known) if isinstance(known, ReciprocalError) else one_line(known)
    from_elsewhere = known is not error or (error.__cause__ is not None and explain(error.__cause__) is not None)
    # Our own error that nothing else caused, or that refuses what the user gave, says all in its text.
    if from_elsewhere or not (refused or (isinstance(error, ReciprocalError) and error.__cause__ is None)):
        text = f"{text}; whole traceback: {_write_traceback(error)}"
    errors.print(f"{'error' if refused else 'failed'}: {text}", style="bold red")
    return 2 if refused else 1


def _full_disk(error: Exception) -> ReciprocalError | None:
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    where = error.filename or tempfile.gettempdir()  # a write says no name: what commands write is temporary
    return ReciprocalError(
        f"{where} cannot be written ({error.strerror}): free some space there, or set TMPDIR to a folder with more"
    )


def one_line(error: BaseException) -> str:
    """Class and first line of an exception, without colours."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _write_traceback(error: BaseException) -> str:
    """Write the traceback of an error, those of the errors behind it included; returns the file, or why there is none.

    Its user alone can read it: messages of libraries may hold what nobody else should see.
    """
    file = home().absolute() / "logs" / f"{_command()}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    parts = [*traceback.format_exception(error)]
    # Ray Train shortens the tracebacks of its ranks in the text of its error; it keeps them whole beside it.
    for source in (error, error.__cause__):
        for rank, failure in sorted((getattr(source, "worker_failures", None) or {}).items()):
            parts.append(f"\nrank {rank}:\n{failure}\n")
    text = _COLOUR.sub("", "".join(parts))
    try:
        state_folder("logs")
        write_atomically(file, text.encode(), mode=0o600)
    except OSError as problem:
        return f"not written ({problem})"
    return str(file)
