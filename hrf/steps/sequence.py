"""The order of a run, once: which step follows which, and which folders each of them gets from which.

    check, fetch, prepare, baseline
    for each leg:  sample (each shard; gather), score, update     or train, of several epochs; each replica
                   merge                                          of several replicas, before an evaluation
                   evaluate, promote                              where it ends with an evaluation
                   steer                                          under a diversity floor
    summarize

Studies and tests do what stands here. Kubeflow's pipelines say the same in Kubeflow's own words, and a test compares
the two. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from hrf.config import Config

BASE = "base"
"""The folder of the base model: one for all ways."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One step of a run. Folders stand here by the names that they have within the run."""

    step: str
    """Its function, in the module of the same name."""
    way: str = ""
    """The prefix of its folders; see `whole_run`."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What does not depend on the configuration: epochs, shards and replicas."""
    inputs: Mapping[str, str | tuple[str, ...] | None] = field(default_factory=dict)
    """Parameter -> folder, or folders of shards; None: there is none yet."""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Parameter -> folder (of a report: file)."""

    def __call__(self, place: Callable[[str], str], **configured: Any) -> dict[str, Any]:
        """Do the step.

        Args:
            place: Folder -> its path.
            configured: The parameters that depend on the configuration, of `check`, `fetch` and `prepare`.
        """
        folders = {
            name: tuple(map(place, value)) if isinstance(value, tuple) else value and place(value)
            for name, value in {**self.inputs, **self.outputs}.items()
        }
        function = getattr(import_module(f"hrf.steps.{self.step}"), self.step)
        facts: dict[str, Any] = function(**configured, **self.parameters, **folders)
        return facts


@dataclass(frozen=True, kw_only=True)
class Leg:
    """Epochs that are trained one after another, and what follows them."""

    first_epoch: int
    num_epochs: int = 1
    in_one_step: bool = False
    """Whether `train` does all of it; always so for several epochs."""
    evaluated: bool = False
    """Whether the policy is evaluated, and offered for promotion, at its end."""
    steered: bool = False
    """Whether the run is then held above its diversity floor."""

    @property
    def last_epoch(self) -> int:
        """The epoch that its evaluation belongs to."""
        return self.first_epoch + self.num_epochs - 1


def legs_of(config: Config) -> list[Leg]:
    """The legs of a run: evaluated after every `evaluation.every` epochs, and always at the end.

    `run.epochs_per_step: auto` counts as 1 until it is settled.
    """
    num_epochs, every = config.run.epochs, config.evaluation.every
    length = 1 if config.run.epochs_per_step == "auto" else config.run.epochs_per_step
    legs = []
    for first in range(0, num_epochs, length):
        stop = first + length
        evaluated = stop % every == 0 or stop == num_epochs
        steered = evaluated and config.diversity_floor is not None
        leg = Leg(first_epoch=first, num_epochs=length, in_one_step=length > 1, evaluated=evaluated, steered=steered)
        legs.append(leg)
    return legs


def legs_between(points: Sequence[int], *, steered: bool) -> list[Leg]:
    """The legs of a run that is measured after each of `points`, numbers of trained epochs, rising."""
    return [
        Leg(first_epoch=first, num_epochs=stop - first, in_one_step=True, evaluated=True, steered=steered)
        for first, stop in zip((0, *points), points, strict=False)
    ]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The folders that training goes on from."""

    policy: str
    training_state: str


def whole_run(
    legs: Sequence[Leg],
    *,
    num_replicas: int = 1,
    num_shards: int = 1,
    ways: Sequence[str] = ("",),
    fresh_seeds: bool = True,
) -> Iterator[Call]:
    """All steps of a run, in order.

    Args:
        legs: Of all its epochs.
        num_replicas: How many chains of epochs it trains, each from its own weights on; their mean is evaluated.
        num_shards: How many steps share an epoch's sampling.
        ways: Prefixes of folders, the run's own first; any others are controls, other ways to sample what the run
            trains, each with a configuration of its own, which are measured whenever the run is.
        fresh_seeds: Whether promotions are decided on seeds of their own. A study compares arms on the fixed ones.
    """
    first = ways[0]
    for way in ways:
        yield from beginning(way, with_base=way == first)
    chains, histories = [untrained(first)] * num_replicas, dict[str, str | None].fromkeys(ways)
    for leg in legs:
        for replica, trained in enumerate(chains):
            chain = chain_of(replica, num_replicas)
            yield from training(leg, trained, way=first, chain=chain, num_shards=num_shards)
            chains[replica] = after(leg, way=first, chain=chain)
        if leg.evaluated:
            policies = [trained.policy for trained in chains]
            if num_replicas > 1:
                yield merging(leg.last_epoch, policies, way=first)
            for way in ways:
                candidate = after(leg, way=first).policy
                yield from judging(leg.last_epoch, candidate, histories[way], way=way, fresh_seeds=fresh_seeds)
                histories[way] = judged(leg.last_epoch, way=way)
        if leg.steered:
            # Under a floor there is one replica.
            yield steering(leg.last_epoch, chains[0], histories[first], way=first)
            chains[0], histories[first] = after_steering(leg.last_epoch, way=first)
    for way in ways:
        yield summary(histories[way], way=way)


def beginning(way: str = "", *, with_base: bool = True) -> Iterator[Call]:
    """What comes before the first epoch."""
    fresh = untrained(way)
    yield Call(step="check", way=way)
    if with_base:
        yield Call(step="fetch", way=way, outputs={"base": BASE})
    yield Call(
        step="prepare",
        way=way,
        inputs={"base": BASE},
        outputs={"run": f"{way}run", "policy": fresh.policy, "training_state": fresh.training_state},
    )
    yield Call(
        step="baseline",
        way=way,
        inputs={"run": f"{way}run", "base": BASE, "policy": fresh.policy},
        outputs={"baseline": f"{way}baseline"},
    )


def untrained(way: str = "") -> Trained:
    """What `prepare` makes."""
    return Trained(policy=f"{way}policy-0", training_state=f"{way}state-0")


@dataclass(frozen=True, kw_only=True)
class Chain:
    """One of a run's chains of epochs."""

    replica: int = 0
    prefix: str = ""
    """Of its folders: none where there is one chain, so that several leave a run's own names to what is merged."""


def chain_of(replica: int, num_replicas: int) -> Chain:
    """The chain of a replica."""
    return Chain(replica=replica, prefix=f"replica-{replica}-" if num_replicas > 1 else "")


ONLY = Chain()
"""The chain of a run without replicas."""


def after(leg: Leg, *, way: str = "", chain: Chain = ONLY) -> Trained:
    """What the training of a leg makes."""
    stop = leg.last_epoch + 1
    return Trained(policy=f"{way}{chain.prefix}policy-{stop}", training_state=f"{way}{chain.prefix}state-{stop}")


def training(leg: Leg, trained: Trained, *, way: str = "", chain: Chain = ONLY, num_shards: int = 1) -> Iterator[Call]:
    """The training of a leg: one step, or those of its epoch."""
    settled = {"run": f"{way}run", "base": BASE}
    current = {"policy": trained.policy, "training_state": trained.training_state}
    following = after(leg, way=way, chain=chain)
    outputs = {"new_policy": following.policy, "new_training_state": following.training_state}
    if leg.in_one_step:
        yield Call(
            step="train",
            way=way,
            parameters={"epoch": leg.first_epoch, "num_epochs": leg.num_epochs, "replica": chain.replica},
            inputs={**settled, **current, "baseline": f"{way}baseline"},
            outputs=outputs,
        )
        return
    epoch, own = leg.first_epoch, f"{way}{chain.prefix}"
    numbers = {"epoch": epoch, "replica": chain.replica}
    yield from sampling(epoch, trained.policy, way=way, chain=chain, num_shards=num_shards)
    yield Call(
        step="score",
        way=way,
        parameters=numbers,
        inputs={"run": settled["run"], "samples": f"{own}samples-{epoch}"},
        outputs={"scores": f"{own}scores-{epoch}"},
    )
    yield Call(
        step="update",
        way=way,
        parameters=numbers,
        inputs={
            **settled,
            **current,
            "trajectories": f"{own}trajectories-{epoch}",
            "scores": f"{own}scores-{epoch}",
        },
        outputs=outputs,
    )


def sampling(epoch: int, policy: str, *, way: str = "", chain: Chain = ONLY, num_shards: int = 1) -> Iterator[Call]:
    """The sampling of an epoch: one step; or one for each shard, and one that joins what they made."""
    inputs = {"run": f"{way}run", "base": BASE, "policy": policy, "baseline": f"{way}baseline"}
    whole = {name: f"{way}{chain.prefix}{name}-{epoch}" for name in ("trajectories", "samples")}
    numbers, shards = {"epoch": epoch, "replica": chain.replica}, range(num_shards)
    for shard in shards:
        yield Call(
            step="sample",
            way=way,
            parameters={**numbers, "shard": shard, "num_shards": num_shards},
            inputs=inputs,
            outputs=whole if num_shards == 1 else {name: f"{folder}-{shard}" for name, folder in whole.items()},
        )
    if num_shards > 1:
        yield Call(
            step="gather",
            way=way,
            parameters=numbers,
            inputs={
                "run": inputs["run"],
                "trajectory_shards": tuple(f"{whole['trajectories']}-{shard}" for shard in shards),
                "sample_shards": tuple(f"{whole['samples']}-{shard}" for shard in shards),
            },
            outputs=whole,
        )


def merging(epoch: int, policies: Sequence[str], *, way: str = "") -> Call:
    """The mean of the replicas' weights, which is what is evaluated."""
    return Call(
        step="merge",
        way=way,
        parameters={"epoch": epoch},
        inputs={"run": f"{way}run", "policies": tuple(policies)},
        outputs={"new_policy": f"{way}policy-{epoch + 1}"},
    )


def judging(epoch: int, policy: str, history: str | None, *, way: str = "", fresh_seeds: bool = True) -> Iterator[Call]:
    """An evaluation and its decision, which join the history."""
    inputs = {"run": f"{way}run", "base": BASE, "policy": policy, "baseline": f"{way}baseline"}
    evaluation = f"{way}evaluation-{epoch}"
    yield Call(
        step="evaluate",
        way=way,
        parameters={"epoch": epoch},
        inputs=inputs,
        outputs={"evaluation": evaluation},
    )
    yield Call(
        step="promote",
        way=way,
        parameters={"epoch": epoch, "fresh_seeds": fresh_seeds},
        inputs={**inputs, "evaluation": evaluation, "history": history},
        outputs={"new_history": judged(epoch, way=way)},
    )


def judged(epoch: int, *, way: str = "") -> str:
    """The history that `promote` writes."""
    return f"{way}judged-{epoch}"


def steering(epoch: int, trained: Trained, history: str | None, *, way: str = "") -> Call:
    """What holds the run above its diversity floor."""
    following, longer = after_steering(epoch, way=way)
    return Call(
        step="steer",
        way=way,
        parameters={"epoch": epoch},
        inputs={
            "run": f"{way}run",
            "base": BASE,
            "baseline": f"{way}baseline",
            "policy": trained.policy,
            "training_state": trained.training_state,
            "history": history,
        },
        outputs={
            "new_policy": following.policy,
            "new_training_state": following.training_state,
            "new_history": longer,
        },
    )


def after_steering(epoch: int, *, way: str = "") -> tuple[Trained, str]:
    """What `steer` makes, and the history that it writes."""
    trained = Trained(policy=f"{way}steered-policy-{epoch}", training_state=f"{way}steered-state-{epoch}")
    return trained, f"{way}steered-history-{epoch}"


def summary(history: str | None, *, way: str = "") -> Call:
    """The end of a run."""
    return Call(
        step="summarize",
        way=way,
        inputs={"run": f"{way}run", "baseline": f"{way}baseline", "history": history},
        outputs={"report": f"{way}report.html", "summary": f"{way}summary"},
    )
