"""Secrets are blotted out in whatever form they are written, and nothing else is."""

from __future__ import annotations

import json
import logging
import os
import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrf.errors import ConfigError
from hrf.storage.secrets import (
    HUB_TOKEN,
    KUBEFLOW_TOKEN,
    REWARD_TOKEN,
    SCORING_SECRETS,
    BlottingFormatter,
    check_secrets,
    only_secrets,
    without_secrets,
)

SECRET = "hf_9d3aPlanted"
#: Many of them end in what belongs to a secret's name.
NO_SECRETS = {"AWS_ACCESS_KEY_ID": "AKIAPLANTED77AA", "HOME": "/home/somebody-else", "MONKEY": "business-as-usual-1"}


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "HRF_REWARD_TOKEN", "HRF_KFP_TOKEN",
        "MLFLOW_TRACKING_PASSWORD", "THEIR_API_KEY", "db_password", "TOKEN",
    ],
)  # fmt: skip
def test_a_variable_whose_name_says_so_is_a_secret(name):
    assert without_secrets(f"got {SECRET}.", {name: SECRET}) == f"got <{name}>."


@pytest.mark.parametrize("name", NO_SECRETS)
def test_others_are_none(name):
    text = " ".join(NO_SECRETS.values())
    assert without_secrets(text, NO_SECRETS) == text


def test_the_password_of_a_url_is_a_secret_and_the_rest_is_not():
    environment = {"HTTPS_PROXY": f"http://me:{SECRET}@proxy:3128", "HRF_KFP_HOST": "https://kubeflow.example.org"}
    text = f"{environment['HTTPS_PROXY']} {environment['HRF_KFP_HOST']}"
    assert without_secrets(text, environment) == "http://me:<HTTPS_PROXY>@proxy:3128 https://kubeflow.example.org"


@given(st.text(min_size=16).filter(lambda text: not text.isalpha() and not text.isdigit()))
def test_it_is_found_in_every_form(secret):
    for form in (secret, repr({"x": secret}), json.dumps({"x": secret}), quote(secret), quote(secret, safe="")):
        assert "<THEIR_TOKEN>" in without_secrets(f"got {form}.", {"THEIR_TOKEN": secret})


def test_a_key_of_several_lines_is_found_line_by_line():
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\n-----END KEY-----"
    assert [without_secrets(line, {"TLS_KEY": key}) for line in key.splitlines()] == ["<TLS_KEY>"] * 3


def test_one_that_holds_another_is_blotted_whole():
    environment = {"A_TOKEN": SECRET, "B_TOKEN": f"{SECRET}-and-more"}
    assert without_secrets(f"{SECRET}-and-more {SECRET}", environment) == "<B_TOKEN> <A_TOKEN>"


#: README's own key, Kubeflow's own id, words and numbers that any text may hold.
COMMON = ["hrf", "minio", "avatars", "password", "minioadmin", "20261129", "1234567", "a-b_c.d", "", " "]


@pytest.mark.parametrize("value", COMMON)
def test_what_is_short_or_common_is_left_alone(value):
    text = f"s3://hrf/avatars minioadmin 20261129 password {value}"
    assert without_secrets(text, {"AWS_SECRET_ACCESS_KEY": value}) == text


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", HUB_TOKEN, REWARD_TOKEN, KUBEFLOW_TOKEN])
@pytest.mark.parametrize("value", [*COMMON[:-2], " ", "two words, and more", "key-of-two\nlines", "schlüssel-33"])
def test_and_refused_with_the_reason_where_we_ask_for_it(name, value):
    with pytest.raises(ConfigError) as caught:
        check_secrets({name: value})
    assert caught.value.field == name
    assert "blotted" in str(caught.value)
    if len(value) > 3:
        assert value not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["minio123", "a" * 16, "7" * 16, SECRET, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", ""]
)
def test_others_are_taken(value):
    check_secrets({"AWS_SECRET_ACCESS_KEY": value, "AWS_ACCESS_KEY_ID": "hrf", "OTHERS_TOKEN": "x"})


@given(st.text(string.ascii_letters + string.digits + "+/-_.", min_size=1))
def test_every_secret_is_either_refused_or_blotted_out(secret):
    environment = {HUB_TOKEN: secret}
    try:
        check_secrets(environment)
    except ConfigError:
        assert without_secrets(secret, environment) == secret
    else:
        assert without_secrets(secret, environment) == f"<{HUB_TOKEN}>"


class TestWithheld:
    VARIABLES = ("AWS_SECRET_ACCESS_KEY", HUB_TOKEN, REWARD_TOKEN, KUBEFLOW_TOKEN, "THEIR_API_KEY", "AWS_ACCESS_KEY_ID")

    @pytest.mark.parametrize(
        ("needed", "had"),
        [
            ((), {"AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"}),
            ((HUB_TOKEN,), {"AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", HUB_TOKEN}),
            (SCORING_SECRETS, {*VARIABLES} - {KUBEFLOW_TOKEN}),
        ],
    )
    def test_work_has_what_it_needs_and_afterwards_all_is_there_again(self, needed, had, monkeypatch):
        for name in self.VARIABLES:
            monkeypatch.setenv(name, f"{name}-1")

        def work() -> None:
            with only_secrets(needed):
                assert {name for name in self.VARIABLES if name in os.environ} == had
                raise KeyError

        with pytest.raises(KeyError):
            work()
        assert all(os.environ[name] == f"{name}-1" for name in self.VARIABLES)


def test_a_log_has_none_in_its_tracebacks(monkeypatch):
    monkeypatch.setenv(HUB_TOKEN, SECRET)
    try:
        raise KeyError(SECRET)
    except KeyError as error:
        record = logging.LogRecord("x", logging.ERROR, "x", 1, "of %s", (SECRET,), (type(error), error, None))
    assert BlottingFormatter("%(message)s").format(record) == f"of <{HUB_TOKEN}>\nKeyError: '<{HUB_TOKEN}>'"
