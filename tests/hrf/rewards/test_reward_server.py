"""The reference server of a remote reward, under load and abuse, with its client and with bare HTTP."""

from __future__ import annotations

import datetime
import http.client
import http.server
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hrf.errors import ConfigError, RemoteError
from hrf.networks.classifier import classifier_folder
from hrf.rewards import ImageError, build_reward
from hrf.rewards import client as client_module
from hrf.rewards.classifier import ClassifierReward
from hrf.rewards.client import RemoteScorer
from hrf.rewards.jpeg import JpegReward
from hrf.rewards.protocol import encode_request
from hrf.rewards.remote import RemoteReward
from hrf.rewards.serve import build_server, main
from hrf.rewards.server import RewardServer
from hrf.storage.secrets import REWARD_TOKEN
from tests.e2e.commands import PATIENCE_SECONDS
from tests.hrf.rewards.servers import NAME, brightness, running, serving

TOKEN = "tok-3f9a"


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch):
    monkeypatch.setattr(client_module, "_FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.delenv(REWARD_TOKEN, raising=False)


def pictures(count: int = 4, size: int = 8) -> np.ndarray:
    return np.random.default_rng(count).random((count, 3, size, size), dtype=np.float32)


def client(server, **options) -> RemoteScorer:
    return RemoteScorer(settings=RemoteReward(url=server.url, scorer=NAME, **{"timeout_seconds": 20, **options}))


def ask(server, method: str, path: str, body: bytes | None = None, **headers: str):
    """One bare request: (status, JSON, headers)."""
    connection = http.client.HTTPConnection(*server.address, timeout=10)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), answer.headers
    finally:
        connection.close()


class TestLoad:
    def test_64_concurrent_batches_have_their_own_numbers(self, monkeypatch):
        """Of 64 clients at a time, all but a few are told to come back; every one ends with the right numbers."""
        in_parallel, most = 0, 0

        def slow(images, prompts):
            nonlocal in_parallel, most
            in_parallel += 1
            most = max(most, in_parallel)
            time.sleep(0.005)
            in_parallel -= 1
            return brightness(images, prompts)

        batches = [pictures(2 + number % 5) * np.float32(number / 64) for number in range(64)]
        monkeypatch.setattr(RewardServer, "retry_after_seconds", 0)
        with serving(slow, most_waiting=8) as server, ThreadPoolExecutor(64) as pool:
            scorer = client(server, retries=1000)
            got = list(pool.map(scorer, batches))
        for rewards, images in zip(got, batches, strict=True):
            assert rewards.tolist() == brightness(images).tolist()
        assert most == 1

    def test_one_call_of_64_batches_at_a_time(self):
        images = pictures(256)
        with serving(most_waiting=64) as server:
            rewards = client(server, batch_size=4, concurrency=64)(images)
        assert rewards.tolist() == brightness(images).tolist()

    def test_beyond_its_places_it_asks_to_come_back(self):
        begun, go = threading.Event(), threading.Event()

        def wait(images, prompts):
            begun.set()
            go.wait(10)
            return brightness(images)

        with serving(wait, most_waiting=1) as server, ThreadPoolExecutor() as pool:
            first = pool.submit(client(server), pictures())
            begun.wait(10)
            status, told, headers = ask(server, "POST", "/score", encode_request(pictures(), None))
            assert (status, told["error"], headers["Retry-After"]) == (503, "too many requests at a time", "1")
            # Health is answered all the while.
            assert ask(server, "GET", "/health")[0] == 200
            go.set()
            assert first.result().tolist() == brightness(pictures()).tolist()

    def test_a_place_is_given_back_before_the_answer(self):
        with serving(most_waiting=1) as server:
            assert [ask(server, "POST", "/score", b"garbage")[0] for _ in range(20)] == [400] * 20

    def test_a_place_is_given_back_by_who_breaks_off(self, monkeypatch):
        monkeypatch.setattr(RewardServer, "retry_after_seconds", 0)
        with serving(most_waiting=1) as server:
            for _ in range(3):
                with socket.create_connection(server.address) as broken:
                    broken.sendall(b"POST /score HTTP/1.1\r\nContent-Length: 1000\r\n\r\nbeginning")
                # The server needs a moment to see it.
                rewards = client(server, retries=100)(pictures())
                assert rewards.tolist() == brightness(pictures()).tolist()


class TestRequests:
    @pytest.mark.parametrize(
        ("method", "path", "body", "status"),
        [
            ("GET", "/", None, 404),
            ("GET", "/score", None, 405),
            ("POST", "/health", b"", 405),
            ("POST", "/score", b"", 400),
            ("POST", "/score", b"garbage", 400),
            ("PUT", "/score", b"", 405),
        ],
    )
    def test_what_is_no_request_is_refused(self, method, path, body, status):
        with serving() as server:
            connection = http.client.HTTPConnection(*server.address, timeout=10)
            connection.request(method, path, body)
            assert connection.getresponse().status == status
            connection.close()

    def test_a_body_of_unknown_length_is_refused(self):
        with serving() as server:
            assert ask(server, "POST", "/score", iter([b"chunk"]))[0] == 411

    @pytest.mark.parametrize("excess", [1, 2**20])
    def test_a_larger_body_than_is_allowed_is_refused_and_the_client_hears_of_it(self, excess):
        body = encode_request(pictures(), None)
        with serving(max_request_bytes=len(body)) as server:
            assert ask(server, "POST", "/score", body)[0] == 200
            assert ask(server, "POST", "/score", body + bytes(excess))[0] == 413
            with pytest.raises(RemoteError, match=r"413.*reward\.batch_size"):
                client(server)(pictures(40))

    def test_an_image_out_of_range_is_named(self):
        images = pictures(5)
        images[3, 0, 0, 0] = 1.5
        with serving() as server, pytest.raises(ImageError, match=r"must lie in \[0, 1\].*image=3"):
            client(server, batch_size=2)(images)

    def test_a_reward_that_is_not_finite_is_named(self):
        def score(images, prompts):
            return np.where(np.arange(len(images)) == 1, np.nan, 0.5)

        with serving(score) as server, pytest.raises(ImageError, match=r"nan.*image=1"):
            client(server, batch_size=3, concurrency=1)(pictures())

    def test_a_scorer_that_fails_is_an_error_that_does_not_tell_its_inside_and_the_server_goes_on(self, caplog):
        def fails(images, prompts):
            if len(images) == 2:
                raise KeyError("inner secret")
            return brightness(images)

        with serving(fails) as server:
            with pytest.raises(RemoteError, match=r"500: the scorer failed with KeyError.*log") as caught:
                client(server)(pictures(2))
            assert client(server)(pictures(3)).tolist() == brightness(pictures(3)).tolist()
        assert "inner secret" not in str(caught.value)
        assert "inner secret" in caplog.text

    def test_a_reward_that_needs_prompts_refuses_images_without(self):
        with serving(needs_prompts=True) as server:
            with pytest.raises(RemoteError, match=r"422.*prompts"):
                client(server)(pictures(2))
            rewards = client(server)(pictures(2), ["a", "bc"])
        assert rewards.tolist() == brightness(pictures(2), ["a", "bc"]).tolist()

    def test_a_connection_serves_one_request_after_another_also_after_a_refusal(self):
        body = encode_request(pictures(), None)
        with serving(max_request_bytes=len(body)) as server:
            connection = http.client.HTTPConnection(*server.address, timeout=10)
            statuses = []
            for content in (body, body + b"x", body):
                connection.request("POST", "/score", content)
                answer = connection.getresponse()
                answer.read()
                statuses.append(answer.status)
            connection.close()
        assert statuses == [200, 413, 200]


class TestToken:
    @pytest.mark.parametrize("header", [None, "Bearer ", "Bearer tok-3f9b", "Basic tok-3f9a", "tok-3f9a", "Bearer ü"])
    def test_without_the_token_nothing_is_scored(self, header):
        headers = {} if header is None else {"Authorization": header}
        with serving(token=TOKEN) as server:
            assert ask(server, "POST", "/score", encode_request(pictures(), None), **headers)[0] == 401
            # Probes of a cluster have no token; a wrong one is found out at once.
            assert ask(server, "GET", "/health", **headers)[0] == (200 if header is None else 401)

    def test_with_it_the_client_has_its_numbers_and_the_log_is_without_it(self, monkeypatch, caplog):
        with caplog.at_level("INFO"), serving(token=TOKEN) as server:
            with pytest.raises(RemoteError, match=f"asks for a token.*{REWARD_TOKEN}"):
                client(server).health()
            with pytest.raises(RemoteError, match=rf"401.*{REWARD_TOKEN}"):
                client(server)(pictures())
            monkeypatch.setenv(REWARD_TOKEN, "another")
            with pytest.raises(RemoteError, match=rf"401.*{REWARD_TOKEN}"):
                client(server).health()
            monkeypatch.setenv(REWARD_TOKEN, TOKEN)
            client(server).health()
            assert (
                client(server)(pictures(), ["private"] * 4).tolist() == brightness(pictures(), ["private"] * 4).tolist()
            )
        log = caplog.text
        assert "POST /score" in log
        assert TOKEN not in log
        assert "private" not in log


class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path):
        """A self-signed certificate of 127.0.0.1, and its key."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "scorer")])
        now = datetime.datetime.now(datetime.UTC)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        signed = (
            x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
            .add_extension(address, critical=False)
            .sign(key, hashes.SHA256())
        )
        pem, encoding = tmp_path / "certificate.pem", serialization.Encoding.PEM
        pem.write_bytes(
            signed.public_bytes(encoding)
            + key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return str(pem)

    def test_numbers_come_through_and_only_a_trusted_server_is_talked_to(self, certificate, monkeypatch, tmp_path):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        monkeypatch.setenv(REWARD_TOKEN, TOKEN)
        seen = []

        def score(images, prompts):
            seen.append(len(images))
            return brightness(images)

        with serving(score, tls=context, token=TOKEN) as server:
            assert server.url.startswith("https://127.0.0.1:")
            with pytest.raises(RemoteError, match=r"certificate is not trusted.*SSL_CERT_FILE"):
                client(server)(pictures())
            assert not seen
            monkeypatch.setenv("SSL_CERT_FILE", certificate)
            assert client(server)(pictures()).tolist() == brightness(pictures()).tolist()


class TestStop:
    def test_what_is_being_scored_is_finished_and_idle_connections_end(self):
        begun, go = threading.Event(), threading.Event()

        def wait(images, prompts):
            begun.set()
            go.wait(10)
            return brightness(images)

        with ThreadPoolExecutor() as pool:
            with serving(wait) as server:
                idle = socket.create_connection(server.address)
                rewards = pool.submit(client(server), pictures())
                begun.wait(10)
                server.stop()
                time.sleep(0.2)
                assert not rewards.done()
                go.set()
            assert rewards.result().tolist() == brightness(pictures()).tolist()
            assert idle.recv(1) == b""
            idle.close()

    def test_as_a_process_it_serves_a_configured_reward_until_sigterm(self):
        settings = "{name: jpeg_incompressibility, quality: 80}"
        command = [sys.executable, "-m", "hrf.rewards.serve", settings, "--port", "0"]
        environment = {**os.environ, REWARD_TOKEN: TOKEN}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
            line = process.stderr.readline()
            url = line.split()[-1]
            os.environ[REWARD_TOKEN] = TOKEN
            try:
                scorer = RemoteScorer(settings=RemoteReward(url=url, scorer="jpeg_incompressibility"))
                rewards = scorer(pictures(size=16))
                health = scorer.health()
            finally:
                del os.environ[REWARD_TOKEN]
                process.send_signal(signal.SIGTERM)
            rest = process.stderr.read()
        assert process.returncode == 0, rest
        local = build_reward(JpegReward(name="jpeg_incompressibility", quality=80))
        assert rewards.tolist() == local(pictures(size=16)).tolist()
        assert health.version in line
        assert TOKEN not in line + rest

    def test_its_version_changes_with_the_settings_of_its_reward(self):
        def version(settings: str) -> str:
            server = build_server(settings, host="127.0.0.1", port=0, most_waiting=1, max_request_bytes=2**20, tls=None)
            server.close()
            return server.health.version

        assert version("{name: jpeg_compressibility}") == version("{name: jpeg_compressibility, quality: 95}")
        assert version("{name: jpeg_compressibility}") != version("{name: jpeg_compressibility, quality: 80}")

    def test_a_classifier_is_found_and_its_probabilities_are_the_local_ones(self):
        server = build_server(
            "{name: classifier, label: planets}",
            host="127.0.0.1", port=0, most_waiting=1, max_request_bytes=2**24, tls=None,
        )  # fmt: skip
        with running(server):
            scorer = RemoteScorer(settings=RemoteReward(url=server.url, scorer="classifier:planets"))
            rewards = scorer(pictures(4, 32))
            with pytest.raises(RemoteError, match=r"422.*classifier of 16 x 16"):
                scorer(pictures(4, 16))
        local = build_reward(ClassifierReward(label="planets"), classifier_folder("shipped", "reward"))
        assert rewards.tolist() == local(pictures(4, 32)).tolist()

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (["{name: nonsense}"], 3, "reward.name"),
            (["{name: remote, url: 'http://127.0.0.1:1', scorer: a}"], 3, "reward.name"),
            (["missing.yaml"], 1, "missing.yaml"),
            (["{name: jpeg_compressibility}", "--certificate", "missing.pem"], 3, "--certificate"),
        ],
    )
    def test_what_cannot_be_served_is_told(self, arguments, code, said, capsys):
        assert main(arguments) == code
        assert said in capsys.readouterr().err

    def test_a_port_that_is_taken_is_told(self, capsys):
        with serving() as server:
            assert main(["{name: jpeg_compressibility}", "--port", str(server.address[1])]) == 1
        assert "in use" in capsys.readouterr().err


def test_it_brings_no_torch_unless_its_reward_does():
    program = (
        "import sys, hrf.rewards.serve as server\n"
        "made = server.build_server('{name: jpeg_compressibility}', host='127.0.0.1', port=0, most_waiting=1,\n"
        "                           max_request_bytes=1, tls=None)\n"
        "made.close(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_SECONDS)


def test_a_sum_with_classifiers_is_served():
    terms = "[{reward: {name: classifier, label: planets}}, {reward: {name: classifier, label: sprouts}, weight: -1.0}]"
    server = build_server(
        f"{{name: weighted_sum, terms: {terms}}}",
        host="127.0.0.1", port=0, most_waiting=1, max_request_bytes=1, tls=None,
    )  # fmt: skip
    server.close()
    probabilities = [
        build_reward(ClassifierReward(label=label), classifier_folder("shipped", "reward"))(pictures(4, 32))
        for label in ("planets", "sprouts")
    ]
    assert server.reward(pictures(4, 32), None) == pytest.approx(probabilities[0] - probabilities[1])


def test_a_configuration_error_names_its_field():
    with pytest.raises(ConfigError, match=r"reward\.quality"):
        build_server(
            "{name: jpeg_compressibility, quality: 0}",
            host="127.0.0.1", port=0, most_waiting=1, max_request_bytes=1, tls=None,
        )  # fmt: skip
