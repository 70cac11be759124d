"""The families of rewards, a line each. Sums of them are in `hrf.rewards.weighted_sum`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hrf.rewards.aesthetic import AestheticReward
from hrf.rewards.classifier import ClassifierReward
from hrf.rewards.clip_score import ClipScoreReward
from hrf.rewards.family import RewardFamily, union_of
from hrf.rewards.guided_text import GuidedTextReward
from hrf.rewards.image_classifier import ImageClassifierReward
from hrf.rewards.jpeg import JpegReward
from hrf.rewards.onnx_classifier import OnnxClassifierReward
from hrf.rewards.pickscore import PickScoreReward
from hrf.rewards.python import PythonReward
from hrf.rewards.remote import RemoteReward

SINGLE_FAMILIES: tuple[type[RewardFamily], ...] = (
    JpegReward,
    ClassifierReward,
    PythonReward,
    AestheticReward,
    ClipScoreReward,
    PickScoreReward,
    GuidedTextReward,
    ImageClassifierReward,
    OnnxClassifierReward,
    RemoteReward,
)
"""In the order in which they are listed; the first is the default."""

if TYPE_CHECKING:
    SingleRewardSettings = RewardFamily
else:
    SingleRewardSettings = union_of(SINGLE_FAMILIES)
"""Type of a field with the settings of any reward but a sum of rewards."""
