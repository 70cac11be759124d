"""`hrf rewards`, as a user meets it."""

from __future__ import annotations

import hashlib
import json

from typer.testing import CliRunner

from hrf.rewards import CATALOGUE
from hrf_pipelines.cli.main import app


def test_every_reward_is_listed_with_its_range_and_licence():
    result = CliRunner().invoke(app, ["rewards"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for record in CATALOGUE:
        assert record.name in result.output
        assert record.range in result.output
        assert record.licence in result.output


def test_the_list_can_be_read_by_a_program():
    listed = json.loads(CliRunner().invoke(app, ["rewards", "--json"]).output)
    assert [entry["name"] for entry in listed if entry["needs_prompts"]] == ["clip_score", "pickscore", "guided_text"]


def test_the_digest_of_a_file_is_its_sha256(tmp_path):
    file = tmp_path / "head.safetensors"
    file.write_bytes(b"tensors")
    result = CliRunner().invoke(app, ["rewards", "digest", str(file)])
    assert result.output.strip() == hashlib.sha256(b"tensors").hexdigest()
    assert CliRunner().invoke(app, ["rewards", "digest", str(tmp_path / "nothing")]).exit_code == 2
