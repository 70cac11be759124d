"""The class that every image classifier has. Needs no torch."""

from __future__ import annotations

UNRECOGNISED = "unrecognised"
"""Label of the outlier class; always the last one."""
