"""Measure a candidate for its verdict, on seeds that nobody has seen, beside its incumbent and the base.

What the base gives on a block of seeds is kept in the bucket, for all runs and experiments that measure alike:

    .base/DIGEST/000001.json        `BaseBlock`: which folder holds it; created once, and so the same for all
    .base/DIGEST/000001/CONTENTS/   its measurements, and the states at the switch step of a split policy
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import torch

from hrf.core.diversity import vendi_order2_ratio_p_value
from hrf.distributed.progress import advance_reporter
from hrf.errors import ArtifactError
from hrf.evaluation.measure import evaluation_record
from hrf.evaluation.measured import Measured
from hrf.evaluation.record import EvaluationRecord
from hrf.evaluation.samples import EvaluationStarts, evaluation_starts, measure_policy
from hrf.planning.cost import verdict_evaluations
from hrf.policies.architecture import Architecture
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import evaluated_from, load_policy
from hrf.promotion.pointer import fetch_incumbent, read_candidate_json
from hrf.promotion.protocol import FreshMeasurement
from hrf.promotion.records import Promotion, VerdictNumber
from hrf.steps.context import RunContext
from hrf.storage.folders import canonical_json, read_manifest, writing_folder
from hrf.storage.names import POLICY_FILE
from hrf.storage.objects import Storage
from hrf.storage.records import Record, read_record, settle_record

_SAMPLED_ALIKE = ("sampler", "guidance_scale", "embedded_guidance", "picture_size", "lora")


class BaseBlock(Record):
    """Where the base's measurements on one verdict's seeds are."""

    IF_DAMAGED: ClassVar[str] = "delete it: the base is then measured again"

    folder: str
    content_digest: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerdictBench:
    """What a run's candidates are measured with on fresh seeds."""

    context: RunContext
    storage: Storage
    base: Path
    """The base model's folder."""
    candidate: Path
    """The policy folder that is stored, and would be promoted."""
    record: EvaluationRecord
    """Of the candidate's selection."""

    def comparable(self, incumbent: Promotion) -> bool:
        """Whether an incumbent samples as this run's candidates do, from the same base."""
        ours, theirs = self.context.about["policy"], read_candidate_json(self.storage, incumbent, POLICY_FILE)
        alike = all(ours.get(field) == theirs.get(field) for field in _SAMPLED_ALIKE)
        return alike and ours["base"]["digest"] == theirs["base"]["digest"]

    def measure(self, number: VerdictNumber, incumbent: Promotion | None) -> FreshMeasurement:
        """Measure the candidate on the seeds of a verdict, at its level.

        Args:
            number: Of the verdict.
            incumbent: Whom it is judged against; None: the base.
        """
        config, epoch = self.context.config, self.record.epoch

        def measured(policy: DiffusionPolicy, starts: EvaluationStarts) -> Measured:
            return measure_policy(
                policy,
                starts,
                config,
                classifier_folder=self.context.classifier,
                prompts=self.context.prompts,
                on_advance=report,
            )[0]

        with tempfile.TemporaryDirectory() as scratch:
            block = self._kept(number.number, Path(scratch) / "kept")
            first = evaluated_from(Architecture.of(self.base), config)
            total = verdict_evaluations(config, first, base=block is None, incumbent=incumbent is not None)
            report = advance_reporter("promote", epoch, total)
            if block is None:
                untrained = load_policy(config, self.base, self.base, prompts=self.context.prompts_folder)
                starts = evaluation_starts(untrained, config, report, self.context.prompts, block=number.number)
                block = self._keep(number.number, measured(untrained, starts), starts, Path(scratch))
            base, starts = Measured.load(block), EvaluationStarts.load(block)
            rewards = base.rewards
            if incumbent is not None:
                policy = self._stored(fetch_incumbent(self.storage, incumbent, Path(scratch) / "incumbent"))
                own = starts
                if policy.as_evaluated().switch_step < starts.step:
                    own = evaluation_starts(policy, config, report, self.context.prompts, block=number.number)
                rewards = measured(policy, own).rewards
            # As it is stored: its strength is in its weights.
            candidate = measured(self._stored(self.candidate), starts)
        record = evaluation_record(
            candidate,
            base,
            settings=config.evaluation.model_copy(
                update={"num_samples": config.verdict_samples, "confidence": 1.0 - 2.0 * number.level}
            ),
            limits=config.gate.monitors,
            epoch=epoch,
            num_evaluations=self.record.num_evaluations,
        )
        p_value = vendi_order2_ratio_p_value(
            torch.from_numpy(candidate.features),
            torch.from_numpy(base.features),
            config.gate_floor,
            None if record.prompts is None else torch.tensor(record.prompts),
        )
        return FreshMeasurement(evaluation=record, incumbent_rewards=rewards.tolist(), diversity_p_value=p_value)

    def _stored(self, weights: Path) -> DiffusionPolicy:
        """A policy as it was promoted, or would be: at the switch step that its own folder says."""
        config, prompts = self.context.config, self.context.prompts_folder
        switch_step = int(json.loads((weights / POLICY_FILE).read_text(encoding="utf-8"))["switch_step"])
        policy = load_policy(config, self.base, weights, prompts=prompts, reference=switch_step > 0)
        return dataclasses.replace(policy, switch_step=switch_step)

    def _key(self, number: int) -> str:
        """Below this, what was measured alike: by the same code, the same settings, on as many seeds."""
        about, config = self.context.about, self.context.config
        alike: dict[str, Any] = {
            "evaluation": about["evaluation_digest"],
            "num_samples": config.verdict_samples,
            "versions": about["versions"],
        }
        return f".base/{hashlib.sha256(canonical_json(alike)).hexdigest()[:16]}/{number:06d}"

    def _kept(self, number: int, target: Path) -> Path | None:
        """What the bucket has of the base on the seeds of a verdict, if it has it."""
        found = read_record(self.storage, f"{self._key(number)}.json", BaseBlock)
        return None if found is None else self._fetch(found, target)

    def _fetch(self, block: BaseBlock, target: Path) -> Path:
        folder = self.storage.download_folder(block.folder, target)
        manifest = read_manifest(folder)
        if manifest.content_digest() != block.content_digest:
            raise ArtifactError(
                self.storage.url(block.folder),
                problem="not what its record names",
                producer=manifest.describe_producer(),
                fix=BaseBlock.IF_DAMAGED,
            )
        return folder

    def _keep(self, number: int, base: Measured, starts: EvaluationStarts, scratch: Path) -> Path:
        """Store the base's measurements; returns those that hold, which are another's if it was faster."""
        key = self._key(number)
        with writing_folder(scratch / "measured", producer=self.context.producer("promote")) as folder:
            base.save(folder)
            starts.save(folder)
        contents = read_manifest(scratch / "measured").content_digest()
        # By their contents: two machines that round otherwise don't mix their files.
        block = BaseBlock(folder=f"{key}/{contents[:16]}", content_digest=contents)
        self.storage.upload_folder(scratch / "measured", block.folder)
        settled = settle_record(self.storage, f"{key}.json", block)
        if settled != block:
            shutil.rmtree(scratch / "measured")
            self._fetch(settled, scratch / "measured")
        return scratch / "measured"
