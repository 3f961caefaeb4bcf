"""Exceptions of the project. Every one pickles, because they cross process borders under Ray.

An exception whose ``__init__`` takes anything but its ``args`` fails to unpickle, so each class here
keeps its fields in ``args`` and formats them in ``__str__``.
"""

from __future__ import annotations


class ReciprocalError(Exception):
    """Base of all errors this project raises on purpose."""


class UserError(ReciprocalError):
    """Wrong input or a wrong environment: nothing has been started. Commands exit with 2."""


class ConfigError(UserError):
    """A field holds a value that cannot work.

    Args:
        field: dotted name as on the command line, for example ``data.batch_size``.
        value: what was given.
        fix: what to do, as an imperative sentence.
    """

    def __init__(self, field: str, value: object, fix: str) -> None:
        super().__init__(field, value, fix)

    def __str__(self) -> str:
        field, value, fix = self.args
        return f"{field} = {value!r}: {fix}"


class StorageError(ReciprocalError):
    """Object storage or the file system failed after all retries."""


class NotFoundError(StorageError):
    """The object or file does not exist."""


class NotAFileError(NotFoundError):
    """There is something at that path that is no file: a folder, a pipe, a socket or a device."""


class StorageSetupError(UserError, StorageError):
    """Bucket, credentials or endpoint are wrong; no retry can help."""


class ManifestError(UserError):
    """A manifest or a shard record is missing, damaged or belongs to another data set."""


class DamagedCheckpointError(UserError):
    """A file of a checkpoint is missing, cut off or has other bytes than were written; the text names its URI."""


class RejectedSource(ReciprocalError):
    """A source video that cannot become a sample.

    Args:
        reason: one word of ``preprocessing``'s closed list, counted in records and manifest.
        detail: what was seen, for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)

    @property
    def reason(self) -> str:
        return self.args[0]

    @property
    def detail(self) -> str:
        return self.args[1]

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class NotFiniteError(ReciprocalError):
    """The loss or the gradient stopped being a finite number; the same steps again would end the same way."""


class DamagedSampleError(ReciprocalError):
    """More samples than the budget allows could not be read back intact."""


class StepTimeoutError(ReciprocalError):
    """A training step took longer than ``run.step_timeout_s``. What held it up may have passed when the run is
    restarted from its last checkpoint.
    """
