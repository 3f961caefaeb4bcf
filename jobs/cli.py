"""What every command line shares: exit codes, one-line errors, logs.

Exit codes: 0 finished; 1 failed while running (mend and run the same command again); 2 refused before any work.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from rich.console import Console
from rich.logging import RichHandler

from pipeline.errors import ReciprocalError, UserError

log = logging.getLogger("jobs")
console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def set_up_logging(level: int = logging.INFO) -> None:
    """Project logs to standard error, in colour on a terminal; other libraries from WARNING on."""
    handler = RichHandler(console=errors, show_path=False, omit_repeated_times=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
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
