"""Training computes what it computed when the golden trace was written (see `tests.golden.trace`).

On a machine that rounds as that one did, to the bit; on others, within what rounding does to it: 1e-4 of a number as a
rule, measured with other instruction sets. The rule has exceptions: rounding also decides on which side of a clip a
ratio or a pixel lies, and a pixel that changes sides moved later gradients by 2%.

Kills, by the tolerance alone: gradient clipping off, no shuffling, the first minibatch used again and again,
`step_weighting` ignored, weight decay 0.
"""

import json

import pytest

from tests.golden.trace import CASES, NUM_EPOCHS, config_of, machine, path_of, trace

#: Field -> (relative, absolute). Losses and rewards are of order 1, gradient norms of order 0.5.
TOLERANCES = {
    "rewards": (0.05, 0.01),
    "loss": (0.05, 0.01),
    "learning_rate": (1e-9, 0.0),
    "grad_norm": (0.05, 0.005),
    "grad_norm_by_step": (0.05, 0.005),
    # One of the 8 to 16 pairs of an update.
    "clip_fraction": (0.0, 0.13),
    "dropped_fraction": (0.0, 0.13),
    # Of means of order 1 in float32, squared.
    "divergence": (0.05, 1e-10),
    # Differences of log-probs of order 1 in float32.
    "approx_kl": (0.05, 2e-7),
    "ratio_mean": (1e-4, 0.0),
    "ratio_max": (1e-4, 0.0),
    "kl_to_reference": (0.05, 1e-8),
    # The decay of an epoch is 4e-4 of the weights' norm.
    "norm": (1e-6, 0.0),
    "moved": (1e-3, 0.0),
    "average_moved": (1e-3, 0.0),
}


@pytest.fixture(scope="module", params=CASES)
def recorded_and_computed(request):
    return json.loads(path_of(request.param).read_text(encoding="utf-8")), trace(request.param)


def numbers(entry, field=""):
    """(field, number) of all numbers that rounding may move, and (field, value) of whatever else, in order."""
    if isinstance(entry, dict):
        for name, value in entry.items():
            yield from numbers(value, field or name if field == "grad_norm_by_step" else name)
    elif isinstance(entry, list):
        for value in entry:
            yield from numbers(value, field)
    else:
        yield field, entry


def test_training_computes_what_it_did(recorded_and_computed):
    recorded, computed = recorded_and_computed

    for epoch, (before, now) in enumerate(zip(recorded["epochs"], computed, strict=True)):
        for (field, expected), (same_field, found) in zip(numbers(before), numbers(now), strict=True):
            assert field == same_field
            if field in TOLERANCES and expected is not None:
                relative, absolute = TOLERANCES[field]
                assert found == pytest.approx(expected, rel=relative, abs=absolute), (epoch, field)
            elif "sha256" not in field:
                assert found == expected, (epoch, field)


def test_training_computes_the_same_bits_on_the_same_machine(recorded_and_computed):
    recorded, computed = recorded_and_computed
    if recorded["machine"] != machine():
        pytest.skip("the golden trace was written on a machine that may round otherwise")

    assert json.loads(json.dumps(computed)) == recorded["epochs"]


def test_the_traces_have_in_use_what_they_watch_over():
    for case in CASES:
        settings = config_of(case).update
        epochs = json.loads(path_of(case).read_text(encoding="utf-8"))["epochs"]
        updates = [update for epoch in epochs for update in epoch["updates"]]
        branches = len(epochs[0]["rewards"])
        assert len(epochs) == NUM_EPOCHS
        assert settings.minibatch < branches
        assert settings.weight_decay > 0
        assert sum(update["grad_norm"] > settings.max_grad_norm for update in updates) > len(updates) / 2
        if settings.objective == "surrogate":
            held = "clip_fraction" if settings.trust_region == "ratio" else "dropped_fraction"
            assert 0 < sum(update[held] for update in updates) < len(updates)
        else:
            assert settings.proximal_weight > 0 or settings.reference_weight > 0
    assert {config_of(case).update.objective for case in CASES} == {"surrogate", "difference"}
    assert {config_of(case).update.step_weighting for case in CASES} == {"none", "std"}
    assert {config_of(case).starts.kind for case in CASES} == {"noise", "window", "selected"}
