"""Study files: what they mean, and what is wrong with wrong ones."""

import pytest

from hrf.config import resolve
from hrf.errors import ConfigError
from hrf.study.definition import Study
from tests.hrf.study.studies import TEXT, study


def test_a_study_survives_its_own_yaml():
    asked = study()

    assert Study.from_yaml(asked.to_yaml()) == asked


def test_a_run_has_its_arms_changes_its_reward_its_seed_and_starts_from_the_base():
    config = study().config("ddpo", "blue", 7, epochs=5)

    assert config.starts.kind == "noise"
    assert (config.reward.name, config.reward.label) == ("classifier", "planets")
    assert (config.run.seed, config.run.epochs, config.run.epochs_per_step, config.run.start_from) == (7, 5, 1, "base")
    assert config.evaluation == resolve("avatars-smoke").evaluation.model_copy(update={"every": 1})


def test_overrides_hold_for_all_arms_and_an_arms_own_changes_lie_on_top():
    asked = study(TEXT + "overrides: {update: {learning_rate: 2e-4}, policy: {split: 0.25}}\n")

    assert asked.config("hrf", "small", 0).update.learning_rate == 2e-4
    assert asked.config("hrf", "small", 0).policy.split == 0.25
    assert asked.config("hrf-split", "small", 0).policy.split == 0.5


def test_a_smaller_form_keeps_what_it_does_not_name():
    small = study().reduced("one")

    assert (list(small.arms), list(small.rewards), small.seeds) == (["hrf"], ["small"], (7,))
    assert (small.budget, small.points) == (500, 1)
    assert small.config("hrf", "small", 7).update.learning_rate == 1e-3
    assert small.matched.reward_gains == {"small": (0.05,)}
    assert study().reduced("") == study()


def test_a_smaller_form_without_the_reference_is_compared_with_its_first_arm():
    assert study().reduced("one").reference == "hrf"


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ({"budget": "budget: 0"}, "budget"),
        ({"seeds": "seeds: [1, 1]"}, "seeds"),
        ({"seeds": "seeds: []"}, "seeds"),
        ({"reference": "reference: ddp"}, "reference"),
        ({"matched": "matched: {reward_gains: {large: [0.1]}}"}, "matched.reward_gains"),
        ({"preset": "presets: avatars-smoke"}, "presets"),
    ],
)
def test_a_wrong_line_is_named(line, field):
    with pytest.raises(ConfigError) as caught:
        study(**line)

    assert caught.value.field == field or field in str(caught.value)


@pytest.mark.parametrize(
    ("arm", "field"),
    [
        ("  Bad_Name: {description: x}", "Bad_Name"),
        ("  two--hyphens: {description: x}", "two--hyphens"),
        ("  control: {description: x, weights_of: hrf-split}", "arms.control.weights_of"),
        ("  control: {description: x, weights_of: nobody}", "arms.control.weights_of"),
        ("  front: {description: x, strengths: [0.5, 1]}", "arms.front.strengths"),
        ("  front: {description: x, weights_of: hrf, strengths: [1, 0.5]}", "arms.front.strengths"),
        ("  front: {description: x, weights_of: hrf, strengths: [0, 0.5]}", "arms.front.strengths"),
        ("  front: {description: x, weights_of: hrf, strengths: [1], changes: {policy: {split: 0.5}}}", "strengths"),
    ],
)
def test_a_wrong_arm_is_named(arm, field):
    with pytest.raises(ConfigError, match=field):
        study(TEXT.replace("arms:\n", f"arms:\n{arm}\n", 1))


def test_a_file_is_checked_arm_by_arm_before_anything_runs(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(TEXT.replace("policy: {split: 0.5}", "policy: {splitt: 0.5}"))

    with pytest.raises(ConfigError, match=r"arm hrf-split, reward small: policy\.splitt"):
        Study.read(path)
    with pytest.raises(ConfigError, match="STUDY"):
        Study.read(tmp_path / "none.yaml")


def test_an_unknown_smaller_form_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="expected one of one"):
        study().reduced("two")


def of_presets(*presets, **more):
    return Study.of_presets(presets, **{"budget": 9000, "num_seeds": 3, **more})


def test_presets_are_arms_as_they_ship_with_the_first_as_the_reference():
    """Kills: a field of one preset that stays in another; a seed too many; another reward than theirs."""
    alike = ["avatars-ddpo", "avatars-floor", "avatars-hrf", "avatars-hrf-d", "avatars-split"]
    made = of_presets(*alike)

    assert list(made.arms) == alike
    assert (made.reference, made.seeds, made.budget) == (alike[0], (1, 2, 3), 9000)
    for name in alike:
        shipped = resolve(
            name, "{run: {seed: 2, epochs: 5, epochs_per_step: 1, start_from: base}, evaluation: {every: 1}}"
        )
        config = made.config(name, "jpeg-compressibility", 2, epochs=5)
        assert config.model_copy(update={"description": shipped.description}) == shipped
        assert made.arms[name].description == shipped.description
    assert Study.from_yaml(made.to_yaml()) == made


def test_rewards_and_overrides_are_laid_over_all_presets():
    rewards = [{"name": "jpeg_incompressibility"}, {"name": "classifier", "label": "planets"}]
    made = of_presets("avatars-hrf", "avatars-ddpo", rewards=rewards, overrides={"update": {"learning_rate": 2e-4}})

    assert list(made.rewards) == ["jpeg-incompressibility", "classifier"]
    assert made.config("avatars-ddpo", "classifier", 1).reward.label == "planets"
    assert {made.config(arm, "classifier", 1).update.learning_rate for arm in made.arms} == {2e-4}


@pytest.mark.parametrize(
    ("presets", "more", "named"),
    [
        ((), {}, "--preset"),
        (("avatars-hrf", "avatars-hrf"), {}, "--preset"),
        (("avatars-hrf", "avatars-hr"), {}, "did you mean 'avatars-hrf'"),
        (("avatars-hrf", "avatars-incompressibility"), {}, "reward.name"),
        (("avatars-hrf", "avatars-smoke"), {}, "sampler.steps"),
        (("avatars-hrf", "celebahq-compressibility"), {}, "model.source"),
        (("avatars-hrf",), {"overrides": {"update": {"learning_rat": 1}}}, "update.learning_rate"),
        (("avatars-hrf",), {"rewards": [{"name": "brightnes"}]}, "brightnes"),
        (("avatars-hrf",), {"rewards": [{"name": "jpeg_compressibility"}] * 2}, "--reward"),
        (("avatars-hrf",), {"budget": 0}, "budget"),
    ],
)
def test_presets_that_make_no_study_are_refused(presets, more, named):
    with pytest.raises(ConfigError, match=named):
        of_presets(*presets, **more)
