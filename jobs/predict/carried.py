"""The code that a registered version carries, run in a process of its own: its modules have the names of ours."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import RejectedSource, UserError

# One line in, one line out. What the model prints goes to standard error.
_PROGRAM = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
for line in sys.stdin:
    try:
        with open(json.loads(line), "rb") as file:
            row = model.predict(pandas.DataFrame({"video": [file.read()]})).iloc[0]
        answer = {"labels": list(row["labels"]), "probabilities": [float(p) for p in row["probabilities"]]}
    except Exception as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), file=answers, flush=True)
"""


@contextlib.contextmanager
def carried_code(model: Path, work: Path) -> Iterator[Callable[[Path], dict[str, Any]]]:
    """A model in the local folder ``model``, ready to answer with its own code.

    Args:
        work: working directory of the process.

    Raises:
        UserError: the process ended; what it printed is on standard error.
    """
    # Isolated: neither the working directory nor PYTHONPATH is on the path, so that `pipeline` is the model's own.
    command = [sys.executable, "-I", "-c", _PROGRAM, str(model.absolute())]
    process = subprocess.Popen(command, cwd=work, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def answer(path: Path) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # the missing answer tells it
            stdin.write(json.dumps(str(path.absolute())) + "\n")
            stdin.flush()
        line = stdout.readline()
        if not line:
            raise UserError(
                f"the code that the version carries ended with code {process.wait()}; its messages are above"
            )
        found = json.loads(line)
        if "error" in found:
            raise RejectedSource("refused", f"by the code that the version carries: {found['error']}")
        return found

    try:
        yield answer
    finally:
        process.kill()
        process.communicate()
