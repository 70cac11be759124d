"""Builds summary folders as `summarize` writes them, with made-up numbers and pictures."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

from PIL import Image

from hrf.promotion.records import RunSummary

MODES = ("planets", "landscape", "sprouts", "critters", "marbles", "pixel-art")


def write_grid(
    path: Path, *, seed: int, tile: int = 32, columns: int = 6, rows: int = 4, is_noise: bool = False
) -> None:
    """Write a grid of flat discs on coloured grounds, or of noise, which no encoder can make small."""
    source = random.Random(seed)
    size = (tile * columns, tile * rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_noise:
        Image.frombytes("RGB", size, source.randbytes(3 * size[0] * size[1])).save(path)
        return
    grid = Image.new("RGB", size)
    for cell in range(columns * rows):
        ground, disc = (tuple(source.randrange(40, 240) for _ in range(3)) for _ in range(2))
        sample = Image.new("RGB", (tile, tile), ground)
        radius = source.uniform(0.2, 0.45) * tile
        for x in range(tile):
            for y in range(tile):
                if (x - tile / 2) ** 2 + (y - tile / 2) ** 2 < radius**2:
                    sample.putpixel((x, y), disc)
        grid.paste(sample, (tile * (cell % columns), tile * (cell // columns)))
    grid.save(path)


def ends(value: float, half_width: float) -> dict[str, float]:
    """An interval."""
    return {"value": value, "low": value - half_width, "high": value + half_width}


def around(value: float, half_width: float) -> dict[str, float]:
    """An estimate with its standard error."""
    return {**ends(value, half_width), "standard_error": half_width / 1.96}


def evaluation(epoch: int, *, gain: float, ratio: float, spent: int) -> dict[str, Any]:
    """An evaluation record as `evaluate` writes it."""
    source = random.Random(epoch + 7)
    collapse = 1 - ratio
    weights = [1 / 6 + (0.6 * collapse if mode == "landscape" else -0.12 * collapse) for mode in MODES]
    counts = [round(186 * weight) for weight in weights]
    dark = 0.02 * gain

    def monitor(base: float, change: float, limit: float | None) -> dict[str, Any]:
        tripped = limit is not None and abs(change) > limit
        return {"value": base + change, "base": base, "change": change, "limit": limit, "tripped": tripped}

    return {
        "epoch": epoch,
        "num_samples": 192,
        "eta": 1.0,
        "evaluation_seed": 0,
        "num_evaluations": spent,
        "reward": {"name": "jpeg_compressibility", **around(-1.277 + gain, 0.024)},
        "reward_vs_base": around(gain, 0.012 if gain else 0.0),
        "held_out_reward": {"name": "classifier", **around(0.93 - 0.05 * gain, 0.02)},
        "held_out_reward_vs_base": around(-0.05 * gain, 0.011 if gain else 0.0),
        "diversity": {
            "vendi_order2": ends(3.78 * ratio, 0.2),
            "vendi_order2_ratio": ends(ratio, 0.035 if gain else 0.0),
            "vendi_order1": 5.4 * ratio,
            "mean_pairwise_distance": 0.72 * ratio,
            "features": "classifier",
        },
        "fidelity": {
            "coverage": 0.97 - 0.3 * collapse,
            "density": 1.01,
            "classifier_frechet_distance": 3.4 * collapse,
            "classifier_inception_score": {"mean": 4.9 * ratio, "std": 0.2},
        },
        "modes": {**dict(zip(MODES, counts, strict=True)), "unrecognised": 192 - sum(counts)},
        "mode_entropy": 1.60 * ratio,
        "mean_confidence": 0.981,
        "monitors": {
            "dark_pixel_fraction": monitor(0.061, dark, 0.05),
            "edge_density": monitor(0.184, -0.1 * gain, 0.06),
            "colour_entropy": monitor(4.31, -0.4 * gain, 0.5),
            "mean_hue": {**monitor(7.0, -8.5 * gain, None), "value": (7.0 - 8.5 * gain) % 360},
            "photographic_variance": monitor(0.21, -0.03 * gain, None),
            "unrecognised_fraction": monitor(0.031, 0.01, 0.05),
        },
        "rewards": [source.gauss(-1.277 + gain, 0.1) for _ in range(192)],
    }


def update(epoch: int, *, spent: int, window: tuple[int, int] | None = (10, 19)) -> dict[str, Any]:
    """An update record as `update` writes it."""
    source = random.Random(epoch)
    return {
        "epoch": epoch,
        "window": window,
        "mean_start_step": 14.2,
        "num_evaluations": spent,
        "reward_mean": -1.25 + 0.02 * epoch,
        "reward_std": 0.14,
        "seconds": {"sample": 14.8, "score": 0.4, "update": 19.5},
        "updates": [
            {
                "update": index,
                "loss": source.gauss(0, 2e-5),
                "learning_rate": 1e-4,
                "grad_norm": source.uniform(0.04, 0.09),
                "clip_fraction": source.uniform(0.1, 0.3),
                "approx_kl": source.uniform(1e-9, 4e-9),
                "ratio_mean": 1.00001,
                "ratio_max": 1.0004,
                "kl_to_reference": 0.0,
            }
            for index in range(8)
        ],
        "grad_norm_by_step": {
            str(step): 0.02 + 0.004 * (step - 10) + source.uniform(0, 0.006) for step in range(10, 18)
        },
    }


def decision(epoch: int, outcome: str, *, gain: float, ratio: float, previous: str | None) -> dict[str, Any]:
    """A decision record as `promote` writes it."""
    is_kept = ratio - 0.035 > 0.9
    return {
        **candidate(epoch),
        "outcome": outcome,
        "incumbent_id": previous,
        "reward_vs_incumbent": around(gain, 0.0123),
        "confidence": 0.95,
        "diversity_ratio": ends(ratio, 0.035),
        "diversity_floor": 0.9,
        "monitors_tripped": [],
        "checks": [
            {"name": "reward", "passed": True, "detail": f"lower bound {gain - 0.0123:.4f} is above 0"},
            {
                "name": "diversity",
                "passed": is_kept,
                "detail": f"lower bound {ratio - 0.035:.3f} against the floor 0.900",
            },
            {"name": "monitors", "passed": True, "detail": "none past its limit"},
        ],
        "reasons": [] if is_kept else [f"diversity: the lower bound {ratio - 0.035:.3f} is not above the floor 0.900"],
        "attempts": 1,
        "sequence": epoch + 1 if outcome == "promoted" else None,
    }


def candidate(epoch: int) -> dict[str, Any]:
    """What a decision and a promotion say of their candidate."""
    return {
        "candidate_id": f"run-7/epoch-{epoch:04d}",
        "run_id": "run-7",
        "epoch": epoch,
        "candidate_key": f"avatars/candidates/run-7/epoch-{epoch:04d}",
        "candidate_digest": f"{epoch:02x}" * 32,
        "evaluation_digest": "cd" * 32,
        "time": f"2026-03-0{epoch + 1}T10:20:30+00:00",
    }


CONFIG: dict[str, Any] = {
    "description": "HRF on the shipped avatars, split at half",
    "model": {"source": "shipped:avatars-32", "batch_size": 64},
    "sampler": {"steps": 20, "spacing": "leading", "eta": 1.0, "min_std": 0.05},
    "policy": {"split": 0.5, "prefix_pool": 0},
    "starts": {"kind": "window", "schedule": "fixed"},
    "rollout": {"roots": 8, "branches": 8},
    "reward": {"name": "jpeg_compressibility", "quality": 95},
    "update": {"learning_rate": 1e-4, "clip_range": 1e-4},
    "evaluation": {"num_samples": 192, "confidence": 0.95},
    "gate": {"diversity_margin": 0.1},
    "run": {"epochs": 5},
}


def summary_record(
    *, gains: tuple[float, ...] = (0.04, 0.09, 0.15, 0.21, 0.30), method: str = "window"
) -> dict[str, Any]:
    """A run whose third epoch was not evaluated, whose first two were promoted and whose last two lost too much."""
    epochs = []
    for epoch, gain in enumerate(gains):
        ratio, spent = 1.0 - 0.6 * gain, 12_352 * (epoch + 1)
        measured = None if epoch == 2 else evaluation(epoch, gain=gain, ratio=ratio, spent=spent)
        outcome = "promoted" if ratio - 0.035 > 0.9 else "rejected"
        decided = decision(epoch, outcome, gain=gain, ratio=ratio, previous="run-6/epoch-0004" if epoch else None)
        epochs.append(
            {
                "epoch": epoch,
                "update": update(epoch, spent=spent, window=None if method == "noise" else (10, 19)),
                "evaluation": measured,
                "decision": None if measured is None else decided,
                "steering": None,
            }
        )
    record = {
        "run": {
            "run_id": "avatars-20260301-7",
            "experiment": "avatars",
            "storage": "s3://hrf/runs",
            "run_seed": 0,
            "started_from": None,
            "num_epochs": len(gains),
            "preset": "avatars-compressibility",
        },
        "config": {**copy.deepcopy(CONFIG), "starts": {"kind": method, "schedule": "fixed"}},
        "base": evaluation(-1, gain=0.0, ratio=1.0, spent=0),
        "epochs": epochs,
        "promoted": {
            **candidate(1),
            "sequence": 2,
            "previous": "run-7/epoch-0000",
            "decision": decision(1, "promoted", gain=0.09, ratio=0.946, previous="run-7/epoch-0000"),
        },
        "versions": {"hrf": "0.1.0", "torch": "2.13.0", "pillow": "13.0.0"},
        "totals": {"seconds": 174.5, "num_evaluations": 61_760},
    }
    # As the step writes it: with every field, also those that say only that there is nothing to say.
    return RunSummary.parse(record, "the summary of a test").as_json()


def write_summary(folder: Path, record: dict[str, Any], *, has_grids: bool = True, **grid: Any) -> Path:
    """Write a summary folder with its pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(record), encoding="utf-8")
    if has_grids:
        write_grid(folder / "base_grid.png", seed=1, **grid)
        for entry in record["epochs"]:
            if entry["evaluation"] is not None:
                write_grid(folder / f"epochs/{entry['epoch']:04d}/grid.png", seed=entry["epoch"] + 2, **grid)
    return folder


def stripped(record: dict[str, Any]) -> dict[str, Any]:
    """The record with everything null that may be."""
    for measured in (record["base"], *(entry["evaluation"] for entry in record["epochs"])):
        if measured is None:
            continue
        for key in ("held_out_reward", "held_out_reward_vs_base", "modes", "mode_entropy", "mean_confidence"):
            measured[key] = None
        measured["fidelity"]["classifier_inception_score"] = None
        measured["diversity"]["features"] = "pixels"
        del measured["monitors"]["unrecognised_fraction"]
    for entry in record["epochs"]:
        entry["update"] = {**entry["update"], "window": None, "updates": [], "grad_norm_by_step": {}, "seconds": {}}
        entry["decision"] = None
    record["promoted"] = None
    return record
