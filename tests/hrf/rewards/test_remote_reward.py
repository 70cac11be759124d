"""The client of a remote reward, against servers that do what servers do: right numbers or a clear error."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hrf.config import Config
from hrf.errors import ConfigError, HrfError, RemoteError
from hrf.rewards import ImageError, build_reward
from hrf.rewards import client as client_module
from hrf.rewards.client import RemoteScorer
from hrf.rewards.jpeg import JpegReward
from hrf.rewards.protocol import (
    Health,
    ProtocolError,
    Scores,
    decode_request,
    encode_request,
)
from hrf.rewards.remote import RemoteReward
from hrf.rewards.weighted_sum import Term, WeightedSumReward
from hrf.storage.secrets import REWARD_TOKEN
from tests.hrf.rewards.servers import (
    NAME,
    VERSION,
    brightness,
    cut,
    drip,
    hang_up,
    says,
    scores,
    scripted,
    serving,
    silence,
)

HEALTH = {"protocol": 1, "name": NAME, "version": VERSION, "range": [0, 1], "needs_prompts": False}
PROMPTS = ["a cat", "zwei Hunde", "три", "猫が四匹", "", "six\n", '"seven"']


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch):
    """Waits of milliseconds between repetitions, and no token."""
    monkeypatch.setattr(client_module, "_FIRST_WAIT_SECONDS", 0.002)
    monkeypatch.delenv(REWARD_TOKEN, raising=False)


def pictures(count: int = 7, size: int = 8) -> np.ndarray:
    return np.random.default_rng(count).random((count, 3, size, size), dtype=np.float32)


def client(url: str, **options) -> RemoteScorer:
    given = {"batch_size": 3, "retries": 2, "timeout_seconds": 5, **options}
    return RemoteScorer(settings=RemoteReward(url=url, scorer=NAME, **given))


class TestMessages:
    @given(
        arrays.arrays(
            np.float32,
            st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 4), st.integers(1, 4)),
            elements=st.floats(0, 1, width=32),
        ),
        st.data(),
    )
    def test_images_and_prompts_arrive_as_they_were_to_the_bit(self, images, data):
        text = st.text(st.characters(exclude_categories=["Cs"]))
        prompts = data.draw(st.none() | st.lists(text, min_size=len(images), max_size=len(images)))
        got, got_prompts = decode_request(encode_request(images, prompts))
        assert got.tobytes() == images.tobytes()
        assert got.shape == images.shape
        assert got_prompts == prompts

    def test_a_batch_that_is_a_view_arrives_in_order(self):
        images = pictures().transpose(0, 1, 3, 2)[::2]
        np.testing.assert_array_equal(decode_request(encode_request(images, None))[0], images)

    @given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
    def test_every_digit_of_a_reward_arrives(self, rewards):
        assert Scores.decode(Scores(name="n", version="v", rewards=rewards).encode()).rewards == rewards

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"no tensors",
            b"\xff" * 8,
            encode_request(pictures(2), ["one"]),
            encode_request(pictures(2)[:, :1], None),
            encode_request(pictures(2)[0], None),
            encode_request(pictures(2).astype(np.float64), None),
            encode_request(pictures(2), None)[:-1],
            encode_request(pictures(2), None).replace(b'"protocol":"1"', b'"protocol":"2"'),
            encode_request(pictures(2), None).replace(b'"images"', b'"image_"'),
            encode_request(pictures(2), None).replace(b'"null"', b'"nu11"'),
            encode_request(pictures(2), ["a", "b"]).replace(b'[\\"a\\", ', b"[1111, "),
        ],
    )
    def test_a_body_that_is_no_request_is_refused(self, body):
        with pytest.raises(ProtocolError):
            decode_request(body)

    def test_a_body_with_broken_bytes_is_a_request_or_refused(self):
        """2,000 of them, most broken in the header."""
        whole = encode_request(pictures(2), ["a", "b"])
        generator = np.random.default_rng(7)
        refused = 0
        for _ in range(2000):
            body = bytearray(whole)
            for place in generator.integers(0, 250, size=generator.integers(1, 4)):
                body[place] = generator.integers(0, 256)
            try:
                images, prompts = decode_request(bytes(body))
            except ProtocolError:
                refused += 1
            else:
                assert images.shape[1] == 3
                assert prompts is None or len(prompts) == len(images)
        assert refused > 1000

    def test_a_server_of_later_protocols_is_refused_and_fields_that_nobody_knows_are_not(self):
        assert Health.decode(says_json({**HEALTH, "colour": "red"})).name == NAME
        with pytest.raises(ProtocolError, match=r"protocol 2.*speaks 1"):
            Health.decode(says_json({**HEALTH, "protocol": 2}))

    @pytest.mark.parametrize(
        "change",
        [
            {"protocol": True}, {"protocol": "1"}, {"name": 3}, {"version": None}, {"range": [0]}, {"range": ["0", 1]},
            {"needs_prompts": "no"}, {"needs_prompts": 0}, {"max_request_bytes": "many"}, {"needs_token": 1},
        ],
    )  # fmt: skip
    def test_a_health_with_a_field_of_another_type_is_refused(self, change):
        with pytest.raises(ProtocolError):
            Health.decode(says_json({**HEALTH, **change}))


def says_json(value) -> bytes:
    return json.dumps(value).encode()


class TestNumbers:
    @pytest.mark.parametrize("prompts", [None, PROMPTS], ids=["no prompts", "prompts"])
    @pytest.mark.parametrize(("batch_size", "concurrency"), [(1, 1), (3, 2), (7, 4), (100, 4), (2, 64)])
    def test_they_are_those_of_the_local_reward_to_the_bit(self, batch_size, concurrency, prompts):
        with serving() as server:
            scorer = client(server.url, batch_size=batch_size, concurrency=concurrency)
            rewards = scorer(pictures(), prompts)
        assert rewards.dtype == np.float64
        assert rewards.tolist() == brightness(pictures(), prompts).tolist()

    def test_no_images_no_numbers(self):
        with serving() as server:
            assert client(server.url)(pictures(0)).shape == (0,)

    def test_every_image_and_its_prompt_is_sent_once(self):
        with scripted(scores()) as server:
            client(server.url, batch_size=2, concurrency=3)(pictures(), PROMPTS)
        parts = [decode_request(request.body) for request in server.requests]
        assert [len(images) for images, _ in parts].count(2) == 3
        assert sorted(prompt for _, prompts in parts for prompt in prompts) == sorted(PROMPTS)

    def test_it_works_where_an_event_loop_runs_already(self):
        async def notebook(url: str):
            return client(url)(pictures())

        with serving() as server:
            assert asyncio.run(notebook(server.url)).tolist() == brightness(pictures()).tolist()


class TestWhatMayPass:
    @pytest.mark.parametrize(
        "reply",
        [
            *[says(status, {"error": "later"}) for status in (429, 502, 503, 504)],
            hang_up,
            cut(5),
            cut(60),
            cut(90),
        ],
        ids=["429", "502", "503", "504", "hung up", "cut status", "cut headers", "cut body"],
    )
    def test_is_tried_again_and_then_the_numbers_are_right(self, reply):
        with scripted(reply, reply, scores()) as server:
            rewards = client(server.url, batch_size=9)(pictures())
        assert rewards.tolist() == brightness(pictures()).tolist()
        assert len(server.requests) == 3
        # Idempotent: the same request, word for word.
        assert len({request.body for request in server.requests}) == 1

    def test_an_absent_server_is_an_error(self):
        with socket.socket() as taken:
            # Bound and not listening: connections are refused.
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(RemoteError, match=r"ConnectError.*3 attempts"):
                client(url)(pictures())

    def test_a_server_that_comes_up_late_is_waited_for(self, monkeypatch):
        monkeypatch.setattr(client_module, "_FIRST_WAIT_SECONDS", 0.05)
        with socket.socket() as taken, ThreadPoolExecutor() as pool:
            # Held until the server has it, so that no other program is given it.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            rewards = pool.submit(client(f"http://127.0.0.1:{port}", retries=20), pictures())
            time.sleep(0.3)
            assert not rewards.done()
            with serving(address=("127.0.0.1", port)):
                assert rewards.result().tolist() == brightness(pictures()).tolist()

    def test_one_without_an_answer_in_time_is_asked_again(self):
        with scripted(silence, scores()) as server:
            rewards = client(server.url, batch_size=9, timeout_seconds=0.2)(pictures())
        assert rewards.tolist() == brightness(pictures()).tolist()

    def test_only_so_often(self):
        with (
            scripted(says(503, {"error": "full"})) as server,
            pytest.raises(RemoteError, match=r"503: full; 3 attempts.*reward\.url"),
        ):
            client(server.url, batch_size=9)(pictures())
        assert len(server.requests) == 3

    def test_waits_grow_and_differ(self, monkeypatch):
        waits = []
        sleep = asyncio.sleep

        async def noted(seconds, *rest):
            waits.append(seconds)
            await sleep(seconds, *rest)

        monkeypatch.setattr(client_module, "_FIRST_WAIT_SECONDS", 0.1)
        monkeypatch.setattr(asyncio, "sleep", noted)
        with scripted(says(503, b"")) as server, pytest.raises(RemoteError):
            client(server.url, batch_size=9, retries=3)(pictures())
        asked = [after - before for before, after in itertools.pairwise(server.times)]
        for repetition, (wait, real) in enumerate(zip(waits, asked, strict=True)):
            # Between a half and the whole of 0.1, 0.2, 0.4 seconds.
            assert 0.05 * 2**repetition <= wait <= 0.1 * 2**repetition
            # As long as that, and what a busy machine adds.
            assert 0.99 * wait <= real <= wait + 0.5
        # Each by a share of its own, or clients that were refused together come back together.
        assert len({wait / 2**repetition for repetition, wait in enumerate(waits)}) == 3

    def test_it_waits_as_many_seconds_as_the_server_asks(self):
        with scripted(says(429, b"", "Retry-After: 1"), scores()) as server:
            client(server.url, batch_size=9)(pictures())
        assert server.times[1] - server.times[0] >= 0.95

    def test_it_waits_until_the_date_that_the_server_names(self):
        # A date has whole seconds: at least one of the two is still to come.
        now, until = time.monotonic(), math.floor(time.time() + 2)
        later = until - time.time()
        with scripted(says(429, b"", f"Retry-After: {formatdate(until, usegmt=True)}"), scores()) as server:
            client(server.url, batch_size=9)(pictures())
        assert server.times[1] - now >= later - 0.05

    def test_a_server_that_asks_to_wait_beyond_the_deadline_is_not_waited_for(self):
        with (
            scripted(says(503, b"", "Retry-After: 3600")) as server,
            pytest.raises(RemoteError, match="deadline has come after 1 attempts"),
        ):
            client(server.url, batch_size=9)(pictures())

    # Kills: no deadline.
    @pytest.mark.parametrize("reply", [silence, drip], ids=["silence", "drip"])
    def test_the_deadline_holds_whatever_the_server_does(self, reply):
        began = time.monotonic()
        with scripted(reply) as server, pytest.raises(RemoteError, match="deadline"):
            client(server.url, timeout_seconds=100, deadline_seconds=0.5)(pictures())
        assert time.monotonic() - began < 3

    def test_the_deadline_is_for_all_batches_together(self):
        def slow(connection, request):
            time.sleep(0.2)
            scores()(connection, request)

        with scripted(slow) as server, pytest.raises(RemoteError, match="deadline"):
            client(server.url, batch_size=1, concurrency=1, deadline_seconds=0.5)(pictures())
        assert len(server.requests) <= 3


class TestWhatIsFinal:
    # Kills: retry on 400.
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 411, 413, 415, 422, 500, 501, 505])
    def test_a_refusal_is_told_at_once_with_what_the_server_said(self, status):
        with (
            scripted(says(status, {"error": "not like this"}), scores()) as server,
            pytest.raises(RemoteError, match=rf"HTTP {status}: not like this.*Fix: "),
        ):
            client(server.url, batch_size=9)(pictures())
        assert len(server.requests) == 1

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_requests_are_not_redirected(self, status):
        with (
            scripted(scores()) as elsewhere,
            scripted(says(status, b"", f"Location: {elsewhere.url}/score")) as server,
            pytest.raises(RemoteError, match=rf"{status}.*redirected"),
        ):
            client(server.url)(pictures())
        assert not elsewhere.requests

    @pytest.mark.parametrize(
        ("body", "problem"),
        [
            (b"", "no JSON"),
            (b"<html>Welcome!</html>", "no JSON"),
            (b"\x00\xff" * 50, "no JSON"),
            (b"[" * 100_000, "no JSON"),
            (b"[0.5, 0.5]", "no JSON object"),
            ({"rewards": [0.5] * 7}, "no valid `name`"),
            ({"name": NAME, "version": VERSION}, "no valid `rewards`"),
            ({"name": NAME, "version": VERSION, "rewards": {"0": 1}}, "no valid `rewards`"),
            (b" " * 2**21, "more than"),
        ],
        ids=["empty", "html", "bytes", "deep", "list", "no name", "no rewards", "mapping", "endless"],
    )
    def test_garbage_is_an_error(self, body, problem):
        with scripted(says(200, body), scores()) as server, pytest.raises(RemoteError, match=problem):
            client(server.url, batch_size=9)(pictures())
        assert len(server.requests) == 1

    # Kills: drop the count check.
    @pytest.mark.parametrize("change", [lambda r: r[:-1], lambda r: [*r, 0.5], lambda r: []])
    def test_a_wrong_number_of_rewards_is_an_error_and_never_a_short_list(self, change):
        reply = scores(lambda answer: {**answer, "rewards": change(answer["rewards"])})
        with scripted(reply) as server, pytest.raises(RemoteError, match=r"rewards for 3 images"):
            client(server.url)(pictures(3))

    # Kills: drop the finite check.
    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 10**400])
    def test_a_reward_that_is_not_finite_names_its_image_among_all(self, bad):
        def spoil(answer):
            if len(answer["rewards"]) == 1:  # The last of the three batches 3, 3, 1.
                answer["rewards"][0] = bad
            return answer

        with scripted(scores(spoil)) as server, pytest.raises(ImageError, match=r"image=6") as caught:
            client(server.url)(pictures())
        assert caught.value.image == 6

    @pytest.mark.parametrize("bad", [True, None, "0.5", [0.5]])
    def test_what_is_no_number_is_an_error(self, bad):
        reply = scores(lambda answer: {**answer, "rewards": [*answer["rewards"][:-1], bad]})
        with scripted(reply) as server, pytest.raises(RemoteError, match=r"rewards\[2\]"):
            client(server.url)(pictures(3))

    def test_another_scorer_is_an_error(self):
        with (
            scripted(scores(lambda answer: {**answer, "name": "darkness"})) as server,
            pytest.raises(RemoteError, match=r"scorer is 'darkness', not 'brightness'.*reward\.scorer"),
        ):
            client(server.url)(pictures())

    def test_another_version_is_an_error_where_one_was_asked_for(self):
        with scripted(scores()) as server:
            client(server.url, version=VERSION)(pictures())
            with pytest.raises(RemoteError, match=r"version is '1', not '2'.*reward\.version"):
                client(server.url, version="2")(pictures())

    def test_an_image_that_the_server_refuses_is_named_among_all(self):
        def refuse(connection, request):
            late = len(decode_request(request.body)[0]) == 1
            (says(422, {"error": "no face", "image": 0}) if late else scores())(connection, request)

        with scripted(refuse) as server, pytest.raises(ImageError, match=r"no face.*image=6"):
            client(server.url)(pictures())

    def test_one_bad_batch_of_many_ends_the_call(self):
        count = itertools.count()

        def sometimes(connection, request):
            (says(400, {"error": "bad"}) if next(count) == 40 else scores())(connection, request)

        with scripted(sometimes) as server, pytest.raises(RemoteError, match="bad"):
            client(server.url, batch_size=1, concurrency=8)(pictures(64))


class TestHealth:
    def test_a_server_is_asked_what_it_is(self):
        with serving(needs_prompts=True, bounds=(0.0, 1.0)) as server:
            health = client(server.url).health()
        assert (health.name, health.version, health.range, health.needs_prompts) == (NAME, VERSION, (0.0, 1.0), True)

    @pytest.mark.parametrize(
        ("answer", "problem"),
        [
            ({**HEALTH, "name": "darkness"}, "scorer is 'darkness'"),
            ({**HEALTH, "protocol": 2}, "protocol 2"),
            ({**HEALTH, "needs_token": True}, f"set {REWARD_TOKEN}"),
            ({"status": "ok"}, "is it one of a remote reward"),
        ],
    )
    def test_a_wrong_one_is_refused_before_anything_is_sent_to_it(self, answer, problem):
        with scripted(says(200, answer)) as server, pytest.raises(RemoteError, match=problem):
            client(server.url).health()
        assert [request.line for request in server.requests] == ["GET /health HTTP/1.1"]

    def test_a_path_of_the_url_stays_before_the_endpoints(self):
        with scripted(says(200, HEALTH)) as server:
            client(f"{server.url}/aesthetic/").health()
        assert server.requests[0].line == "GET /aesthetic/health HTTP/1.1"

    def test_no_server_is_an_error_by_the_deadline(self, monkeypatch):
        monkeypatch.setattr(client_module, "HEALTH_SECONDS", 0.3)
        began = time.monotonic()
        with pytest.raises(RemoteError, match=r"http://127\.0\.0\.1:1"):
            client("http://127.0.0.1:1", retries=1000).health()
        assert time.monotonic() - began < 2


class TestSecrets:
    TOKEN = "tok-3f9a"

    @pytest.fixture(autouse=True)
    def _token(self, monkeypatch):
        monkeypatch.setenv(REWARD_TOKEN, self.TOKEN)

    def test_the_token_goes_with_every_request(self):
        with scripted(scores()) as server:
            client(server.url)(pictures())
        assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {self.TOKEN}"}

    @pytest.mark.parametrize("url", ["http://scorer.example:8080", "http://10.0.0.7", "http://localhost.example"])
    def test_it_never_leaves_this_machine_without_tls(self, url):
        with pytest.raises(ConfigError, match=r"reward\.url: expected https") as caught:
            client(url)
        assert self.TOKEN not in str(caught.value)

    @pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://a.example"])
    def test_it_may_go_to_the_loopback_and_through_tls(self, url):
        client(url)

    @pytest.mark.parametrize("status", [200, 400, 401, 500, 503])
    def test_a_server_that_repeats_it_does_not_get_it_into_an_error(self, status):
        reply = says(status, {"error": f"Authorization: Bearer {self.TOKEN}"})
        with scripted(reply) as server, pytest.raises(HrfError) as caught:
            client(server.url)(pictures())
        assert self.TOKEN not in str(caught.value)
        assert self.TOKEN not in repr(client(server.url))


class TestConfigured:
    """The section `reward: {name: remote, ...}`, from its text to the reward."""

    def settings(self, url: str, **options) -> RemoteReward:
        values = {"name": "remote", "url": url, "scorer": NAME, "retries": 2, "batch_size": 3, **options}
        reward = Config.from_mapping({"reward": values}).reward
        assert isinstance(reward, RemoteReward)
        return reward

    def test_it_is_the_reward_of_the_server(self):
        with serving(needs_prompts=True) as server:
            reward = build_reward(self.settings(server.url))
            assert (reward.name, reward.needs_prompts) == (f"remote:{NAME}", True)
            assert reward(pictures(), PROMPTS).tolist() == brightness(pictures(), PROMPTS).tolist()
            with pytest.raises(ConfigError, match="prompts"):
                reward(pictures())

    def test_a_server_that_is_not_there_is_an_error_when_the_reward_is_built(self):
        with pytest.raises(RemoteError, match="ConnectError"):
            build_reward(self.settings("http://127.0.0.1:1", retries=0))

    def test_a_server_whose_scorer_changes_afterwards_is_found_out(self):
        answers = [says(200, HEALTH), scores(), scores(lambda answer: {**answer, "version": "2"})]
        with scripted(*answers) as server:
            reward = build_reward(self.settings(server.url, batch_size=100))
            reward(pictures())
            with pytest.raises(RemoteError, match="version is '2', not '1'"):
                reward(pictures())

    def test_one_term_of_a_sum_may_be_remote(self):
        with serving() as server:
            terms = [
                {"reward": {"name": "jpeg_compressibility"}},
                {"reward": {"name": "remote", "url": server.url, "scorer": NAME}, "weight": 2.0, "mean": 0.5},
            ]
            reward = build_reward(Config.from_mapping({"reward": {"name": "weighted_sum", "terms": terms}}).reward)
            jpeg = build_reward(JpegReward())(pictures())
            assert reward(pictures()) == pytest.approx(jpeg + 2 * (brightness(pictures()) - 0.5))

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"url": ""}, "reward.url"),
            ({"url": "scorer.example"}, "reward.url"),
            ({"url": "ftp://scorer.example"}, "reward.url"),
            ({"url": "https://user:pass@scorer.example"}, "reward.url"),
            ({"url": "https://scorer.example?token=1"}, "reward.url"),
            ({"url": "https://scorer.example/#a"}, "reward.url"),
            ({"scorer": ""}, "reward.scorer"),
            ({"batch_size": 0}, "reward.batch_size"),
            ({"concurrency": 0}, "reward.concurrency"),
            ({"timeout_seconds": 0}, "reward.timeout_seconds"),
            ({"retries": -1}, "reward.retries"),
            ({"token": "abc"}, "reward.token"),
            ({"quality": 90}, "reward.quality"),
        ],
    )
    def test_what_cannot_work_is_a_mistake_in_the_configuration(self, change, field):
        with pytest.raises(ConfigError) as caught:
            self.settings(**{"url": "https://scorer.example:8443/a/b", **change})
        assert caught.value.field == field

    def test_a_password_in_the_url_is_not_repeated(self):
        with pytest.raises(ConfigError) as caught:
            self.settings("https://user:hunter2@scorer.example")
        assert "hunter2" not in str(caught.value)

    def test_where_and_how_it_is_reached_is_no_part_of_what_is_measured(self):
        one = self.settings("http://127.0.0.1:1", batch_size=1, retries=0, deadline_seconds=5.0)
        other = self.settings("https://scorer.example")
        assert one.measured() == other.measured() == {"name": "remote", "scorer": NAME, "version": ""}
        assert one.measured() != self.settings("https://scorer.example", version="2").measured()
        assert JpegReward(quality=80).measured() == JpegReward(quality=80).model_dump(mode="json")
        sums = [
            WeightedSumReward(terms=(Term(reward=reward, weight=weight), Term()))
            for reward, weight in [(one, 1.0), (other, 1.0), (other, 2.0)]
        ]
        assert sums[0].measured() == sums[1].measured() != sums[2].measured()
