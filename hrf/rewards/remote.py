"""A reward that another process computes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hrf.errors import ConfigError
from hrf.rewards.base import CheckedReward
from hrf.rewards.family import RewardFamily, RewardRecord
from hrf.storage.schema import CountOrZero, Positive


class RemoteReward(RewardFamily):
    """A reward that another process computes. See `hrf.rewards.protocol`; the token is in `HRF_REWARD_TOKEN`."""

    name: Literal["remote"] = "remote"
    url: str = ""
    """`http(s)://HOST[:PORT][/PATH]` of the server."""
    scorer: str = ""
    """Name of the reward that the server must say it has."""
    version: str = ""
    """Its version, as the server says it; empty takes any, and holds a step to the one that it found."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    """Images in a request: memory and speed, and not the rewards."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 4
    """Requests under way at a time."""
    timeout_seconds: Positive = 120.0
    """For one request, from connecting to the end of the answer."""
    deadline_seconds: Positive = 600.0
    """For all images of a call, repeated requests included."""
    retries: CountOrZero = 8
    """How often a request is repeated at most, after what may pass."""

    catalogue = (
        RewardRecord(
            name="remote",
            measures="what a server says, by HTTP: python -m hrf.rewards.serve, or one of yours",
            range="any finite number; the server says which",
            direction="the server's to decide: higher is better",
            needs_prompts=False,
            weights="the server's",
            licence="the server's",
            cost="12 bytes per pixel on the network, and the server's",
        ),
    )

    def build(self, field: str, *, folder: Path | None, device: str | None) -> CheckedReward:
        """See `RewardFamily.build`: ask the server what it is, and hold it to the version that it has now.

        Raises:
            ConfigError: If a token would cross the network for all to read.
            RemoteError: If the server is not there, or is another one.
        """
        from hrf.rewards.client import RemoteScorer

        del folder, device
        health = RemoteScorer(settings=self, field=field).health()
        found = self.model_copy(update={"version": health.version})
        return CheckedReward(
            name=f"remote:{health.name}",
            score=RemoteScorer(settings=found, field=field),
            needs_prompts=health.needs_prompts,
            field=field,
        )

    def problems(self, path: str) -> Iterator[ConfigError]:
        """See `RewardFamily.problems`."""
        # No user, query or fragment: a secret in them would be in every record of the run.
        if not re.fullmatch(r"https?://([\w.-]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?(/[\w.~/-]*)?", self.url):
            yield ConfigError(
                f"{path}.url",
                expected="http(s)://HOST[:PORT][/PATH], without user, query and fragment",
                got=self.url.partition("@")[2] or self.url,
                fix=f"set {path}.url to the server's address; a token belongs in HRF_REWARD_TOKEN",
            )
        if not self.scorer:
            yield ConfigError(
                f"{path}.scorer",
                expected="the name of the reward that the server has",
                got="",
                fix="copy it from the server's GET /health: another server at that address would go unnoticed",
            )

    def measured(self) -> dict[str, Any]:
        """See `RewardFamily.measured`: how the server is reached changes no number."""
        return self.model_dump(mode="json", include={"name", "scorer", "version"})
