"""A run of a few seconds on a model of a few thousand parameters, driven step by step."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from hrf.config import Config
from hrf.steps.check import PRESETS_SEED, shape_of
from hrf.steps.history import copy_updates, read_update
from hrf.steps.sequence import (
    Call,
    Leg,
    Trained,
    beginning,
    judging,
    sampling,
    steering,
    summary,
    training,
)
from hrf.storage.folders import writing_folder
from hrf.trainer.record import EpochRecord
from tests.hrf.toys import small_unet

TINY = {
    "sampler": {"steps": 6},
    "starts": {"kind": "window", "schedule": "sliding", "width": 0.5},
    "rollout": {"roots": 2, "branches": 3},
    "update": {"minibatch": 4, "microbatch": 5, "learning_rate": 1e-3},
    "evaluation": {"num_samples": 8, "features": "pixels", "classifier": ""},
    "gate": {"monitors": {"unrecognised_fraction": None}},
    "run": {"epochs": 4},
}


class StepByStep:
    """Runs steps as `hrf.steps.sequence` has them in a folder, where each output is a folder of its name there."""

    def __init__(self, folder: Path, storage: str, config: Config) -> None:
        self.folder, self.storage, self.config = folder, storage, config

    def at(self, name: str) -> str:
        return str(self.folder / name)

    def configured(self, run_id: str, experiment: str) -> dict:
        return {
            "preset": "",
            "overrides": self.config.to_yaml(),
            "learning_rate": 0.0,
            "seed": PRESETS_SEED,
            "experiment": experiment,
            "run_id": run_id,
            "storage": self.storage,
        }

    def check(self, run_id: str = "run", experiment: str = "tiny") -> dict:
        shape = shape_of(self.config)
        first = next(beginning())
        return first(self.at, **self.configured(run_id, experiment), **shape, start_from="", noise_tag="")

    def prepare(self, run_id: str = "run", experiment: str = "tiny") -> None:
        """All that comes before the first epoch."""
        checked = self.check(run_id, experiment)
        configured = {
            "fetch": {name: checked[name] for name in ("source", "revision", "version")},
            "prepare": self.configured(run_id, experiment),
        }
        for call in beginning():
            if call.step != "check":
                call(self.at, **configured.get(call.step, {}))

    def sample(self, epoch: int, shard: int = 0, num_shards: int = 1, suffix: str = "") -> None:
        call = list(sampling(epoch, f"policy-{epoch}", num_shards=num_shards))[shard]
        replace(call, outputs={name: f"{name}-{epoch}{suffix}" for name in call.outputs})(self.at)

    def sample_in_shards(self, epoch: int, num_shards: int, suffix: str) -> None:
        """Sample the shards, and gather them in the wrong order."""
        *shards, join = sampling(epoch, f"policy-{epoch}", num_shards=num_shards)
        for call in shards:
            call(self.at)
        inputs = {name: value[::-1] if isinstance(value, tuple) else value for name, value in join.inputs.items()}
        outputs = {name: f"{folder}{suffix}" for name, folder in join.outputs.items()}
        replace(join, inputs=inputs, outputs=outputs)(self.at)

    def epoch(self, epoch: int) -> None:
        self._train(Leg(first_epoch=epoch))

    def train(self, epoch: int, num_epochs: int) -> None:
        self._train(Leg(first_epoch=epoch, num_epochs=num_epochs, in_one_step=True))

    def _train(self, leg: Leg) -> None:
        epoch = leg.first_epoch
        for call in training(leg, Trained(policy=f"policy-{epoch}", training_state=f"state-{epoch}")):
            call(self.at)

    def judge(self, epoch: int) -> dict:
        """Evaluate and promote the policy after an epoch; its history is then `judged-EPOCH`."""
        self.evaluate(epoch)
        return self.promote(epoch)

    def evaluate(self, epoch: int) -> dict:
        return self._judging(epoch)[0](self.at)

    def promote(self, epoch: int, *, fresh_seeds: bool = True) -> dict:
        return self._judging(epoch, fresh_seeds=fresh_seeds)[1](self.at)

    def _judging(self, epoch: int, *, fresh_seeds: bool = True) -> list[Call]:
        policy, history = f"policy-{epoch + 1}", self.history_before(epoch)
        return list(judging(epoch, policy, history, fresh_seeds=fresh_seeds))

    def history_before(self, epoch: int) -> str | None:
        """What the last evaluation before an epoch's left, or `steer` after it; None if there was none."""
        names = [name for past in reversed(range(epoch)) for name in (f"history-{past + 1}", f"judged-{past}")]
        return next((name for name in names if (self.folder / name).is_dir()), None)

    def forget_training(self, epoch: int = 0) -> None:
        """Give the policy after an epoch the weights from before it, and leave it its records."""
        (self.folder / f"policy-{epoch + 1}").rename(self.folder / "tuned")
        with writing_folder(self.at(f"policy-{epoch + 1}"), producer={}) as folder:
            ignored = shutil.ignore_patterns("manifest.json", "updates")
            shutil.copytree(self.at(f"policy-{epoch}"), folder, dirs_exist_ok=True, ignore=ignored)
            copy_updates(self.folder / "tuned", folder)

    def update_record(self, epoch: int) -> EpochRecord:
        """What an epoch's training has recorded."""
        return read_update(self.folder / f"policy-{epoch + 1}", epoch)

    def steer(self, epoch: int) -> dict:
        """Steer after `judge`: what the epoch's training and `promote` wrote is then `trained-NAME-EPOCH`."""
        given = {"policy": f"policy-{epoch + 1}", "state": f"state-{epoch + 1}", "history": f"judged-{epoch}"}
        for name, source in given.items():
            shutil.rmtree(self.at(f"trained-{name}-{epoch}"), ignore_errors=True)
            (self.folder / source).rename(self.folder / f"trained-{name}-{epoch}")
        trained = Trained(policy=f"trained-policy-{epoch}", training_state=f"trained-state-{epoch}")
        call = steering(epoch, trained, f"trained-history-{epoch}")
        names = {"new_policy": "policy", "new_training_state": "state", "new_history": "history"}
        return replace(call, outputs={name: f"{folder}-{epoch + 1}" for name, folder in names.items()})(self.at)

    def summarize(self, history: str) -> dict:
        return summary(history)(self.at)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    DDPMPipeline(small_unet(kind=UNet2DModel), DDPMScheduler(beta_schedule="linear")).save_pretrained(folder)
    return folder


@pytest.fixture
def steps(tmp_path, storage_uri, tiny_model):
    """Makes a run in a folder of its own: steps("name", {"run": {"epochs": 2}})."""

    def make(name: str = "run", changes: dict | None = None) -> StepByStep:
        config = Config.from_mapping({**TINY, "model": {"source": str(tiny_model)}}).with_changes(changes or {})
        return StepByStep(tmp_path / name, storage_uri, config)

    return make
