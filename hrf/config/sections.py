"""The sections of a configuration: every field with its rule, its unit and its default.

Defaults are this project's own choices unless the field says otherwise; a preset states where each number comes from.
A rule about one value stands here; rules between fields are in `hrf.config.checks`. Those of rewards are in
`hrf.rewards`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hrf.networks.settings import Encoder
from hrf.rewards import DEFAULT_REWARD, RewardSettings
from hrf.storage.schema import BelowOne, Count, CountOrZero, Fraction, NonNegative, Positive, Section, Seed

StartFrom = Literal["promoted", "base"]
"""The policy that a run starts from."""
StartChoice = Literal["as configured", StartFrom]
"""What a run's parameter of that name may say: the configuration's word, or another one over it."""


class Model(Section):
    """The pretrained diffusion model, and how it is run."""

    source: str = "shipped:avatars-32"
    """`shipped:avatars-32`, a local folder, `s3://bucket/prefix`, or `hf:owner/name` (with a revision)."""
    revision: str = ""
    """Commit hash, 40 hex digits; required for `hf:` and for nothing else."""
    forward_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the denoiser's forward pass; states and scheduler arithmetic are always float32."""
    batch_size: Count = 8
    """The most samples in a call of the denoiser while sampling. A piece of work takes as few calls as this allows, all
    of one size, the last ones filled up: a sample's bits depend on that size, by the denoiser's rounding, and never on
    which others are sampled with it, here or in another process."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model runs. There is no fallback: `cuda` on a machine without a GPU is an error."""
    num_processes: Count = 1
    """Processes that share the work of every step that samples, scores or updates: each on a GPU of its own, or with
    its part of the CPU's threads. Samples are the same bits, weights the same but for the order of a sum's terms."""
    shard_weights: bool = False
    """Each of the processes holds a part of the denoiser's weights, gradients and moments in an update, and gathers
    the weights block by block (FSDP2): for a denoiser whose training is too large for one GPU. Sampling has all of the
    weights on each."""
    guidance_scale: Annotated[float, Field(ge=1)] = 1.0
    """Classifier-free guidance of a text-to-image model, in Stable Diffusion's convention: 1 is none, more doubles the
    cost."""
    embedded_guidance: Annotated[float, Field(ge=0)] | None = None
    """Guidance that a model distilled to it reads as a number beside the prompt (FLUX.1-dev: 3.5), which costs nothing;
    null for models that read none."""
    picture_size: Count | None = None
    """Height and width of the pictures, in pixels, of models that make them in any size (FLUX, Stable Diffusion 3);
    null: as the model's files say, or else its pipeline's 1024 pixels."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time, the same gradients."""
    compile: bool = False
    """Compile the denoiser (torch.compile): faster on GPUs after minutes of compiling in every step of the run. It
    rounds differently, so results compare only with those of other compiled runs."""


class Sampler(Section):
    """The sampler that defines the episodes."""

    kind: Literal["ancestral", "cps", "flow_sde", "dance_sde"] = "ancestral"
    """How much noise a step adds, and how much it leaves in: `ancestral` as DDIM's eq. 16; `cps` keeps the scheduler's
    noise level (arXiv 2509.05952); `flow_sde` is Flow-GRPO's step and `dance_sde` DanceGRPO's, of flow models alone."""
    steps: Annotated[int, Field(ge=2, le=1000)] = 20
    """K, the number of denoising steps of an episode."""
    spacing: Literal["leading", "trailing"] = "leading"
    """Which diffusion timesteps the K steps stand for (diffusers' `timestep_spacing`); a flow model has but its own
    scheduler's, and `trailing` is refused."""
    eta: Fraction = 1.0
    """Noise of a training step: 0 = none, which cannot be trained. `ancestral`: 1 = DDPM's. `cps`: its a, 0.8 in
    published code; `flow_sde`: the noise level, 0.7; `dance_sde`: 0.3."""
    min_std: BelowOne = 0.05
    """A step is trained only if its standard deviation is at least this; 0 trains every stochastic step."""


class Prompts(Section):
    """What a text-to-image model is asked for."""

    source: str = "animals"
    """`animals`, the 45 of the DDPO paper's first tasks, or a local text file with one prompt in a line."""
    texts: tuple[str, ...] = ()
    """The prompts themselves, in place of `source`: pods on a cluster see no local file."""
    template: str = "{prompt}"
    """What is made of each: `{prompt}` is the prompt itself, `{a_prompt}` has an indefinite article before it."""
    evaluation_source: str = ""
    """A second file, for evaluation only; empty: some of the prompts are held out."""
    held_out_fraction: BelowOne = 0.2
    """Share of the prompts that only evaluation sees, chosen by `evaluation.seed`. At least 4 are held out."""
    negative: str = ""
    """What guidance leads away from."""
    statistics_buffer: Count = 16
    """Latest rewards of each prompt that an advantage is standardised by, on noise starts (published DDPO code: 16)."""
    statistics_min_count: Count = 16
    """A prompt with fewer rewards than this takes the epoch's statistics instead (published DDPO code: 16)."""


class Lora(Section):
    """A low-rank adapter beside the frozen weights of a text-to-image model (LoRA, arXiv 2106.09685)."""

    rank: Count = 4
    """r."""
    alpha: Count = 4
    """The adapter's output is scaled by alpha / rank."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("to_q", "to_k", "to_v", "to_out.0")
    """Ends of the names of the layers that get one; these four are the projections of all attention layers."""


class Policy(Section):
    """Which steps the tuned weights denoise, and which weights are tuned."""

    split: BelowOne = 0.0
    """Fraction of K before which the reference's weights denoise, the tuned ones from there on; 0 = no split."""
    split_sigma: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The same by noise level, in place of `split`: the tuned weights denoise from the first step with at most this
    sigma = noise / (signal + noise), a flow's own; null = not given so."""
    prefix_pool: CountOrZero = 0
    """How many states at the switch step are drawn once and reused by all epochs; 0 = none. Needs a split."""
    lora: Lora | None = None
    """Tune an adapter of a text-to-image model; null tunes all of the denoiser's weights."""


class WindowEntry(Section):
    """One window of start steps, half-open: in fractions of K, in steps or by noise level."""

    fractions: tuple[Fraction, Fraction] | None = None
    """[a, b]: the trained steps k with a <= k/K < b."""
    steps: tuple[CountOrZero, CountOrZero] | None = None
    """[i, j]: the steps i..j-1, which must all be trained."""
    sigmas: tuple[Fraction, Fraction] | None = None
    """[a, b], a > b: the trained steps with a >= sigma > b, from the noisiest on; sigma as of `policy.split_sigma`."""
    epochs: CountOrZero = 0
    """How many epochs the window lasts, in a `custom` schedule; otherwise left at 0."""


class Selection(Section):
    """How HRF-D scores the candidate start steps of a root."""

    rule: Literal["exhaustive", "coarse_to_fine"] = "coarse_to_fine"
    """`exhaustive` scores all candidates (published); `coarse_to_fine` a coarse grid, then around the winner (ours)."""
    beta: NonNegative = 0.5
    """Weight of the distance to the root against the gain in reward (paper)."""
    stride: Count = 2
    """Distance in steps between neighbouring candidates (published code: 2 of 40)."""
    branches: Count = 5
    """Previews per root and candidate (published code: 5)."""
    coarse_stride: Count = 4
    """Distance in steps on the coarse grid: a multiple of `stride`, and larger. For `coarse_to_fine` only."""
    preview_steps: CountOrZero = 0
    """Denoiser calls per preview: 0 = one a step of the tail (published); n = n long steps evenly over it."""


class Starts(Section):
    """Where episodes start."""

    kind: Literal["noise", "window", "selected"] = "window"
    """`noise` = DDPO; `window` = HRF, uniform in the epoch's window; `selected` = HRF-D, chosen in the window."""
    schedule: Literal["fixed", "baseline", "early", "later", "sliding", "uniform", "custom"] = "uniform"
    """Epoch -> window. `uniform` is every trained step (from the switch step on), in every epoch."""
    windows: tuple[WindowEntry, ...] = ()
    """The windows of a `fixed` (exactly one) or `custom` schedule."""
    loss_from: BelowOne = 0.0
    """Fraction of K from which on an episode has a loss, on `noise` starts; the policy's own steps before it have none.
    What is left of HRF without re-noising."""
    width: BelowOne = 0.0
    """Width of a `sliding` window, as a fraction of K; otherwise left at 0."""
    selection: Selection = Selection()
    """For `selected` starts only."""


class Rollout(Section):
    """How many episodes an epoch has."""

    roots: Count = 8
    """N, finished samples per epoch that are re-noised; with `share_start`, states that branches leave."""
    branches: Count = 8
    """B, re-noised copies per root: the group of an advantage. With noise starts all N*B samples are one group."""
    share_start: bool = False
    """The branches of a group leave one state at the switch step of a split policy, which the reference has denoised
    from noise or the pool holds: no root is finished and re-noised. The only start step is the switch step, and
    `starts` must say so."""


class Update(Section):
    """The policy update and its optimizer, AdamW."""

    objective: Literal["surrogate", "difference"] = "surrogate"
    """`surrogate`: the clipped ratio of probabilities (DDPO, HRF). `difference`: the estimate of the finished sample is
    pulled towards what an episode has come to, away from the mean of its siblings, by its advantage (after FDFO)."""
    levels_per_branch: Count = 2
    """Steps of a branch that have a loss under the objective `difference`, drawn anew for every epoch from its start to
    the last trained step; a shorter tail has one on all of its steps."""
    proximal_weight: NonNegative = 0.0
    """Weight of the squared distance to the estimates of the policy that sampled, under the objective `difference`;
    0 = none. It costs a forward pass more."""
    reference_weight: NonNegative = 0.0
    """Weight of the squared distance to the reference's estimates, under the objective `difference`; 0 = none. It costs
    a forward pass more."""
    sibling_distance_weight: NonNegative = 0.0
    """Weight, beside the reward's 1, of an episode's mean distance to its siblings in the features that evaluation
    uses, both standardised within the group; 0 = none. What keeps siblings apart then pays as a better reward does."""
    learning_rate: Positive = 1e-4
    """Peak learning rate."""
    weight_decay: NonNegative = 1e-3
    """AdamW's (published code: 1e-3)."""
    beta1: BelowOne = 0.9
    """AdamW's."""
    beta2: BelowOne = 0.999
    """AdamW's."""
    rate_schedule: Literal["constant", "warmup_cosine"] = "constant"
    """`warmup_cosine`: linear over `warmup_updates`, the first of which has peak / warmup_updates, then cosine to 0 at
    `total_updates`."""
    warmup_updates: CountOrZero = 0
    """For `warmup_cosine`."""
    total_updates: CountOrZero = 0
    """For `warmup_cosine`, which requires it: the update at which the rate is 0."""
    clip_range: Positive = 1e-4
    """Epsilon of the clipped ratio, for log-probs that are means over pixels (published code: 1e-4)."""
    trust_region: Literal["ratio", "divergence"] = "ratio"
    """What holds the policy near the one that sampled. `ratio`: the clip of its ratio of probabilities. `divergence`: a
    step of a branch teaches no more where the policy has moved further than `divergence_limit` and would be pushed on
    (Flow-DPPO). It takes a state's worth more of storage a step."""
    divergence_limit: Positive = 1e-5
    """Largest KL divergence of a step from the policy that sampled, mean over pixels of (m - m')^2 / 2 s^2, for
    `trust_region: divergence` (published scripts: 1e-5)."""
    advantage_clip: Positive = 2.5
    """Advantages are clipped to this many standard deviations (published code: 2.5)."""
    scale_trust_region: bool = True
    """Scale the trust region and the clip of advantages by the tail fraction of the episode, as HRF does; the objective
    `difference` does not."""
    max_grad_norm: Positive = 1.0
    """Norm to which a gradient is clipped (published code: 1.0)."""
    inner_epochs: Count = 1
    """Passes over the branches of an epoch."""
    minibatch: Count = 32
    """Branches per optimizer update."""
    microbatch: Count = 64
    """(branch, step) pairs per denoiser call in the update; memory, not results, depends on it."""
    log_prob_reduction: Literal["mean", "sum"] = "mean"
    """Over pixels. `mean` is what clip ranges such as 1e-4 are made for; it is no density."""
    step_weighting: Literal["none", "std"] = "none"
    """`std` weights the loss of a step by its standard deviation."""
    guidance: bool = True
    """Train the guided policy. `false`: episodes are rolled out and trained without guidance, at half the cost, while
    roots, previews and evaluation keep it."""
    kl_weight: NonNegative = 0.0
    """Weight of the KL divergence to the reference; 0 = none."""
    ema_decay: BelowOne = 0.0
    """Decay of the averaged weights; 0 = none."""
    advantage_spread: Literal["population", "sample"] = "population"
    """The standard deviation that advantages are divided by: over n (DDPO's code), or over n - 1 (published code)."""
    advantage_delta: Positive = 1e-8
    """Added to that standard deviation before dividing by it; in units of the reward (DDPO's code 1e-8, published code
    1e-6)."""

    @property
    def uses_reference(self) -> bool:
        """Whether the loss asks the reference's weights."""
        return self.kl_weight > 0 or self.reference_weight > 0


class Shaping(Section):
    """A second reward s beside the run's own r: training is on r + weight x s.

    They are summed before they are standardised within a group, so a group in which s says nothing is taught what r
    teaches. Everything else, evaluation, the gate, reports and the choice of start steps, knows r alone. A measure that
    s shares a classifier with is trained on, too: if s is the probability of `unrecognised` under
    `evaluation.classifier`, the monitor `unrecognised_fraction` is no independent witness any more.
    """

    reward: RewardSettings = DEFAULT_REWARD
    """s."""
    weight: float = 1.0
    """In units of the reward per unit of s; a negative one turns s around."""


class Evaluation(Section):
    """The measurement of a policy on fixed seeds."""

    num_samples: Annotated[Count, Field(ge=8)] = 192
    """n; diversity scores are only comparable at equal n."""
    seed: Seed = 0
    """Seed of the evaluation's noise; independent of `run.seed`, so that runs compare."""
    every: Count = 1
    """Evaluate every so many epochs; the last epoch always."""
    steps: Annotated[int, Field(ge=2, le=1000)] | None = None
    """Denoising steps of an evaluation; null: as in training. A split policy then switches at the first of them with no
    more noise than its switch step has in training."""
    eta: Fraction = 1.0
    """Sampler noise during evaluation; of a flow, 0 is the ODE by which diffusers draws."""
    features: Literal["classifier", "pixels", "clip", "dinov2"] = "classifier"
    """What diversity is measured on: the classifier's features, colours on a grid, or a pretrained encoder's."""
    encoder: Encoder = Encoder()
    """For `clip` and `dinov2` features only."""
    classifier: str = "shipped"
    """`shipped`, `shipped-second`, a folder, or empty for none: counts modes, and gives the classifier's features."""
    held_out_reward: RewardSettings | None = None
    """A second reward that is watched and never trained on; null = none."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of all intervals."""
    num_strengths: Annotated[CountOrZero, Field(le=8)] = 0
    """The most strengths a < 1 that are measured of a candidate base + a (tuned - base) where it does not keep the
    diversity floor as it is: the strongest that does goes before the gate. 0 = none: candidates are as trained."""


class Monitors(Section):
    """Largest allowed change of an image statistic against the base's; null only reports it.

    See `hrf.evaluation.monitors`.
    """

    dark_pixel_fraction: Positive | None = 0.15
    """Increase of the share of dark pixels: an image in six gone black, on average."""
    edge_density: Positive | None = 0.40
    """Change either way of the share of edge pixels, as a fraction of the base's. Compressibility has to lower it
    somewhat; halving it means blur or blank images."""
    colour_entropy: Positive | None = 1.0
    """Decrease of the entropy of an image's colours, in bits: half as many colours in use."""
    mean_hue: Annotated[float, Field(gt=0, lt=180)] | None = None
    """Turn of the mean hue either way, in degrees; a candidate that has gone grey, unlike the base, exceeds any limit.
    Reported only: how much chance turns it depends on how much the hues of a model's pictures agree."""
    photographic_variance: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decrease of how much images differ in saturation, brightness and contrast, as a fraction of the base's. Reported
    only: no limit has been shown to tell a gamed reward from an honest one."""
    unrecognised_fraction: Positive | None = 0.10
    """Increase of the share of images that the classifier recognises as nothing."""


class Gate(Section):
    """When a candidate is promoted."""

    diversity_margin: Annotated[float, Field(gt=0, lt=1)] = 0.10
    """Largest loss of order-2 Vendi score against the base, as a fraction of the base's."""
    error: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Chance, at most, that any of an experiment's verdicts promotes a candidate with no better a reward than its
    incumbent's; and that any promotes one whose diversity is below the floor. See `hrf.core.spending`."""
    num_samples: Annotated[Count, Field(ge=8)] | None = None
    """Fresh seeds of a verdict; null: as many as `evaluation.num_samples`."""
    monitors: Monitors = Monitors()
    """Limits of the drift monitors."""


class Run(Section):
    """Length and seed of a run."""

    epochs: Annotated[Count, Field(le=100_000)] = 3
    """Rounds of roots and branches."""
    epochs_per_step: Count | Literal["auto"] = "auto"
    """Epochs that one pipeline step trains; it divides `epochs` and `evaluation.every`. `auto`: on a cluster, as many
    as lie between two evaluations and last some minutes; on this machine one."""
    replicas: Annotated[Count, Field(le=8)] = 1
    """Chains of epochs from the same start, each with noise of its own, whose weights are averaged before every
    evaluation; a run costs so many times the denoiser evaluations, on a cluster in pods side by side."""
    seed: Seed = 0
    """Seed of all training noise."""
    start_from: StartFrom = "promoted"
    """The policy to start from: the promoted one where there is one, or always the base model."""
