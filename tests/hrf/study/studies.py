"""A study small enough to think through."""

import textwrap

from hrf.study.definition import Study

TEXT = """
description: two arms and a control
preset: avatars-smoke
budget: 1000
points: 2
seeds: [0, 7]
reference: ddpo
rewards:
  small: {name: jpeg_compressibility, quality: 90}
  blue: {name: classifier, label: planets}
arms:
  ddpo: {description: from noise, changes: {starts: {kind: noise, schedule: uniform, windows: []}}}
  hrf: {description: all windows, changes: {starts: {kind: window, schedule: uniform, windows: []}}}
  hrf-split: {description: its weights from half way, changes: {policy: {split: 0.5}}, weights_of: hrf}
matched: {reward_gains: {small: [0.05]}}
budgets:
  one: {arms: [hrf], rewards: [small], seeds: [7], budget: 500, points: 1, overrides: {update: {learning_rate: 1e-3}}}
"""


def study(text: str = TEXT, **replaced: str) -> Study:
    """The study, with lines of its text replaced: `budget="budget: 3"`."""
    lines = textwrap.dedent(text).splitlines()
    for field, line in replaced.items():
        lines = [line if old.startswith(f"{field}:") else old for old in lines]
    return Study.from_yaml("\n".join(lines))
