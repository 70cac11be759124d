"""Keeps secrets out of what is stored: they come in by environment variables, and their values are blotted out."""

from __future__ import annotations

import os
from collections.abc import Mapping

SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "HF_TOKEN", "HRF_REWARD_TOKEN")


def without_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """A text with the values of secret variables blotted out.

    Args:
        text: Any text, such as a log or a traceback.
        environment: Whose variables; this process's own unless given.
    """
    variables = os.environ if environment is None else environment
    for name in SECRETS:
        if variables.get(name):
            text = text.replace(variables[name], f"<{name}>")
    return text
