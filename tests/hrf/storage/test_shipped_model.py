"""What the defaults promise of the shipped model: it samples well, and no single step takes the whole update."""

import statistics

import pytest

from hrf.config import resolve
from hrf.policies.folders import load_policy
from hrf.policies.sources import fetch_base
from hrf.rewards import build_reward
from hrf.trainer.starts import build_starts
from hrf.trainer.trainer import Trainer


def norms_by_step(tmp_path, **sampler) -> dict[int, float]:
    """Gradient norms of the first update of HRF with starts in the clean half."""
    config = resolve("avatars-hrf").with_changes(
        {"sampler": sampler, "rollout": {"roots": 4, "branches": 4}, "update": {"minibatch": 16}}
    )
    base = tmp_path / "base"
    fetch_base(config.model, base, {"step": "test"})
    policy = load_policy(config, base, base)
    reward = build_reward(config.reward)
    starts = build_starts(config, policy, reward=lambda: reward, pool=None)
    return dict(Trainer(policy, config, run_seed=0).train(0, starts, reward).grad_norm_by_step)


@pytest.mark.slow
def test_no_single_step_dominates_the_update(tmp_path):
    """Trap 10."""
    norms = list(norms_by_step(tmp_path).values())

    assert max(norms) <= 10 * statistics.median(norms)


@pytest.mark.slow
def test_the_nearly_deterministic_step_would_dominate_if_it_were_trained(tmp_path):
    """The mutant of trap 10, which is also the published behaviour: min_std 0."""
    norms = norms_by_step(tmp_path, min_std=0.0)

    assert max(norms, key=norms.get) == 18
    assert norms[18] > 10 * statistics.median(norms.values())
