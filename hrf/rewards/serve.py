"""The reference server of a remote reward: it wraps any reward that a configuration can name.

    python -m hrf.rewards.serve '{name: classifier, label: planets}' --port 8080

One request is scored at a time, as rewards are not made for several threads; others wait their turn, and beyond a few
of them the server asks to come back later. `hrf.rewards.protocol` says what client and server say to each other.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import signal
import ssl
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import model_validator

from hrf import __version__
from hrf.errors import ConfigError, HrfError
from hrf.networks.visits import staying
from hrf.rewards import DEFAULT_REWARD, RewardSettings, build_reward
from hrf.rewards.server import RewardServer
from hrf.storage.schema import Section
from hrf.storage.secrets import REWARD_TOKEN, BlottingFormatter, check_secrets
from hrf.storage.validation import combine
from hrf.storage.yaml_text import parse_yaml

_log = logging.getLogger("hrf.rewards.serve")


class _Served(Section):
    """What a configuration says of the reward."""

    reward: RewardSettings = DEFAULT_REWARD

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = list(self.reward.problems("reward"))
        if problems:
            raise combine(problems)
        return self


def build_server(
    reward: str, *, host: str, port: int, most_waiting: int, max_request_bytes: int, tls: ssl.SSLContext | None
) -> RewardServer:
    """Make the server of a configured reward; the token comes from the environment.

    `reward` is the section of a configuration as YAML, or the file that holds it; port 0 takes any that is free.

    Raises:
        ConfigError: If there is no such reward, or the token is short, or would cross the network for all to read.
    """
    check_secrets()
    path = Path(reward)
    text = path.read_text(encoding="utf-8") if reward.endswith((".yaml", ".yml")) else reward
    settings = _Served.from_mapping({"reward": parse_yaml(text, origin="reward")}).reward
    if settings.name == "remote":
        raise ConfigError("reward.name", expected="a reward that is computed here", got="remote", fix="name another")
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "classifiers"
        packed = list(settings.pack_classifiers("reward", target))
        built = build_reward(settings, target if packed else None)
    recorded = json.dumps(settings.model_dump(mode="json"), sort_keys=True)
    return RewardServer(
        built,
        version=f"{__version__}-{hashlib.sha256(recorded.encode()).hexdigest()[:12]}",
        address=(host, port),
        token=os.environ.get(REWARD_TOKEN, ""),
        most_waiting=most_waiting,
        max_request_bytes=max_request_bytes,
        tls=tls,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m hrf.rewards.serve", description="Serve a reward over HTTP.")
    parser.add_argument("reward", help="the section `reward` of a configuration as YAML, or a file NAME.yaml with it")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 in a container")
    parser.add_argument("--port", type=int, default=8080, help="0 takes any that is free")
    parser.add_argument("--most-waiting", type=int, default=16, help="requests at a time; others come back later")
    parser.add_argument("--max-request-mib", type=int, default=256, help="largest request")
    parser.add_argument("--certificate", help="PEM file, for https; with --key")
    parser.add_argument("--key", help="PEM file of its private key")
    options = parser.parse_args(arguments)
    _log_to_stderr()
    try:
        server = build_server(
            options.reward,
            host=options.host,
            port=options.port,
            most_waiting=options.most_waiting,
            max_request_bytes=options.max_request_mib * 2**20,
            tls=_tls(options.certificate, options.key),
        )
    except (HrfError, OSError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code if isinstance(error, HrfError) else 1
    for number in (signal.SIGTERM, signal.SIGINT):
        # While it serves, uvicorn takes the signal, and repeats it when all is done.
        signal.signal(number, lambda *_: sys.exit(0))
    _log.info("%s (%s) at %s", server.health.name, server.health.version, server.url)
    with staying():
        server.serve()
    return 0


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(BlottingFormatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    logging.basicConfig(handlers=[handler])
    for name in ("hrf", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.INFO)


def _tls(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate or "", key)
    except (OSError, ValueError) as error:
        raise ConfigError(
            "--certificate", expected="a PEM certificate, and its --key", got=certificate, fix=f"check both: {error}"
        ) from error
    return context


if __name__ == "__main__":
    sys.exit(main())
