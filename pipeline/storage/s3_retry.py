"""Which S3 failures are transient, and how requests are retried.

Everything that a restarted, overloaded or distant server does to a request is transient: refused and reset connections,
timeouts, 5xx and SlowDown, bodies cut short. Such a request is retried after exponentially longer pauses with full
jitter (uniform in [0, ceiling], so that many workers do not retry in step), until its deadline. Refusals (403, no such
bucket, no such key) are final.

Retries happen here and nowhere else: boto3's own are off, because nested retry loops multiply their attempts (8 x 8),
know no deadline, and never cover the reading of a body.
"""

from __future__ import annotations

import http.client
import itertools
import logging
import os
import random
import time
from collections.abc import Callable
from typing import TypeVar

import botocore.exceptions
import botocore.parsers
import urllib3.exceptions

from pipeline.errors import ConfigError, StorageError

log = logging.getLogger(__name__)
T = TypeVar("T")

DEADLINE_VARIABLE = "RECIPROCAL_S3_DEADLINE_S"
_DEADLINE_S = 120.0  # a server or a load balancer restarts in less
_SLOWEST_BYTES_PER_S = 1 << 20  # more time for a body: a data set that is read more slowly is useless anyway
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_QUIET_S = 5.0  # shorter trouble is not worth a line in the log
_SAY_EVERY_S = 30.0  # an outage holds up every request of a loader's threads: one line says it
_JITTER = random.SystemRandom()  # forked workers would share the state of ``random``, and pause in step

_TRANSIENT_CODES = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "TooManyRequests",
    "ServiceUnavailable",
    "InternalError",
    "RequestTimeout",
    "IncompleteBody",
    "BadDigest",
    "XAmzContentSHA256Mismatch",
    "OperationAborted",  # 4xx: a body did not arrive whole
}
_TRANSIENT = (
    botocore.exceptions.ConnectionError,  # refused, closed, timed out
    botocore.exceptions.HTTPClientError,  # the same on the way, and bodies cut short
    botocore.exceptions.IncompleteReadError,
    botocore.parsers.ResponseParserError,  # half an answer
    botocore.exceptions.CredentialRetrievalError,  # a role's credentials are renewed over the network
    botocore.exceptions.MetadataRetrievalError,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
)


class CutError(ConnectionError):
    """A body that ended before its announced length, or an object that is not as long as what was sent."""


class Deadline:
    """The end of the time that one request, all its retries included, may take.

    Args:
        fixed: bodies get no more time for being large.
    """

    def __init__(self, base_s: float, *, fixed: bool = False) -> None:
        self._base_s, self._body_s, self._fixed = base_s, 0.0, fixed
        self._start_s = time.monotonic()

    @property
    def allowed_s(self) -> float:
        return self._base_s + self._body_s

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._start_s

    @property
    def left_s(self) -> float:
        return self.allowed_s - self.elapsed_s

    def allow_for(self, num_bytes: int) -> None:
        """Add the time of a body of that length, once: retries must not postpone the end indefinitely."""
        if not self._fixed:
            self._body_s = max(self._body_s, num_bytes / _SLOWEST_BYTES_PER_S)

    def check(self) -> None:
        """Called between the parts of a body: a server that sends a byte a second never triggers a socket's timeout.

        Raises:
            TimeoutError: the time is over.
        """
        if self.left_s <= 0:
            raise TimeoutError(f"not finished within {self.allowed_s:.0f} s")


def deadline_s() -> float:
    """Seconds that one request may take before its failure is final: ``RECIPROCAL_S3_DEADLINE_S``, default 120.

    Raises:
        ConfigError: the variable is not a positive number.
    """
    text = os.environ.get(DEADLINE_VARIABLE, "")
    try:
        value = float(text) if text else _DEADLINE_S
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(DEADLINE_VARIABLE, text, "give a number of seconds above 0, or unset it")
    return value


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, botocore.exceptions.ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return (
            code in _TRANSIENT_CODES or status in (408, 429) or (status >= 500 and status != 501)
        )  # 501 Not Implemented is permanent
    return isinstance(error, _TRANSIENT)


def with_retries(
    where: str,
    attempt: Callable[[Deadline], T],
    deadline: Deadline,
    final: Callable[[Exception], bool] = lambda error: False,
    on_retry: Callable[[], None] | None = None,
) -> T:
    """Return ``attempt(deadline)``, retried while it fails with transient errors.

    Args:
        where: the object's URI, for messages.
        final: transient errors that are not to be retried.
        on_retry: called before each retry; what it raises ends the request.

    Raises:
        StorageError: the deadline came first; says how often it was tried and what came last.
        Exception: from ``attempt``, as it is, where it is not transient.
    """
    for tries in itertools.count(1):
        try:
            return attempt(deadline)
        except Exception as error:
            if not is_transient(error) or final(error):
                raise
            # The exponent is bounded, because 2.0 ** 1024 overflows.
            pause_s = _JITTER.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(tries - 1, 10)))
            if deadline.left_s <= pause_s:
                raise StorageError(
                    f"{where}: given up after {tries} tries in {deadline.elapsed_s:.0f} s; the last: {_line(error)}"
                ) from error
            if deadline.elapsed_s > _QUIET_S:
                _say(f"{where}: {_line(error)}; trying again for up to {deadline.left_s:.0f} s")
        time.sleep(pause_s)
        if on_retry is not None:
            on_retry()
    raise AssertionError("count() ends")


_said_s = -float("inf")


def _say(line: str) -> None:
    """Warn, every half minute at most. Threads that meet here may say two lines, which does no harm."""
    global _said_s
    if time.monotonic() - _said_s >= _SAY_EVERY_S:
        _said_s = time.monotonic()
        log.warning("%s", line)


def _line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())
