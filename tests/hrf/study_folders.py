"""Builds study folders as `hrf study` leaves them, with made-up curves and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from hrf.study.table import COLUMNS, frame_of, write_table
from tests.hrf.summary_folders import MODES, write_grid

BASE_REWARD, BASE_VENDI = -1.259, 3.78
REWARDS: Mapping[str, Mapping[str, Any]] = {
    "compressibility": {"name": "jpeg_compressibility"},
    "incompressibility": {"name": "jpeg_incompressibility"},
    "planets": {"name": "classifier", "label": "planets"},
}
ARMS: Mapping[str, tuple[float, float]] = {"ddpo": (0.25, 0.4), "hrf": (0.2, 0.3), "split-5": (0.18, 0.08)}
"""By name: gain and loss of diversity at the end of the budget."""


def many_arms(count: int) -> dict[str, tuple[float, float]]:
    """As many made-up arms, eight of them on a dial."""
    source = np.random.default_rng(4)
    dial = {f"window-{place}": (0.22 - 0.02 * place, 0.35 - 0.04 * place) for place in range(8)}
    others = {f"a-rather-long-name-{place}": tuple(source.uniform((-0.02, 0.02), (0.26, 0.5))) for place in range(99)}
    return dict([*ARMS.items(), *dial.items(), *others.items()][:count])


def definition(
    arms: Mapping[str, tuple[float, float]] = ARMS,
    *,
    rewards: Sequence[str] = ("compressibility",),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    points: int = 4,
    **more: Any,
) -> dict[str, Any]:
    """A study's definition as a mapping."""
    return {
        "description": "Does it avoid mode collapse?",
        "preset": "avatars-split",
        "reference": next(iter(arms)),
        "budget": 100_000,
        "points": points,
        "seeds": list(seeds),
        "rewards": {name: dict(REWARDS[name]) for name in rewards},
        "arms": {
            name: {
                "description": f"a made-up arm called {name}",
                "changes": {"update": {"learning_rate": 1e-4}, "policy": {"split": 0.5}},
                "dial": float(name.rpartition("-")[2]) if name.startswith("window-") else None,
            }
            for name in arms
        },
        **more,
    }


def rows(
    arms: Mapping[str, tuple[float, float]], rewards: Sequence[str], seeds: Sequence[int], points: int
) -> list[dict[str, Any]]:
    """Rows of a table: gain grows evenly, diversity falls with the square, both a little noisy."""
    found = []
    for reward in rewards:
        for seed in seeds:
            for number, (arm, (gain, loss)) in enumerate(arms.items()):
                source = np.random.default_rng([seed, number, len(reward)])
                speed = np.exp(0.12 * source.standard_normal())
                for point in range(points + 1):
                    spent = speed * point / points
                    noise = source.standard_normal(2) * (point > 0)
                    found.append(
                        row(
                            arm,
                            reward,
                            seed,
                            point,
                            evaluations=25_000 * point,
                            gain=gain * spent + 0.005 * noise[0],
                            ratio=1 - loss * spent**2 + 0.02 * noise[1],
                        )
                    )
    return found


def row(
    arm: str, reward: str, seed: int, point: int, *, evaluations: float, gain: float, ratio: float, **more: Any
) -> dict[str, Any]:
    """One row; what is not given is made up to go with it."""
    lost = min(1.0, max(0.0, 1 - ratio))
    modes = [round(30 * (1 - lost)) for _ in MODES]
    modes[1] += 180 - sum(modes)
    return {
        **dict.fromkeys(COLUMNS, 0),
        "arm": arm,
        "reward_name": reward,
        "seed": seed,
        "point": point,
        "epoch": 4 * point - 1,
        "evaluations": evaluations,
        "wall_seconds": evaluations / 40,
        "reward": BASE_REWARD + gain,
        "reward_vs_base": gain,
        "reward_vs_base_low": gain - 0.01,
        "reward_vs_base_high": gain + 0.01,
        "vendi_order2": BASE_VENDI * ratio,
        "vendi_order2_ratio": ratio,
        "vendi_order2_ratio_low": ratio - 0.03,
        "vendi_order2_ratio_high": ratio + 0.03,
        "coverage": min(1.0, 0.97 - 0.3 * lost),
        "mode_entropy": 1.6 - lost,
        "unrecognised_fraction": 0.06 + 0.2 * lost,
        "monitors_tripped": "dark_pixel_fraction+edge_density" if ratio < 0.75 else "",
        "promoted": int(point > 0 and ratio > 0.93),
        "config_digest": "0" * 12,
        **{f"mode_{mode}": count for mode, count in zip(MODES, modes, strict=True)},
        "mode_unrecognised": 12,
        **more,
    }


def write_study(folder: Path, study: Mapping[str, Any], table: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Write definition and table; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(dict(study), sort_keys=False), encoding="utf-8")
    frame = frame_of(table)
    write_table(frame, folder)
    return frame


def write_pictures(folder: Path, table: pd.DataFrame, **grid: Any) -> None:
    """A grid for the base and for every run of the table."""
    write_grid(folder / "pictures" / "base.png", seed=0, **grid)
    for number, run in enumerate(table[["arm", "reward_name", "seed"]].drop_duplicates().itertuples(index=False)):
        write_grid(folder / "pictures" / f"{run.arm}--{run.reward_name}--{run.seed}.png", seed=number, **grid)
