"""Fetch: bring the base model. It depends on its parameters alone, so that a cached answer is as good as a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hrf import __version__
from hrf.config import Model
from hrf.policies.sources import fetch_base
from hrf.steps.context import step
from hrf.storage.secrets import HUB_TOKEN


@step("fetch", secrets=(HUB_TOKEN,))
def fetch(*, source: str, revision: str, version: str, base: str) -> dict[str, Any]:
    """Fetch a base model and write it in diffusers' layout.

    `version` changes whenever the files at the source may have: `hrf.steps.check.model_version`.

    Returns:
        The digest of its contents.

    Raises:
        ConfigError: If there is nothing at the source, or it is no model that can be trained here.
        StorageError: If object storage or the hub doesn't deliver.
    """
    origin = {"step": "fetch", "hrf": __version__, "source": source, "version": version}
    return {"base_digest": fetch_base(Model(source=source, revision=revision), Path(base), origin)}
