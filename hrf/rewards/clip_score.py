"""CLIP score: the cosine of an image and its prompt, as CLIP sees them."""

from __future__ import annotations

from typing import Literal

from hrf.rewards.family import REWARD_EXTRA, RewardRecord
from hrf.rewards.text_image import VIT_L, CosineReward, TextImageCosine
from hrf.storage.weights import PinnedWeights


class ClipScoreReward(CosineReward):
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

    def cosine(self, field: str, *, device: str | None) -> TextImageCosine:
        """See `CosineReward.cosine`."""
        from hrf.networks.clip import fetch_open_clip

        return TextImageCosine(encoder=fetch_open_clip(self.clip, self, f"{field}.clip", device=device, field=field))
