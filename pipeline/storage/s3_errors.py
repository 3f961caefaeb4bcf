"""Refusals of an S3 server, as errors that say what to fix. What may pass is in ``pipeline.storage.s3_retry``."""

from __future__ import annotations

import botocore.exceptions

from pipeline.errors import NotFoundError, StorageError, StorageSetupError

_ABSENT = {"404", "NoSuchKey", "NotFound"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "RequestExpired"}
_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed", "InvalidClientTokenId"}
_DENIED = (401, 403, 405)
_WRITING = ("Put", "Delete", "Create", "Upload", "Complete")  # how names of operations start
_CREDENTIALS = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or role"

NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.SSOError,  # a login that has expired, too
    botocore.exceptions.TokenRetrievalError,
)
"""What boto3 raises before it asks a server."""


def code_of(error: botocore.exceptions.ClientError) -> str:
    """S3's word for what is wrong; the HTTP status in answers to HEAD, which have no words."""
    return str(error.response.get("Error", {}).get("Code", ""))


def explain_refusal(error: botocore.exceptions.ClientError, where: str, bucket: str, uri: str) -> StorageError:
    """Our error for one that no retry has helped.

    Args:
        where: the object's URI.
        bucket: its bucket.
        uri: of the storage's root.
    """
    code, status = code_of(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    writing = error.operation_name.startswith(_WRITING)
    if code == "NoSuchBucket":
        return StorageSetupError(f"bucket {bucket!r} does not exist: create it or name another in {uri}")
    if code in _ABSENT:
        return NotFoundError(f"{where} does not exist")
    if code in _EXPIRED:
        return StorageSetupError(
            f"the credentials with which {where} was asked for have expired ({code}): renew them ({_CREDENTIALS};"
            " AWS_SESSION_TOKEN belongs to them) and run the same command again"
        )
    if code == "RequestTimeTooSkewed":
        return StorageSetupError(f"{where}: this machine's clock differs too much from the server's ({code}): set it")
    if status in _DENIED and writing and code not in _KEYS:
        return StorageSetupError(
            f"writing {where} is denied ({code}): let these credentials ({_CREDENTIALS}) write there, or name a place"
            " where they may"
        )
    if status in _DENIED or code in _KEYS:
        return StorageSetupError(f"access to {where} is denied ({code}): check the credentials ({_CREDENTIALS})")
    if status == 400:
        why = "; so are expired credentials" if code == "400" else ""
        return StorageSetupError(
            f"{where}: the server refuses the request ({error}){why}: check the credentials and AWS_ENDPOINT_URL"
        )
    return StorageError(f"{where}: {error}")
