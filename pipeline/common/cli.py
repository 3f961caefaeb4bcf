"""What every command line shares: exit codes, one-line errors, logs.

Exit codes: 0 finished; 1 failed while running (mend and run the same command again); 2 refused before any work.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro
from rich.console import Console
from rich.logging import RichHandler

from pipeline.errors import ReciprocalError, UserError

log = logging.getLogger("jobs")
console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

T = TypeVar("T")


def parse(
    kind: type[T],
    *,
    args: Sequence[str] | None = None,
    default: T | None = None,
    prog: str | None = None,
    description: str | None = None,
) -> T:
    """Arguments of a command line as a config; ``--help`` prints and exits.

    Raises:
        UserError: an unknown field, or a value that is not of its type: one line in place of tyro's panel.
    """
    panel = io.StringIO()
    try:
        with contextlib.redirect_stderr(panel):
            if default is None:
                return tyro.cli(kind, args=args, prog=prog, description=description)
            return tyro.cli(kind, args=args, default=default, prog=prog, description=description)
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


def set_up_logging(level: int = logging.INFO) -> None:
    """Project logs to standard error: in colour on a terminal, one line each in a file; other libraries from
    WARNING on.
    """
    handler: logging.Handler
    if errors.is_terminal:
        handler = RichHandler(console=errors, show_path=False, omit_repeated_times=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("jobs", "pipeline", "preprocessing", "infra"):
        logging.getLogger(name).setLevel(level)


def run_main(main: Callable[[], int]) -> None:
    """Run ``main`` and exit with its code; a UserError is one line and 2, another error of ours one line and 1."""
    set_up_logging()
    try:
        code = main()
    except UserError as error:
        errors.print(f"error: {error}", markup=False, style="bold red")
        code = 2
    except ReciprocalError as error:
        errors.print(f"failed: {error}", markup=False, style="bold red")
        code = 1
    except KeyboardInterrupt:
        errors.print("interrupted: run the same command again to go on")
        code = 130
    sys.exit(code)
