"""All sections of a configuration together, and what follows from their values."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from hrf.config.sections import (
    Evaluation,
    Gate,
    Model,
    Policy,
    Prompts,
    Rollout,
    Run,
    Sampler,
    Shaping,
    Starts,
    Update,
)
from hrf.core.window import first_step_from
from hrf.errors import ConfigError
from hrf.rewards import DEFAULT_REWARD, RewardSettings
from hrf.storage.schema import Section


class Tree(Section):
    """The fields of a configuration, each right by itself: `hrf.config.checks` has the rules between them."""

    description: str = ""
    """What the configuration is for, in one sentence."""
    model: Model = Model()
    prompts: Prompts | None = None
    """For text-to-image models, which need it; null for unconditional ones."""
    sampler: Sampler = Sampler()
    policy: Policy = Policy()
    starts: Starts = Starts()
    rollout: Rollout = Rollout()
    reward: RewardSettings = DEFAULT_REWARD
    shaping: Shaping | None = None
    """null: training is on the reward alone."""
    update: Update = Update()
    evaluation: Evaluation = Evaluation()
    gate: Gate = Gate()
    diversity_floor: Annotated[float, Field(gt=0, lt=1)] | None = None
    """What the lower end of the diversity ratio to the base must exceed. The run steers by it (see
    `hrf.promotion.floor`): with a split by the switch step and the learning rate, without one by the rate alone. The
    gate takes it in the place of its margin. null: the run does not steer."""
    run: Run = Run()

    def wrong(self, field: str, *, expected: str, fix: str) -> ConfigError:
        """What is wrong with the value of a dotted field."""
        value: Any = self
        for name in field.split("."):
            value = getattr(value, name)
        return ConfigError(field, expected=expected, got=value, fix=fix)

    @property
    def trained_rewards(self) -> dict[str, RewardSettings]:
        """Section -> reward of what training is on."""
        return {"reward": self.reward} | ({"shaping.reward": self.shaping.reward} if self.shaping else {})

    @property
    def rewards(self) -> dict[str, RewardSettings]:
        """Section -> reward of what training is on, and of what is watched."""
        held_out = self.evaluation.held_out_reward
        return self.trained_rewards | ({"evaluation.held_out_reward": held_out} if held_out else {})

    @property
    def is_in_steps(self) -> bool:
        """Whether a configuration says its windows and its split in steps, or fractions of them, and not by sigma."""
        return self.policy.split_sigma is None and all(window.sigmas is None for window in self.starts.windows)

    @property
    def has_split(self) -> bool:
        """Whether the early steps are the reference's."""
        return self.policy.split > 0 or self.policy.split_sigma is not None

    @property
    def switch_step(self) -> int:
        """The first step that the tuned weights denoise: the first k with k/K >= policy.split; 0 without a split.

        Raises:
            ValueError: It is given by sigma, so that the model says which step it is: see `Config.in_steps`.
        """
        if self.policy.split_sigma is not None:
            raise ValueError("the split is given by sigma: the model's own noise levels say which step that is")
        return first_step_from(self.policy.split, self.sampler.steps)

    @property
    def evaluation_steps(self) -> int:
        """The number of denoising steps of an evaluation."""
        return self.evaluation.steps or self.sampler.steps

    @property
    def narrowest_window(self) -> int:
        """The fewest start steps that a window can have: two candidates where they are selected, else one."""
        return self.starts.selection.stride + 1 if self.starts.kind == "selected" else 1

    @property
    def gate_floor(self) -> float:
        """What the lower end of a candidate's diversity ratio must exceed to pass the gate."""
        return 1.0 - self.gate.diversity_margin if self.diversity_floor is None else self.diversity_floor

    @property
    def verdict_samples(self) -> int:
        """How many fresh seeds a verdict is decided on."""
        return self.gate.num_samples or self.evaluation.num_samples

    @property
    def first_loss_step(self) -> int:
        """The first step of an episode that starts from noise and is trained."""
        return max(self.switch_step, first_step_from(self.starts.loss_from, self.sampler.steps))

    @property
    def forwards(self) -> int:
        """Forward passes of the denoiser per evaluation of a policy: 2 with guidance, else 1."""
        return 2 if self.model.guidance_scale > 1 else 1

    @property
    def episode_forwards(self) -> int:
        """The same for the episodes that are trained on."""
        return self.forwards if self.update.guidance else 1
