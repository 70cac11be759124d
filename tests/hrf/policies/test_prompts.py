"""Prompts: where they come from, what is held out, and DDPO's statistics of each."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hrf.config import Prompts
from hrf.errors import ArtifactError, ConfigError
from hrf.policies.prompts import ANIMALS, PromptTable, resolve_prompts, with_article
from hrf.seeds import Purpose, stream
from hrf.trainer.advantages import PromptStatistics
from hrf.trainer.starts import draw_prompts


def test_the_built_in_list_is_the_45_animals_each_once():
    assert len(set(ANIMALS)) == len(ANIMALS) == 45
    assert {"ant", "cat", "dolphin", "zebra"} <= set(ANIMALS)


def test_a_template_is_filled_with_the_prompt_and_its_article():
    table = resolve_prompts(Prompts(template="a photo of {a_prompt}, the {prompt}"), seed=0)

    assert "a photo of an ant, the ant" in table.texts
    assert "a photo of a bee, the bee" in table.texts
    assert with_article("owl") == "an owl"


@given(seed=st.integers(0, 1000), share=st.floats(0.0, 0.9))
def test_what_is_held_out_is_never_trained_on_and_a_fifth_means_a_fifth(seed, share):
    table = resolve_prompts(Prompts(held_out_fraction=share), seed=seed)

    assert not {*table.training} & {*table.evaluation}
    assert {*table.training} | {*table.evaluation} == set(ANIMALS)
    assert len(table.evaluation) == max(4, round(share * 45))


def test_what_is_held_out_depends_on_the_seed_and_hardly_on_other_prompts():
    """Kills: a split by position, which a line inserted at the top of a file would shift."""
    first, other = (resolve_prompts(Prompts(), seed=seed).evaluation for seed in (0, 1))
    longer = resolve_prompts(Prompts(texts=("yeti", *ANIMALS)), seed=0).evaluation

    assert first != other
    assert len({*first} & {*longer}) >= len(first) - 1


def test_a_file_has_a_prompt_in_a_line_and_a_second_file_is_for_evaluation(tmp_path):
    (tmp_path / "train.txt").write_text("a cat\n\n  a dog \n")
    (tmp_path / "eval.txt").write_text("an owl\na fox\na yak\nan elk\n")
    settings = Prompts(source=str(tmp_path / "train.txt"), evaluation_source=str(tmp_path / "eval.txt"))

    table = resolve_prompts(settings, seed=0)

    assert table.training == ("a cat", "a dog")
    assert table.evaluation == ("an owl", "a fox", "a yak", "an elk")


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("files", [1, 2])
def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path, ending, files):
    """As Windows editors begin a file; of two that were put together, the second one's is inside."""
    file = tmp_path / "prompts.txt"
    lines = ["cat", "dog", "bee", "fox", "cow", "ant"]
    parts = [lines] if files == 1 else [lines[:2], lines[2:]]
    text = "".join("\ufeff" + "".join(f"{line}{ending}" for line in part) for part in parts)
    file.write_bytes(text.encode())
    settings = Prompts(source=str(file), template="{prompt}")

    assert {*resolve_prompts(settings, seed=0).texts} == {*lines}

    file.write_bytes((text + "cat").encode())
    with pytest.raises(ConfigError, match="'cat' twice"):
        resolve_prompts(settings, seed=0)


@pytest.mark.parametrize(
    ("train", "evaluate", "message"),
    [
        ("a cat\na cat\n", "", r"prompts\.source.*'a cat' twice"),
        ("\n", "", r"prompts\.source.*none"),
        ("a\nb\nc\nd\n", "", r"held_out_fraction.*4 and 0"),
        ("a\nb\n", "c\nd\ne\n", r"evaluation_source.*3 and 2"),
        ("a\nb\n", "b\nc\nd\ne\n", r"evaluation_source.*such as 'b'"),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path, train, evaluate, message):
    (tmp_path / "train.txt").write_text(train)
    (tmp_path / "eval.txt").write_text(evaluate)
    settings = Prompts(
        source=str(tmp_path / "train.txt"), evaluation_source=str(tmp_path / "eval.txt") if evaluate else ""
    )
    with pytest.raises(ConfigError, match=message):
        resolve_prompts(settings, seed=0)


def test_a_file_that_is_not_there_says_what_to_do_on_a_cluster(tmp_path):
    with pytest.raises(ConfigError, match=r"prompts\.texts"):
        resolve_prompts(Prompts(source=str(tmp_path / "absent.txt")), seed=0)


def test_evaluation_seeds_take_the_held_out_prompts_in_turn():
    table = PromptTable(texts=("a", "b", "c", "d", "e"), num_training=2)

    assert table.of_evaluation(9) == [2, 3, 4, 2, 3, 4, 2, 3, 4]
    for count in (3, 8):
        with pytest.raises(ConfigError, match=r"multiple of the 3 evaluation prompts"):
            table.of_evaluation(count)


def test_a_table_survives_its_file(tmp_path):
    table = resolve_prompts(Prompts(texts=("größer", *ANIMALS)), seed=3)
    table.save(tmp_path)

    assert PromptTable.load(tmp_path) == table
    with pytest.raises(ArtifactError, match="run `prepare` again"):
        PromptTable.load(tmp_path / "absent")


def test_prompts_are_drawn_from_streams_of_their_own_uniformly():
    """Chi-square with 9 degrees of freedom: 27.9 is passed by chance once in a thousand."""
    streams = [stream(0, Purpose.PROMPT, 0, root) for root in range(4000)]
    drawn = draw_prompts(10, streams)
    counts = np.bincount(drawn.numpy(), minlength=10)

    assert ((counts - 400) ** 2 / 400).sum() < 27.9
    again = draw_prompts(10, [stream(0, Purpose.PROMPT, 0, 17)])
    assert int(again[0]) == int(drawn[17])
    assert draw_prompts(0, streams) is None


def published(buffer, min_count, delta, ddof):
    """The rule in plain Python: the last `buffer` rewards of a prompt once it has `min_count`, else the epoch's."""
    seen = defaultdict(list)

    def advantages(rewards, prompts):
        for reward, prompt in zip(rewards, prompts, strict=True):
            seen[prompt].append(reward)
        result = []
        for reward, prompt in zip(rewards, prompts, strict=True):
            last = seen[prompt][-buffer:]
            known = last if len(last) >= min_count else rewards
            constant = len(set(known)) == 1
            result.append(0.0 if constant else (reward - np.mean(known)) / (np.std(known, ddof=ddof) + delta))
        return result

    return advantages


@given(st.data())
def test_statistics_of_each_prompt_are_the_published_rule_over_epochs(data):
    """Kills: the epoch's own rewards left out, a buffer per epoch, min_count per epoch, n for n - 1 and the reverse."""
    spread, ddof = data.draw(st.sampled_from([("population", 0), ("sample", 1)]))
    buffer = data.draw(st.integers(2, 6))
    min_count = data.draw(st.integers(1, buffer))
    options = {"buffer": buffer, "min_count": min_count, "delta": 1e-3, "spread": spread}
    ours = PromptStatistics(**options)
    theirs = published(buffer, min_count, 1e-3, ddof)
    for _ in range(3):
        rewards = data.draw(st.lists(st.floats(-3, 3), min_size=2, max_size=8))
        prompts = data.draw(st.lists(st.sampled_from("abc"), min_size=len(rewards), max_size=len(rewards)))
        got = ours.advantages(torch.tensor(rewards, dtype=torch.float64), prompts)
        np.testing.assert_allclose(got.numpy(), theirs(rewards, prompts), rtol=1e-9, atol=1e-9)
        state = ours.state()
        ours = PromptStatistics(**options)
        ours.restore(state)


def test_equal_rewards_are_no_advantage_however_small_delta_is():
    statistics = PromptStatistics(buffer=4, min_count=1, delta=1e-12)

    assert statistics.advantages(torch.full((3,), 0.1, dtype=torch.float64), ["a", "a", "b"]).tolist() == [0, 0, 0]


@pytest.mark.parametrize("options", [{"buffer": 2, "min_count": 3}, {"buffer": 2, "min_count": 0}, {"delta": 0.0}])
def test_statistics_that_cannot_work_are_refused(options):
    with pytest.raises(ValueError, match="min_count"):
        PromptStatistics(**{"buffer": 4, "min_count": 2, "delta": 1e-8, **options})


def test_a_reward_that_is_not_finite_is_refused():
    statistics = PromptStatistics(buffer=4, min_count=1, delta=1e-8)
    with pytest.raises(ValueError, match="finite reward"):
        statistics.advantages(torch.tensor([1.0, float("nan")], dtype=torch.float64), ["a", "b"])
