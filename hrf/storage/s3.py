"""A boto3 client for S3, and what its errors mean.

Time-outs are short and retries few, so that an absent server is an error within seconds. boto tries again where a
request was not answered, or with a fault of the server's; not where an answer's body broke off, which is a
`BrokenAnswer` here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
_TOO_MUCH = frozenset({"SlowDown", "Throttling", "RequestLimitExceeded", "TooManyRequests", "429"})
BUSY = _TOO_MUCH | {"ServiceUnavailable", "InternalError", "500", "502", "503", "504", "RequestTimeout"}
"""Codes of refusals that may be over at the next attempt."""
_OTHER_REGION = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "301", "IllegalLocationConstraintException", "InvalidRegion"}
)


def connect(uri: str, environment: Mapping[str, str] | None, *, attempts: int = ATTEMPTS) -> Any:
    """Make an S3 client with path-style addresses, short time-outs and few retries; nothing is sent yet.

    Args:
        uri: What the client is for, for messages.
        environment: `AWS_*` variables to use instead of the process's own and whatever else boto3 finds.
        attempts: How often a request is sent at most.

    Raises:
        StorageError: If the endpoint is no URL, or this machine's own AWS settings can't be used.
    """
    # Imported here: it takes a good part of a second, and most commands never talk to storage.
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    variables = os.environ if environment is None else environment
    endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL")
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
        session = _own_session() if environment is None else _session_of(environment)
        region = variables.get("AWS_REGION") or session.region_name or "us-east-1"
        client = session.client("s3", region_name=region, endpoint_url=endpoint, config=config)
    except ValueError:
        raise wrong from None  # boto's message repeats the endpoint, which may hold a password.
    except BotoCoreError as error:
        raise StorageError(uri, **_explain_settings(error)) from error
    if "@" in client.meta.endpoint_url:
        raise wrong
    client.meta.events.register("before-parse.s3", _refuse_cut_body)
    return client


def _own_session() -> Any:
    """A session with whatever boto3 finds: variables, profiles, roles of the machine."""
    import boto3

    return boto3.session.Session()


def _session_of(environment: Mapping[str, str]) -> Any:
    """A session with these variables alone: profiles and files of AWS settings are about other storages."""
    import boto3
    import botocore.session

    # Each is (name in a file, variable, default, conversion); without the first two only the default is left.
    settings = {
        name: (None, None, default, conversion)
        for name, (_, _, default, conversion) in botocore.session.Session.SESSION_VARIABLES.items()
    }
    for name in ("config_file", "credentials_file"):
        settings[name] = (None, None, os.devnull, None)
    return boto3.session.Session(
        botocore_session=botocore.session.Session(session_vars=settings),
        aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=environment.get("AWS_SESSION_TOKEN"),
        region_name=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION"),
    )


def _explain_settings(error: Exception) -> dict[str, str]:
    """What is wrong with this machine's own AWS settings, by the variable that names them."""
    from botocore.exceptions import ProfileNotFound

    if isinstance(error, ProfileNotFound):
        name = next((name for name in ("AWS_DEFAULT_PROFILE", "AWS_PROFILE") if os.environ.get(name)), "AWS_PROFILE")
        return {
            "problem": f"{name} names the profile {os.environ.get(name)!r}, and there is none of that name",
            "fix": f"unset {name}, or add the profile to the files of AWS settings (AWS_CONFIG_FILE, ~/.aws/config)",
        }
    # Of the message, the names of files; their contents are not in it.
    return {
        "problem": f"the AWS settings can't be used: {error}",
        "fix": "correct that file, or name another one: AWS_CONFIG_FILE (~/.aws/config), AWS_SHARED_CREDENTIALS_FILE"
        " (~/.aws/credentials); AWS_PROFILE chooses the profile",
    }


def process_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """This process's variables with those that reach a storage, beside which no other AWS setting plays a part.

    Args:
        environment: The storage's variables; without any of AWS's, all of this process's stay.
    """
    own = any(name.startswith("AWS_") for name in environment)
    others = {name: value for name, value in os.environ.items() if not (own and name.startswith("AWS_"))}
    return {**others, **environment}


def adopt(environment: Mapping[str, str]) -> None:
    """Make `process_variables` those of this process."""
    variables = process_variables(environment)
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


class BrokenAnswer(Exception):  # noqa: N818 - it becomes an error only after some more attempts.
    """An answer of the server's that did not arrive whole."""


@contextmanager
def broken_answers(*, while_reading: bool = False) -> Iterator[None]:
    """Tell answers that broke off as such.

    Args:
        while_reading: Whether the block only reads a body. Where it sends requests, boto has tried again after a
            time-out already.

    Raises:
        BrokenAnswer: An answer's body did not arrive whole, or made no sense.
    """
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    broken: list[type[Exception]] = [HTTPError, IncompleteReadError, ResponseParserError, ResponseStreamingError]
    if while_reading:
        broken.append(ReadTimeoutError)
    try:
        yield
    except tuple(broken) as error:
        raise BrokenAnswer(type(error).__name__) from error


def _refuse_cut_body(response_dict: Mapping[str, Any], operation_model: Any, **_: object) -> None:
    """Refuse an answer that is shorter than it says: of a cut error, boto would take the status for all there is."""
    body, length = response_dict["body"], response_dict["headers"].get("content-length", "")
    if operation_model.http["method"] == "HEAD" or not isinstance(body, bytes) or not length.isdigit():
        return
    if len(body) != int(length):
        raise BrokenAnswer(f"{len(body)} of {length} bytes")


def error_code(error: Any) -> str:
    """S3's error code, such as NoSuchKey; for HEAD requests only the HTTP status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def explain_refusal(error: Any, bucket: str, *, conditional: bool) -> tuple[str, str]:
    """What a refusal means, and the fix. S3's own message is left out: it can repeat parts of the request."""
    code = error_code(error)
    about = error.response.get("ResponseMetadata", {})
    status, attempts = about.get("HTTPStatusCode"), 1 + about.get("RetryAttempts", 0)
    if code == "NoSuchBucket":
        return f"there is no bucket {bucket!r}", "create the bucket, or name one that exists"
    if code in {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired"}:
        return f"the server refuses the credentials ({code})", _CREDENTIALS_FIX
    if code == "RequestTimeTooSkewed":
        return (
            f"this machine's clock and the server's are too far apart ({code})",
            "set the clock of whichever is wrong (by NTP), and run again",
        )
    if code in _OTHER_REGION:
        named = str(error.response.get("Error", {}).get("Region") or "")
        return (
            f"the request was signed for another region than the bucket's ({code})",
            f"set AWS_REGION to the bucket's region{f', {named}' if named else ''};"
            " if it is, look for blanks in AWS_ACCESS_KEY_ID",
        )
    if conditional and (code in {"NotImplemented", "501"} or status == 501):
        return (
            f"the server does not know conditional writes ({code}, HTTP {status})",
            "use a store that honours If-None-Match and If-Match, such as AWS S3 or SeaweedFS; without them one"
            " promotion could overwrite another",
        )
    if code in {"AccessDenied", "403", "Forbidden"}:
        return f"these credentials may not do that here ({code})", _CREDENTIALS_FIX
    if code in _TOO_MUCH:
        return (
            f"the server has too much to do ({code}, at attempt {attempts} still)",
            "wait some minutes and run again; with many runs at once, give it fewer",
        )
    if code in BUSY:
        return f"the server answers {code}, at attempt {attempts} still", "look at the server's log; run again"
    operation = getattr(error, "operation_name", "the request")
    return f"the server refuses {operation} ({code}, HTTP {status})", "check the location and the server's log"


def explain_silence(error: BaseException, endpoint: str) -> tuple[str, str]:
    """What it means that no answer came, and the fix. Of the endpoint only host and port are shown."""
    from botocore import exceptions

    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return "no credentials were found", _CREDENTIALS_FIX
    if isinstance(
        error,
        exceptions.CredentialRetrievalError
        | exceptions.InvalidConfigError
        | exceptions.SSOError
        | exceptions.TokenRetrievalError,
    ):
        return (
            f"the AWS settings lead to no credentials ({type(error).__name__})",
            f"correct the profile that AWS_PROFILE names (or the default one); or {_CREDENTIALS_FIX}",
        )
    address = urlsplit(endpoint)
    where = f"{address.scheme}://{address.hostname}" + (f":{address.port}" if address.port else "")
    return (
        f"no answer from {where} ({type(error).__name__})",
        "check that the server runs, and that AWS_ENDPOINT_URL_S3 names it as seen from here",
    )
