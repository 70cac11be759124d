"""A boto3 client for S3, and what its errors mean.

Time-outs are short and retries few, so that an absent server is an error within seconds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from hrf.errors import StorageError

_CONNECT_SECONDS = 3
_READ_SECONDS = 30
ATTEMPTS = 3
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_CREDENTIALS_FIX = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (in a cluster: the secret that the pipeline names) to a key that"
    " may read and write this bucket"
)


def connect(uri: str, environment: Mapping[str, str] | None, *, attempts: int = ATTEMPTS) -> Any:
    """Make an S3 client with path-style addresses, short time-outs and few retries; nothing is sent yet.

    Args:
        uri: What the client is for, for messages.
        environment: `AWS_*` variables to use instead of the process's own and whatever else boto3 finds.
        attempts: How often a request is sent at most.

    Raises:
        StorageError: If the endpoint is no URL.
    """
    # Imported here: it takes a good part of a second, and most commands never talk to storage.
    import boto3
    from botocore.config import Config

    given: dict[str, Any] = {}
    if environment is not None:
        given = {
            "aws_access_key_id": environment.get("AWS_ACCESS_KEY_ID"),
            "aws_secret_access_key": environment.get("AWS_SECRET_ACCESS_KEY"),
            "aws_session_token": environment.get("AWS_SESSION_TOKEN"),
            "region_name": environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION"),
        }
    variables = os.environ if environment is None else environment
    endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL")
    session = boto3.session.Session(**given)
    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": attempts},
        s3={"addressing_style": "path"},
        # Checksums in trailers are AWS's own; other servers trip over them, and files are verified by sha256 anyway.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # No proxy can reach a server on this machine's own loopback.
        proxies={} if endpoint and urlsplit(endpoint).hostname in _LOOPBACK else None,
    )
    wrong = StorageError(
        uri,
        problem="the endpoint is no URL, or holds a user name",
        fix="set AWS_ENDPOINT_URL_S3 to http(s)://HOST:PORT; keys belong in AWS_ACCESS_KEY_ID and _SECRET_ACCESS_KEY",
    )
    try:
        client = session.client(
            "s3", region_name=session.region_name or "us-east-1", endpoint_url=endpoint, config=config
        )
    except ValueError:
        raise wrong from None  # boto's message repeats the endpoint, which may hold a password.
    if "@" in client.meta.endpoint_url:
        raise wrong
    return client


def error_code(error: Any) -> str:
    """S3's error code, such as NoSuchKey; for HEAD requests only the HTTP status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def explain_refusal(error: Any, bucket: str) -> tuple[str, str]:
    """What a refusal means, and the fix. S3's own message is left out: it can repeat parts of the request."""
    code = error_code(error)
    if code == "NoSuchBucket":
        return f"there is no bucket {bucket!r}", "create the bucket, or name one that exists"
    if code in {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired"}:
        return f"the server refuses the credentials ({code})", _CREDENTIALS_FIX
    if code in {"AccessDenied", "403", "Forbidden"}:
        return f"these credentials may not do that here ({code})", _CREDENTIALS_FIX
    if code in {"SlowDown", "ServiceUnavailable", "InternalError", "500", "503", "RequestTimeout"}:
        return f"the server answers {code}, also after {ATTEMPTS} attempts", "look at the server's log; run again"
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    operation = getattr(error, "operation_name", "the request")
    return f"the server refuses {operation} ({code}, HTTP {status})", "check the location and the server's log"


def explain_silence(error: BaseException, endpoint: str) -> tuple[str, str]:
    """What it means that no answer came, and the fix. Of the endpoint only host and port are shown."""
    from botocore.exceptions import NoCredentialsError, PartialCredentialsError

    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return "no credentials were found", _CREDENTIALS_FIX
    address = urlsplit(endpoint)
    where = f"{address.scheme}://{address.hostname}" + (f":{address.port}" if address.port else "")
    return (
        f"no answer from {where} ({type(error).__name__})",
        "check that the server runs, and that AWS_ENDPOINT_URL_S3 names it as seen from here",
    )
