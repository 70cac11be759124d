"""Flipped bytes are noticed, and nothing is lost by requests that go wrong. `python -m benchmarks.faults` does more."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.faults import break_requests, flip_bytes
from benchmarks.faulty_s3 import FAULTS
from hrf.storage import folders

SECONDS = 120
"""A budget for machines that are busy; it takes a few."""


def test_flipped_bytes_are_refused_or_change_nothing(embedded_s3, tmp_path):
    flips = flip_bytes(embedded_s3, tmp_path, number=120, seed=1, seconds=SECONDS)
    assert (flips.unnoticed, flips.raw) == ([], [])
    assert flips.total == 120
    assert len(flips.noticed) == 11, "of every kind of record, and of artifacts here and in the bucket"


def test_it_would_tell_what_goes_unnoticed(embedded_s3, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "unseal", lambda text, origin, fix: _without_looking(text))
    monkeypatch.setattr("hrf.storage.objects.unseal", folders.unseal)
    flips = flip_bytes(embedded_s3, tmp_path, number=60, seed=2, seconds=SECONDS)
    assert flips.unnoticed


def _without_looking(text: bytes) -> dict[str, Any]:
    return {name: value for name, value in json.loads(text).items() if name != folders.SEAL}


def test_requests_that_go_wrong_lose_nothing(embedded_s3, tmp_path):
    told = break_requests(embedded_s3, tmp_path, number=300, seed=1, seconds=SECONDS)
    assert (told.wrong, told.lost) == ([], [])
    assert told.num_requests >= 300
    assert len(told.faults) == len(FAULTS), "each of them was done"
    assert told.faults.total() > 0.05 * told.num_requests
