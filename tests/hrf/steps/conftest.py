"""A run of a few seconds on a model of a few thousand parameters, driven step by step."""

import shutil
from pathlib import Path

import pytest
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from hrf.config import Config
from hrf.steps.baseline import baseline
from hrf.steps.check import PRESETS_SEED, check
from hrf.steps.evaluate import evaluate
from hrf.steps.fetch import fetch
from hrf.steps.gather import gather
from hrf.steps.history import copy_updates, read_update
from hrf.steps.prepare import prepare
from hrf.steps.promote import promote
from hrf.steps.sample import sample
from hrf.steps.score import score
from hrf.steps.steer import steer
from hrf.steps.summarize import summarize
from hrf.steps.train import train
from hrf.steps.update import update
from hrf.storage.folders import writing_folder
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
    """Runs the steps in a folder, one folder an output, named after the output and the epoch."""

    def __init__(self, folder: Path, storage: str, config: Config) -> None:
        self.folder, self.storage, self.config = folder, storage, config

    def at(self, name: str) -> str:
        return str(self.folder / name)

    def configured(self) -> dict:
        return {"preset": "", "overrides": self.config.to_yaml(), "learning_rate": 0.0, "seed": PRESETS_SEED}

    def check(self, run_id: str = "run", experiment: str = "tiny") -> dict:
        return check(
            **self.configured(),
            num_epochs=self.config.run.epochs,
            epochs_per_step=self.config.run.epochs_per_step,
            evaluate_every=self.config.evaluation.every,
            steered=self.config.diversity_floor is not None,
            experiment=experiment,
            run_id=run_id,
            start_from="",
            noise_tag="",
            storage=self.storage,
        )

    def prepare(self, run_id: str = "run", experiment: str = "tiny") -> None:
        """All that comes before the first epoch."""
        asked = self.check(run_id, experiment)
        model = {name: asked[name] for name in ("source", "revision", "version")}
        fetch(**model, base=self.at("base"))
        prepare(
            **self.configured(),
            experiment=experiment,
            run_id=run_id,
            storage=self.storage,
            base=self.at("base"),
            run=self.at("run"),
            policy=self.at("policy-0"),
            training_state=self.at("state-0"),
        )
        baseline(run=self.at("run"), base=self.at("base"), policy=self.at("policy-0"), baseline=self.at("baseline"))

    def sample(self, epoch: int, shard: int = 0, num_shards: int = 1, suffix: str = "") -> None:
        sample(
            run=self.at("run"),
            base=self.at("base"),
            policy=self.at(f"policy-{epoch}"),
            baseline=self.at("baseline"),
            epoch=epoch,
            shard=shard,
            num_shards=num_shards,
            trajectories=self.at(f"trajectories-{epoch}{suffix}"),
            samples=self.at(f"samples-{epoch}{suffix}"),
        )

    def sample_in_shards(self, epoch: int, num_shards: int, suffix: str) -> None:
        """Sample the shards in the wrong order, and gather them."""
        shards = [f"{suffix}-{shard}" for shard in reversed(range(num_shards))]
        for shard in range(num_shards):
            self.sample(epoch, shard, num_shards, f"{suffix}-{shard}")
        gather(
            run=self.at("run"),
            epoch=epoch,
            trajectory_shards=[self.at(f"trajectories-{epoch}{shard}") for shard in shards],
            sample_shards=[self.at(f"samples-{epoch}{shard}") for shard in shards],
            trajectories=self.at(f"trajectories-{epoch}{suffix}"),
            samples=self.at(f"samples-{epoch}{suffix}"),
        )

    def epoch(self, epoch: int) -> None:
        self.sample(epoch)
        score(run=self.at("run"), samples=self.at(f"samples-{epoch}"), epoch=epoch, scores=self.at(f"scores-{epoch}"))
        update(
            run=self.at("run"),
            base=self.at("base"),
            policy=self.at(f"policy-{epoch}"),
            training_state=self.at(f"state-{epoch}"),
            trajectories=self.at(f"trajectories-{epoch}"),
            scores=self.at(f"scores-{epoch}"),
            epoch=epoch,
            new_policy=self.at(f"policy-{epoch + 1}"),
            new_training_state=self.at(f"state-{epoch + 1}"),
        )

    def train(self, epoch: int, num_epochs: int) -> None:
        train(
            run=self.at("run"),
            base=self.at("base"),
            policy=self.at(f"policy-{epoch}"),
            training_state=self.at(f"state-{epoch}"),
            baseline=self.at("baseline"),
            epoch=epoch,
            num_epochs=num_epochs,
            new_policy=self.at(f"policy-{epoch + num_epochs}"),
            new_training_state=self.at(f"state-{epoch + num_epochs}"),
        )

    def judge(self, epoch: int) -> dict:
        """Evaluate and promote the policy after an epoch; its history is then `judged-EPOCH`."""
        self.evaluate(epoch)
        return self.promote(epoch)

    def evaluate(self, epoch: int) -> dict:
        return evaluate(
            run=self.at("run"),
            base=self.at("base"),
            policy=self.at(f"policy-{epoch + 1}"),
            baseline=self.at("baseline"),
            epoch=epoch,
            evaluation=self.at(f"evaluation-{epoch}"),
        )

    def promote(self, epoch: int) -> dict:
        return promote(
            run=self.at("run"),
            policy=self.at(f"policy-{epoch + 1}"),
            baseline=self.at("baseline"),
            evaluation=self.at(f"evaluation-{epoch}"),
            history=self.history_before(epoch),
            epoch=epoch,
            new_history=self.at(f"judged-{epoch}"),
        )

    def history_before(self, epoch: int) -> str | None:
        """What the last evaluation before an epoch's left, or `steer` after it; None if there was none."""
        names = [name for past in reversed(range(epoch)) for name in (f"history-{past + 1}", f"judged-{past}")]
        return next((self.at(name) for name in names if (self.folder / name).is_dir()), None)

    def forget_training(self, epoch: int = 0) -> None:
        """Give the policy after an epoch the weights from before it, and leave it its records."""
        (self.folder / f"policy-{epoch + 1}").rename(self.folder / "tuned")
        with writing_folder(self.at(f"policy-{epoch + 1}"), producer={}) as folder:
            ignored = shutil.ignore_patterns("manifest.json", "updates")
            shutil.copytree(self.at(f"policy-{epoch}"), folder, dirs_exist_ok=True, ignore=ignored)
            copy_updates(self.folder / "tuned", folder)

    def update_record(self, epoch: int) -> dict:
        """What an epoch's training has recorded."""
        return read_update(self.folder / f"policy-{epoch + 1}", epoch)

    def steer(self, epoch: int) -> dict:
        """Steer after `judge`: what the epoch's training and `promote` wrote is then `trained-NAME-EPOCH`."""
        given = {"policy": f"policy-{epoch + 1}", "state": f"state-{epoch + 1}", "history": f"judged-{epoch}"}
        for name, source in given.items():
            shutil.rmtree(self.at(f"trained-{name}-{epoch}"), ignore_errors=True)
            (self.folder / source).rename(self.folder / f"trained-{name}-{epoch}")
        return steer(
            run=self.at("run"),
            base=self.at("base"),
            policy=self.at(f"trained-policy-{epoch}"),
            training_state=self.at(f"trained-state-{epoch}"),
            baseline=self.at("baseline"),
            history=self.at(f"trained-history-{epoch}"),
            epoch=epoch,
            new_policy=self.at(f"policy-{epoch + 1}"),
            new_training_state=self.at(f"state-{epoch + 1}"),
            new_history=self.at(f"history-{epoch + 1}"),
        )

    def summarize(self, history: str) -> dict:
        return summarize(
            run=self.at("run"),
            baseline=self.at("baseline"),
            history=self.at(history),
            report=self.at("report.html"),
            summary=self.at("summary"),
        )


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
