"""Secrets come in by environment variables, reach the steps that need them, and are blotted out of all that is written.

Which variables hold one is told by their names; a password in a URL is one, too. A key's id is none.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from urllib.parse import quote, urlsplit

from hrf.errors import ConfigError

HUB_TOKEN, REWARD_TOKEN, KUBEFLOW_TOKEN = "HF_TOKEN", "HRF_REWARD_TOKEN", "HRF_KFP_TOKEN"
_RECORDS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""Every step keeps records, if only of its failure."""
SCORING_SECRETS = (HUB_TOKEN, REWARD_TOKEN)
"""For work that runs rewards: a scorer may come from the hub, or be a server."""
_OURS = (*_RECORDS, HUB_TOKEN, REWARD_TOKEN, KUBEFLOW_TOKEN)

_SECRET_NAME = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|APIKEY|KEY)$", re.IGNORECASE)
_FEWEST, _FEWEST_OF_A_KIND = 8, 16


def without_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """A text with the values of secret variables blotted out.

    Args:
        text: Any text, such as a log or a traceback.
        environment: Whose variables; this process's own unless given.
    """
    return blotter(os.environ if environment is None else environment)(text)


def blotter(environment: Mapping[str, str]) -> Callable[[str], str]:
    """What puts `<NAME>` in place of each secret of an environment, also where it is quoted or escaped.

    What is short or common is left alone, as it stands in many a text that has nothing to do with the secret.
    """
    names: dict[str, str] = {}
    for name, value in environment.items():
        secret = value if _SECRET_NAME.search(name) else _password(value)
        # A log is read line by line, and a key may have several.
        escaped = (repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret), quote(secret, safe=""))
        forms = (secret, *escaped, *secret.splitlines())
        names.update((form, name) for form in forms if not _shortness(form))
    if not names:
        return str
    # The longest first: one may hold another.
    pattern = re.compile("|".join(re.escape(form) for form in sorted(names, key=len, reverse=True)))
    return lambda text: pattern.sub(lambda found: f"<{names[found[0]]}>", text)


def check_secrets(environment: Mapping[str, str] | None = None) -> None:
    """Refuse secrets that could not be blotted out.

    Args:
        environment: Whose variables; this process's own unless given.

    Raises:
        ConfigError: One of the secrets that we ask for is short, common, or no single word.
    """
    for name in _OURS:
        value = (os.environ if environment is None else environment).get(name)
        if value and (weakness := _weakness(value)):
            raise ConfigError(
                name,
                expected=f"a secret that is found nowhere by chance, and so can be blotted out of what is written: at"
                f" least {_FEWEST} characters, {_FEWEST_OF_A_KIND} if all are letters or all are digits, and no blanks",
                got=weakness,
                fix="have a longer one made, such as by `openssl rand -hex 24`",
            )


@contextlib.contextmanager
def only_secrets(needed: Collection[str]) -> Iterator[None]:
    """Leave work with the secrets that it needs, and with those for its records, until it is done.

    Args:
        needed: Names of variables. Whoever needs REWARD_TOKEN runs rewards, which are anybody's code, and may need any
            secret that is not ours.
    """
    kept = {*_RECORDS, *needed}
    if REWARD_TOKEN in needed:
        kept |= set(os.environ) - set(_OURS)
    withheld = {
        name: value
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name) and name not in kept and not name.startswith("AWS_")
    }
    for name in withheld:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(withheld)


class BlottingFormatter(logging.Formatter):
    """Formats records of a log, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line or lines."""
        return without_secrets(super().format(record))


def _password(value: str) -> str:
    """The password in a URL; empty where there is none."""
    try:
        return (urlsplit(value).password or "") if "://" in value else ""
    except ValueError:
        return ""


def _weakness(secret: str) -> str:
    """What is wrong with a secret, without a character of it; empty if nothing is."""
    is_word = re.fullmatch(r"[!-~]+", secret)
    return _shortness(secret) if is_word else "one with a blank, a line break, or a letter beyond ASCII"


def _shortness(secret: str) -> str:
    """Why a secret could be found in other text by chance; empty if it can't."""
    kind = "letters" if secret.isalpha() else "digits" if secret.isdigit() else "characters"
    fewest = _FEWEST if kind == "characters" else _FEWEST_OF_A_KIND
    return f"one of {len(secret)} {kind}" if len(secret) < fewest else ""
