"""Which steps run pretrained scorers, and which of them may have to download."""

import pytest

from hrf.config import resolve
from hrf_pipelines.scorers import Scorer, hub_steps, scorers_of

HUB = f"{{source: 'hf:a/b', revision: {'0' * 40}}}"
LOCAL = f"{{source: ./model, sha256: {'0' * 64}}}"


def config(overrides, preset="avatars-split"):
    return resolve(preset, overrides)


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ("{}", set()),
        (f"reward: {{name: pickscore, model: {HUB}}}", {"prepare", "baseline", "score", "evaluate"}),
        (f"reward: {{name: pickscore, model: {LOCAL}}}", set()),
        (
            f"reward: {{name: pickscore, model: {LOCAL}, processor: {HUB}}}",
            {"prepare", "baseline", "score", "evaluate"},
        ),
        (f"evaluation: {{features: clip, encoder: {{model: {HUB}}}}}", {"prepare", "baseline", "evaluate"}),
        (
            f"evaluation: {{features: clip, encoder: {{model: {HUB}}}}}\nupdate: {{sibling_distance_weight: 1}}",
            {"prepare", "baseline", "score", "evaluate"},
        ),
        (f"evaluation: {{held_out_reward: {{name: clip_score, clip: {HUB}}}}}", {"prepare", "baseline", "evaluate"}),
        (f"shaping: {{reward: {{name: clip_score, clip: {HUB}}}}}", {"prepare", "score"}),
        (
            f"shaping: {{reward: {{name: clip_score, clip: {HUB}}}}}\n"
            "run: {epochs: 2, epochs_per_step: 2}\nevaluation: {every: 2}",
            {"prepare", "train"},
        ),
        (
            f"reward: {{name: weighted_sum, terms: [{{}}, {{reward: {{name: clip_score, clip: {HUB}}}}}]}}\n"
            "run: {epochs: 2, epochs_per_step: 2}\nevaluation: {every: 2}",
            {"prepare", "baseline", "train", "evaluate"},
        ),
    ],
)
def test_steps_that_score_with_networks_of_the_hub_reach_it_as_fetch_does(overrides, steps):
    assert hub_steps(config(overrides)) == {"fetch", *steps}


def test_starts_selected_by_reward_are_scored_where_they_are_sampled():
    (scorer,) = scorers_of(config(f"reward: {{name: pickscore, device: cuda, model: {LOCAL}}}", "avatars-hrf-d"))
    steps = ("baseline", "evaluate", "score", "sample")
    assert scorer == Scorer(path="reward", device="cuda", on_hub=False, steps=steps)


def test_a_term_of_a_sum_is_named_by_its_place():
    onnx = f"{{name: onnx_classifier, model: {{source: a.onnx, sha256: {'0' * 64}}}, classes: [0, 1]}}"
    (scorer,) = scorers_of(config(f"reward: {{name: weighted_sum, terms: [{{}}, {{reward: {onnx}}}]}}"))
    assert (scorer.path, scorer.device) == ("reward.terms[1].reward", "cpu")


def test_a_corrected_score_has_two_sets_of_weights_and_its_network_a_device():
    """Kills: the network that is corrected left out, which would be scored without its GPU and its way to the hub."""
    wrapped = f"{{name: pickscore, device: cuda, model: {HUB}}}"
    guided = f"reward: {{name: guided_text, direction: {LOCAL}, reward: {wrapped}}}"
    direction, network = scorers_of(config(guided))
    assert (direction.path, direction.on_hub) == ("reward", False)
    assert (network.path, network.device, network.on_hub) == ("reward.reward", "cuda", True)
