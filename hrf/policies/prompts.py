"""A run's prompts: where they come from, and which of them only evaluation sees. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hrf.config import Prompts
from hrf.errors import ArtifactError, ConfigError
from hrf.storage.names import PROMPTS_FILE

_BYTE_ORDER_MARK = "\ufeff"

MIN_EVALUATION_PROMPTS = 4
"""Intervals over prompts are made of differences between prompts; three give next to no information."""

_ANIMALS = """
ant bat bear bee beetle bird butterfly camel cat chicken cow deer dog dolphin duck fish fly fox frog goat goose gorilla
hedgehog horse kangaroo lion lizard llama monkey mouse pig rabbit raccoon rat shark sheep snake spider squirrel tiger
turkey turtle whale wolf zebra
"""

ANIMALS = tuple(_ANIMALS.split())
"""The 45 common animals of DDPO's first tasks (arXiv 2305.13301, section 5.1 and appendix)."""


@dataclass(frozen=True, kw_only=True)
class PromptTable:
    """All prompts of a run. Everywhere else a prompt is its index in `texts`."""

    texts: tuple[str, ...]
    """The training prompts, and after them those of evaluation."""
    num_training: int

    @property
    def training(self) -> tuple[str, ...]:
        """What episodes are drawn for."""
        return self.texts[: self.num_training]

    @property
    def evaluation(self) -> tuple[str, ...]:
        """What candidates are measured on, and nothing is trained on."""
        return self.texts[self.num_training :]

    def of_evaluation(self, num_samples: int, *, field: str = "evaluation.num_samples") -> list[int]:
        """The prompt of each evaluation seed: all in turn, so that each has as many seeds.

        Args:
            num_samples: How many seeds there are.
            field: Of the configuration, which says so.

        Raises:
            ConfigError: If the number of seeds is no multiple of theirs, or leaves a prompt fewer than two.
        """
        count = len(self.evaluation)
        if num_samples % count or num_samples < 2 * count:
            raise ConfigError(
                field,
                expected=f"a multiple of the {count} evaluation prompts, and at least two pictures of each",
                got=num_samples,
                fix=f"set it to {count * max(2, round(num_samples / count))}, or hold out another number of prompts",
            )
        return [self.num_training + seed % count for seed in range(num_samples)]

    def texts_of(self, indices: Sequence[int]) -> list[str]:
        """The texts at some indices."""
        return [self.texts[index] for index in indices]

    def save(self, folder: Path) -> None:
        """Write the table into an existing folder."""
        record = {"training": self.training, "evaluation": self.evaluation}
        (folder / PROMPTS_FILE).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> PromptTable:
        """Read what `save` wrote.

        Raises:
            ArtifactError: If it is not there, or something else.
        """
        path = folder / PROMPTS_FILE
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            training, evaluation = tuple(record["training"]), tuple(record["evaluation"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                path, problem=f"no table of prompts: {error}", producer="prepare", fix="run `prepare` again"
            ) from error
        return cls(texts=training + evaluation, num_training=len(training))


def resolve_prompts(settings: Prompts, *, seed: int) -> PromptTable:
    """Make the table that a configuration asks for.

    Args:
        settings: The `prompts` section.
        seed: Chooses what is held out: `evaluation.seed`, so that runs with other training noise hold out the same.

    Raises:
        ConfigError: If a file is absent or empty, a prompt occurs twice, or too few are left for either use.
    """
    field = "prompts.texts" if settings.texts else "prompts.source"
    lines = settings.texts or (ANIMALS if settings.source == "animals" else _read_lines(settings.source, field))
    texts = _filled(lines, settings.template, field)
    if settings.evaluation_source:
        field = "prompts.evaluation_source"
        evaluation = _filled(_read_lines(settings.evaluation_source, field), settings.template, field)
        if shared := sorted({*texts} & {*evaluation}):
            raise ConfigError(
                field,
                expected="prompts that are not trained on",
                got=f"{len(shared)} that are, such as {shared[0]!r}",
                fix="remove them from either file",
            )
        training = texts
    else:
        field = "prompts.held_out_fraction"
        count = max(MIN_EVALUATION_PROMPTS, round(settings.held_out_fraction * len(texts)))
        # By each text's own hash: a prompt that is added to the list moves no other to the other side, mostly.
        held_out = set(sorted(texts, key=lambda text: hashlib.sha256(f"{seed}/{text}".encode()).digest())[:count])
        training = tuple(text for text in texts if text not in held_out)
        evaluation = tuple(text for text in texts if text in held_out)
    if len(evaluation) < MIN_EVALUATION_PROMPTS or not training:
        raise ConfigError(
            field,
            expected=f"at least {MIN_EVALUATION_PROMPTS} prompts for evaluation and one to train on",
            got=f"{len(evaluation)} and {len(training)}",
            fix="give more prompts",
        )
    return PromptTable(texts=training + evaluation, num_training=len(training))


def with_article(noun: str) -> str:
    """`ant` -> `an ant`, `bee` -> `a bee`: by the first letter, which is right for all animals of the list."""
    return f"{'an' if noun[:1].lower() in tuple('aeiou') else 'a'} {noun}"


def _read_lines(source: str, field: str) -> tuple[str, ...]:
    try:
        text = Path(source).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            field,
            expected="`animals`, or a text file with one prompt in a line",
            got=f"{source} ({error})",
            fix="correct the path; on a cluster, where there are no local files, write them in prompts.texts",
        ) from error
    # Windows editors begin a file with a byte order mark; files put together have it inside, too.
    lines = (line.lstrip(_BYTE_ORDER_MARK).strip() for line in text.splitlines())
    return tuple(line for line in lines if line)


def _filled(lines: Sequence[str], template: str, field: str) -> tuple[str, ...]:
    """Each line in its template; in the same order."""
    texts = tuple(template.replace("{a_prompt}", with_article(line)).replace("{prompt}", line) for line in lines)
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice or not texts:
        raise ConfigError(
            field,
            expected="at least one prompt, and each only once",
            got=f"{twice[0]!r} twice" if twice else "none",
            fix="remove the repetition" if twice else "write some",
        )
    return texts
