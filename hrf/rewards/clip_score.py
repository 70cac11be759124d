"""CLIP score: the cosine of an image and its prompt, as CLIP sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hrf.networks.settings import Network
from hrf.rewards.base import CheckedReward
from hrf.rewards.family import REWARD_EXTRA, RewardFamily, RewardRecord
from hrf.rewards.text_image import VIT_L, TextImageCosine
from hrf.storage.weights import PinnedWeights


class ClipScoreReward(RewardFamily, Network):
    """Cosine of CLIP's embeddings of the image and of its prompt."""

    name: Literal["clip_score"] = "clip_score"
    clip: PinnedWeights = PinnedWeights()
    """The CLIP model, in open_clip's layout."""

    catalogue = (
        RewardRecord(
            name="clip_score",
            measures="cosine of CLIP's embeddings of image and prompt: neither scaled nor clipped",
            range="[-1, 1]; 0.2 to 0.35 on matching pairs",
            direction="closer to the prompt",
            needs_prompts=True,
            weights="any CLIP model in open_clip's layout; HPS v2 in that layout is one",
            licence="of the model: MIT for OpenAI's and LAION's",
            cost=VIT_L,
            extra=REWARD_EXTRA,
        ),
    )

    def build(self, field: str, *, folder: Path | None, device: str | None) -> CheckedReward:
        """See `RewardFamily.build`."""
        from hrf.networks.clip import fetch_open_clip

        del folder
        clip = fetch_open_clip(self.clip, self, f"{field}.clip", device=device, field=field)
        return CheckedReward(name="clip_score", score=TextImageCosine(encoder=clip), needs_prompts=True, field=field)
