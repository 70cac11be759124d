"""No secret gets to where it has no business: into parameters, the terminal or a log."""

from __future__ import annotations

import logging

import pytest

from tests.kfp_api import plays
from tests.kfp_api.server import Trouble
from tests.pipelines.conftest import SMOKE

# Each command is a process of its own that compiles a package.
pytestmark = pytest.mark.slow

TOKEN = "planted-token-8b1f"
SECRETS = {
    "HRF_KFP_TOKEN": TOKEN,
    "AWS_ACCESS_KEY_ID": "PLANTEDKEYID77AA",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-key-4c2e",
    "HF_TOKEN": "hf_planted-9d3a",
}
STORAGE = ("--storage", "s3://bucket/hrf")


@pytest.fixture
def planted(kfp, monkeypatch):
    """A server that wants the token, and an environment that holds secrets of every kind."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    # Nobody is there: what the bucket is told, the storage's own tests look at.
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    kfp.token = TOKEN
    return kfp


def _assert_clean(text):
    for name, value in SECRETS.items():
        assert value not in text, name


def test_secrets_are_neither_sent_nor_printed_nor_logged(hrf, planted, caplog):
    # At this level, boto3 logs the id of the key with each request.
    caplog.set_level(logging.INFO)
    for name in ("kfp", "kfp_server_api", "urllib3", "pipelines"):
        caplog.set_level(logging.DEBUG, logger=name)
    planted.state.plays = plays.failing("sample")
    said = []
    for command in (
        ("submit", *SMOKE, *STORAGE, "--run-tag", "mine", "--wait", "--poll", "0.01"),
        ("schedule", *SMOKE, *STORAGE, "--cron", "0 0 3 * * *", "--yes"),
        ("schedules", "list"),
        ("runs", "--cluster", "--json"),
        ("runs", "show", "mine", "--cluster"),
        ("runs", "show", "mine", "--cluster", "--json", "--traceback"),
        ("compare-runs", "mine", "mine", "--cluster", "--traceback"),
    ):
        result = hrf(*command)
        assert result.exit_code in (0, 1, 6), result.output
        said.append(result.output)
    _assert_clean("".join(said))
    _assert_clean(caplog.text)
    assert len(planted.sent) > 20
    for sent in planted.sent:
        assert sent.headers.pop("authorization") == f"Bearer {TOKEN}"
        _assert_clean(f"{sent.method} {sent.target} {sent.headers} {sent.body.decode()}")


@pytest.mark.parametrize(
    "trouble",
    [
        Trouble(400, "application/json", f'{{"code": 3, "message": "bad header Bearer {TOKEN}"}}'.encode()),
        Trouble(401, "text/plain", f"who is {TOKEN}?".encode()),
        Trouble(500, "text/html", f"<pre>{TOKEN}</pre>".encode(), {"set-cookie": TOKEN}),
        Trouble(302, headers={"location": f"http://127.0.0.1:9/?token={TOKEN}"}),
    ],
    ids=["400", "401", "500", "302"],
)
def test_a_token_that_the_server_repeats_is_not_repeated_by_us(hrf, planted, trouble):
    planted.troubles = [trouble]
    result = hrf("runs", "--cluster", "--traceback")
    assert result.exit_code == 7
    _assert_clean(result.output)


def test_a_file_with_a_token_is_not_followed_into_messages(hrf, planted, monkeypatch, tmp_path):
    monkeypatch.delenv("HRF_KFP_TOKEN")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    assert hrf("runs", "--cluster").exit_code == 0
    planted.troubles = [Trouble(400, "application/json", f'{{"code": 3, "message": "Bearer {TOKEN}"}}'.encode())]
    result = hrf("runs", "--cluster", "--traceback")
    assert result.exit_code == 7
    _assert_clean(result.output)
