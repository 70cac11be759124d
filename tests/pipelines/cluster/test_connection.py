"""Reaching a cluster, and what is said where that fails."""

from __future__ import annotations

import json
import time

import pytest

from hrf.errors import ClusterError
from hrf_pipelines.cluster import connection
from tests.kfp_api.server import Trouble, serve
from tests.kubernetes_api.certificates import make_certificate
from tests.pipelines.conftest import words

LOGIN = Trouble(200, "text/html; charset=utf-8", b"<html>Log in</html>")


def _refused(result, *said):
    assert result.exit_code == 7, result.output
    assert "─ ClusterError ─" in result.output or "─ UnreachableError ─" in result.output, result.output
    assert "Traceback" not in result.output
    assert len(result.output.splitlines()) < 15
    for part in said:
        assert part in words(result)


def test_without_an_address_the_ways_to_give_one_are_named(hrf):
    _refused(hrf("runs", "--cluster"), "--host or HRF_KFP_HOST", "port-forward")


def test_the_option_wins_over_the_environment(hrf, kfp, monkeypatch):
    monkeypatch.setenv("HRF_KFP_HOST", "http://127.0.0.1:9")
    assert hrf("runs", "--cluster", "--host", f"{kfp.url}/").exit_code == 0


@pytest.mark.parametrize("address", ["kubeflow.example.org", "ftp://x", "http://", "http://[", "http://x:port"])
def test_what_is_no_address_is_refused(hrf, address):
    _refused(hrf("runs", "--cluster", "--host", address), "http(s)://HOST")


def test_a_password_in_the_address_is_refused_and_not_repeated(hrf):
    result = hrf("runs", "--cluster", "--host", "https://me:hidden-secret@example.org")
    _refused(result, "HRF_KFP_TOKEN")
    assert "hidden-secret" not in result.output


def test_a_server_that_is_not_there(hrf):
    _refused(hrf("runs", "--cluster", "--host", "http://127.0.0.1:9"), "no answer", "127.0.0.1:9")


def test_a_token_that_is_missing_or_wrong(hrf, kfp, monkeypatch):
    kfp.token = "right-token"
    _refused(hrf("runs", "--cluster"), "asks for a token", "HRF_KFP_TOKEN")
    monkeypatch.setenv("HRF_KFP_TOKEN", "wrong-token")
    result = hrf("runs", "--cluster")
    _refused(result, "refuses the token", "kubectl create token")
    assert "wrong-token" not in result.output
    monkeypatch.setenv("HRF_KFP_TOKEN", "right-token")
    assert hrf("runs", "--cluster").exit_code == 0


def test_a_token_that_could_not_be_blotted_out_is_refused(hrf, kfp, monkeypatch):
    monkeypatch.setenv("HRF_KFP_TOKEN", "hrf")
    result = hrf("runs", "--cluster")
    assert result.exit_code == 3
    assert "HRF_KFP_TOKEN" in words(result)
    assert not kfp.sent


def test_the_token_of_a_notebook_is_used(hrf, kfp, monkeypatch, tmp_path):
    kfp.token = "from-a-file"
    (tmp_path / "token").write_text("from-a-file\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    assert hrf("runs", "--cluster").exit_code == 0


def test_what_the_account_may_not_do(hrf, kfp):
    kfp.forbidden = True
    _refused(hrf("runs", "--cluster"), "may not do that", "HTTP 403", "is not authorized")


@pytest.mark.parametrize(
    "trouble",
    [
        LOGIN,
        Trouble(404, "text/html", b"Cannot GET /apis"),
        Trouble(404, "application/json", b'{"detail": "Not Found"}'),
        Trouble(500, "text/html", b"\xff\xfe"),
    ],
    ids=["login page", "no page", "another API", "no text"],
)
def test_what_is_no_kubeflow_api_is_told_apart(hrf, kfp, trouble):
    kfp.troubles = [trouble]
    _refused(hrf("runs", "--cluster"), "not a Kubeflow Pipelines API", "/apis/v2beta1/healthz")


def test_a_redirect_is_not_followed_and_the_token_goes_nowhere_else(hrf, kfp, monkeypatch):
    monkeypatch.setenv("HRF_KFP_TOKEN", "for-kubeflow-only")
    with serve() as other:
        kfp.troubles = [Trouble(302, headers={"location": f"{other.url}/login"})]
        _refused(hrf("runs", "--cluster"), "login")
        assert other.sent == []


def test_a_server_that_is_away_for_a_moment_is_asked_again(hrf, kfp):
    kfp.troubles = [Trouble(503), Trouble(502), Trouble(503)]
    assert hrf("runs", "--cluster").exit_code == 0
    assert len(kfp.calls("GET", "healthz")) == 4


def test_a_server_that_stays_away_is_told(hrf, kfp):
    kfp.troubles = [Trouble(503)] * 4
    _refused(hrf("runs", "--cluster"), "HTTP 503", "ml-pipeline")


def test_a_server_that_does_not_answer_in_time_is_told(hrf, kfp, monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.2)
    kfp.delay_seconds = 1.0
    started = time.monotonic()
    _refused(hrf("runs", "--cluster"), "no answer", "Timeout")
    assert time.monotonic() - started < 5


def test_a_command_is_sent_once_and_its_outcome_said_to_be_unknown(hrf, kfp, monkeypatch):
    # Long enough for all that comes before, on a busy machine too.
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 2.0)
    kfp.special["POST /apis/v2beta1/runs"] = 3.0
    result = hrf("submit", "avatars-smoke", "--epochs", "1", "--storage", "s3://bucket/hrf")
    _refused(result, "is not known", "hrf runs --cluster")
    assert len(kfp.calls("POST", "/runs")) == 1


def test_a_command_that_a_busy_server_refuses_is_not_sent_again(kfp, start):
    kfp.special["POST /apis/v2beta1/runs"] = Trouble(503)
    with pytest.raises(ClusterError, match="HTTP 503"):
        start()
    assert len(kfp.calls("POST", "/runs")) == 1


def test_a_cluster_of_several_users_needs_a_namespace_and_gets_it(hrf, kfp, submit):
    kfp.state.multi_user = True
    _refused(hrf("runs", "--cluster"), "--namespace or HRF_KFP_NAMESPACE")
    submit("--namespace", "team-a")
    assert kfp.state.experiments[0]["namespace"] == "team-a"
    assert kfp.state.pipelines[0]["namespace"] == "team-a"
    assert "avatars-smoke" in hrf("runs", "--cluster", "--namespace", "team-a").output


def test_a_cluster_of_one_user_is_not_told_a_namespace(hrf, kfp, monkeypatch):
    monkeypatch.setenv("HRF_KFP_NAMESPACE", "team-a")
    assert hrf("runs", "--cluster").exit_code == 0


@pytest.fixture
def tls(tmp_path):
    return make_certificate(tmp_path)


def test_a_certificate_is_checked_and_an_authority_can_be_named(hrf, tls, monkeypatch):
    context, file = tls
    with serve(context) as server:
        _refused(hrf("runs", "--cluster", "--host", server.url), "certificate", "HRF_KFP_CA_FILE")
        monkeypatch.setenv("HRF_KFP_CA_FILE", str(file))
        assert hrf("runs", "--cluster", "--host", server.url).exit_code == 0
        monkeypatch.setenv("HRF_KFP_CA_FILE", "/nowhere.pem")
        _refused(hrf("runs", "--cluster", "--host", server.url), "names no file")


def test_tls_with_a_server_without_is_told(hrf, kfp):
    address = kfp.url.replace("http:", "https:")
    _refused(hrf("runs", "--cluster", "--host", address), "does not speak TLS", "http://")


def test_what_an_upload_is_refused_for_is_told(hrf, kfp):
    """The real server has another way to say it there than its definition has."""
    body = json.dumps({"error_message": "Failed to read a pipeline spec file", "error_details": "..."}).encode()
    told = connection._told(body.decode())
    assert told == "Failed to read a pipeline spec file"
