"""Advantages of a reward, of what shapes it, and of the distance to siblings."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hrf.config import resolve
from hrf.errors import NumericalError
from hrf.rewards import build_reward
from hrf.rewards.python import PythonReward
from hrf.trainer.advantages import PromptStatistics, advantages_of
from hrf.trainer.episodes import Finished
from hrf.trainer.rollout import Trajectories
from hrf.trainer.trainer import score_episodes

GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])
REWARDS = np.array([1.0, 2.0, 6.0, 10.0, 10.0, 40.0])
DISTANCES = np.array([0.3, 0.1, 0.2, 0.5, 0.1, 0.9])


SHAPING = "shaping: {reward: {name: classifier, label: unrecognised}, weight: -2.0}"
TRAJECTORIES = Trajectories(
    states=torch.empty(0),
    log_probs=torch.empty(0),
    start_steps=torch.zeros(6, dtype=torch.int64),
    groups=GROUPS,
    num_trained_steps=1,
)


def advantages(weight: float, distances: np.ndarray | None) -> np.ndarray:
    config = resolve("avatars-split", f"update: {{sibling_distance_weight: {weight}}}")
    return advantages_of(REWARDS, TRAJECTORIES, config, distances=distances).numpy()


def test_the_distance_to_siblings_is_standardised_by_itself_and_weighted():
    """In numpy. Kills: distances added to rewards before these are standardised, standardised over all groups, a weight
    of the sum or of the rewards."""

    def standardised(values: np.ndarray) -> np.ndarray:
        parts = np.split(values, 2)
        return np.concatenate([(part - part.mean()) / part.std() for part in parts])

    for weight in (0.0, 0.7):
        found = advantages(weight, DISTANCES if weight else None)
        np.testing.assert_allclose(found, standardised(REWARDS) + weight * standardised(DISTANCES), rtol=1e-5)


def test_a_weight_without_distances_is_refused():
    with pytest.raises(ValueError, match="distances"):
        advantages(0.5, None)


def test_a_second_reward_is_summed_with_the_first_before_the_group_is_standardised():
    """By hand: r - 2 s is 1, -2, 1 in the first group; in the second, whose s are all but alike, r stands as it is.

    Kills: s standardised by itself, which would turn the second group by its differences of a millionth; s of another
    branch; the sign; s added after.
    """
    rewards, shaping = np.array([1.0, 0.0, 3.0, 1.0, 1.0, 4.0]), np.array([0.0, 1.0, 1.0, 0.5, 0.5 + 1e-6, 0.5])

    found = advantages_of(rewards, TRAJECTORIES, resolve("avatars-split", SHAPING), shaping=shaping).numpy()

    one, two = 1 / np.sqrt(2), np.sqrt(2)
    np.testing.assert_allclose(found, [one, -two, one, -one, -one, two], atol=3e-6)


def test_what_a_prompt_remembers_is_the_sum_too():
    """Kills: the second reward left out where each prompt has its own statistics."""
    config = resolve("avatars-split", SHAPING)
    statistics = PromptStatistics(buffer=4, min_count=1, delta=1e-8)
    asked = replace(TRAJECTORIES, prompts=torch.tensor([0, 0, 0, 1, 1, 1]))

    found = advantages_of(REWARDS, asked, config, shaping=REWARDS, statistics=statistics, texts=["a", "b"])

    assert statistics.state() == {"a": [-1.0, -2.0, -6.0], "b": [-10.0, -10.0, -40.0]}
    without = resolve("avatars-split")
    torch.testing.assert_close(found, -advantages_of(REWARDS, TRAJECTORIES, without), atol=1e-6, rtol=1e-5)


def test_a_shaped_reward_without_what_shapes_it_is_refused():
    with pytest.raises(ValueError, match="what shapes it"):
        advantages_of(REWARDS, TRAJECTORIES, resolve("avatars-split", SHAPING))


def test_an_image_that_the_second_reward_fails_on_is_named_with_the_section():
    finished = Finished(samples=torch.zeros(6, 3, 8, 8), groups=GROUPS, prompts=None)
    reward, shaping = (
        build_reward(PythonReward(function=f"tests.hrf.shared_work:{name}"))
        for name in ("mean_red", "reward_without_the_last")
    )
    with pytest.raises(NumericalError, match=r"score is nan \(epoch=4, root=1, branch=2, shaping\.reward\)"):
        score_episodes(finished, reward, epoch=4, shaping=shaping)


def test_features_without_a_direction_stop_the_run_with_its_epoch():
    finished = Finished(samples=torch.zeros(6, 3, 8, 8), groups=GROUPS, prompts=None)
    reward = build_reward(PythonReward(name="python", function="tests.hrf.shared_work:mean_red"))
    with pytest.raises(NumericalError, match=r"length zero.*epoch=4"):
        score_episodes(finished, reward, epoch=4, embed=lambda images: torch.zeros(len(images), 2))
