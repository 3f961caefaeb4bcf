"""Run any job of this project on a Ray cluster, and follow it.

    python -m jobs.submit -- train crn_bninception --data.uri s3://BUCKET/kinetics
    python -m jobs.submit --address http://HEAD:8265 --credentials /home/ray/s3.env -- preprocess --format kinetics ...
    python -m jobs.submit list
    python -m jobs.submit status JOB
    python -m jobs.submit logs JOB                         # follows it to its end; --no-follow: what there is
    python -m jobs.submit stop JOB

Behind -- stands a job with the arguments that it takes here. The cluster needs the packages that this project asks for,
not its code: the working directory goes along, without .git, virtual environments, data and files that look like
secrets.

Reads    the working directory; RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN), where the cluster asks for a token.
Passes   addresses and regions of S3 and MLflow that this shell has (AWS_ENDPOINT_URL, MLFLOW_TRACKING_URI, ...), since
         everybody who sees the dashboard sees them too; passwords and keys never. Those come from a file on the head
         node (--credentials), or from the node's role.
Prints   the job's log. Ctrl-C leaves the job alone and says how to come back.
Restart  the same command is a new job: jobs of this project go on where they were.
Exit     the job's own exit code; 130 after Ctrl-C; 143 if the job was stopped; 1 the cluster failed; 2 refused, nothing
         was submitted.
"""

from __future__ import annotations

import dataclasses
import getpass
import os
import re
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.cluster.environment import SECRETS, shared_variables
from jobs.submit.after import FOLLOW_UP
from jobs.submit.cluster import dashboard, job_client, refusals
from jobs.submit.follow import follow
from jobs.submit.package import MOST_BYTES, find_package
from pipeline.common.cli import console, parse
from pipeline.common.printable import printable
from pipeline.config.base import require
from pipeline.config.version import code_version
from pipeline.errors import ConfigError, UserError

JOBS = ("train", "preprocess", "evaluate", "ensemble", "compare", "promote", "predict", "verify", "report", "sync")
JOBS += ("ablations", "bench", "demo")
_JOB = re.compile(r"[A-Za-z0-9_-]{1,100}")


@dataclasses.dataclass(frozen=True)
class SubmitArgs:
    """Run a job on a cluster: options, --, and the job with its arguments."""

    address: str = ""
    """The cluster's dashboard, http://HEAD:8265. Default: RAY_API_SERVER_ADDRESS, else the local stack's."""
    working_dir: Path = Path()
    """Folder that goes to the cluster."""
    credentials: str = ""
    """Path of a shell file on the head node that the job reads first, such as one that exports AWS_ACCESS_KEY_ID. Its
    content is shown nowhere.
    """
    job_id: str = ""
    """Name of the job; default: of the command and the time."""
    detach: bool = False
    """Return once the job is submitted."""

    def __post_init__(self) -> None:
        fix = "give the file's path on the head node, from /"
        require(not self.credentials or self.credentials.startswith("/"), "credentials", self.credentials, fix)
        if self.job_id and not _JOB.fullmatch(self.job_id):
            raise ConfigError("job_id", self.job_id, "use letters, digits, - and _, at most 100 of them")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and submit, or look after a job that was; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--" in words:
        middle = words.index("--")
        args = parse(SubmitArgs, args=words[:middle], description=__doc__)
        return submit(args, words[middle + 1 :])
    if words and words[0] in FOLLOW_UP:
        return FOLLOW_UP[words[0]](words[1:])
    if not words or words[0] in ("-h", "--help"):
        parse(SubmitArgs, args=["--help"], description=__doc__)
    raise UserError(
        f"jobs.submit {' '.join(words)}: give the job behind --, as in `python -m jobs.submit -- train RECIPE`, or one"
        f" of {', '.join(FOLLOW_UP)}"
    )


def entrypoint(job: Sequence[str], credentials: str = "") -> str:
    """The command that the cluster runs, for a shell.

    Raises:
        UserError: it is no job of this project.
        ConfigError: an argument holds a secret of this shell, or the password of an address: the dashboard would show
            it.
    """
    if not job:
        raise UserError("job: nothing stands behind --; give a job, as in `python -m jobs.submit -- train RECIPE`")
    name = job[0].removeprefix("jobs.")
    if name not in JOBS:
        raise UserError(f"job: {printable(job[0])!r} is none of {', '.join(JOBS)}")
    for word in job:
        for variable in SECRETS:
            if (secret := os.environ.get(variable)) and secret in word:
                raise ConfigError(variable, "...", "its value is in the job's arguments, which the dashboard shows")
        if re.search(r"\w://[^/\s@]*:[^/\s@]+@", word):
            raise ConfigError("job", word.partition("://")[0] + "://...", "holds a password, which the dashboard shows")
    command = shlex.join(["python", "-m", f"jobs.{name}", *job[1:]])
    return f"sh -c {shlex.quote(f'. {shlex.quote(credentials)} && exec {command}')}" if credentials else command


def submit(args: SubmitArgs, job: Sequence[str]) -> int:
    """Submit, and follow the job to its end; returns the exit code.

    Raises:
        UserError: refused; nothing was submitted.
        ReciprocalError: the cluster failed.
    """
    command = entrypoint(job, args.credentials)
    package = find_package(args.working_dir.absolute(), MOST_BYTES)
    address = dashboard(args.address)
    client = job_client(address)
    name = args.job_id or _name(job)
    console.print(f"sending  {package}", markup=False)
    shared = {key: value for key, value in shared_variables().items() if key != "RECIPROCAL_STACK"}  # of this host
    variables = {**shared, "RECIPROCAL_COMMIT": code_version(), "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryDirectory(prefix="submit-") as folder:
        package.copy_to(Path(folder))
        with refusals(address):
            client.submit_job(
                entrypoint=command,
                submission_id=name,
                runtime_env={"working_dir": folder, "env_vars": variables},
                metadata={"job": job[0], "user": _user()},
            )
    console.print(f"job      {name}", f"page     {address}/#/jobs/{name}", sep="\n", markup=False)
    where = f" --address {args.address}" if args.address else ""
    if args.detach:
        console.print(f"log      python -m jobs.submit logs {name}{where}", markup=False)
        return 0
    return follow(client, address, name, where)


def _name(job: Sequence[str]) -> str:
    words = [job[0].removeprefix("jobs."), *(word for word in job[1:2] if not word.startswith("-"))]
    readable = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(words)).strip("-")[:48]
    return f"{readable}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _user() -> str:
    try:
        return printable(getpass.getuser())
    except (OSError, KeyError):
        return ""
