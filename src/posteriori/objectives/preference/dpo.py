"""Direct preference optimisation."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from .pairs import Pairs, PairsConfig


class DPOConfig(PairsConfig):
    """Settings of the objective "dpo".

    Args:
        pairs: preference data: a file, a data set, or rows of prompt, chosen, rejected; None: pairs
            of draws, which the target's evidence labels.
        pairs_per_step: pairs of the data per step.
        held_out: share of the data's prompts that is not trained on, and judges the policy.
        proposal: without `pairs`, what draws: "policy", as it stands, or "prior".
        labels: without `pairs`: "sampled" draws each label; "expected" weighs both orders by their
            probability.
        beta: what multiplies log-ratios; left out, 1 for draws and 0.1 for `pairs`.
        label_smoothing: share of labels that are taken to be wrong, below 0.5.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    beta: float | None = Field(default=None, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)


class DPO(Pairs[DPOConfig]):
    """loss = -log sigmoid(b h),  h = (log pi - log prior)(chosen) - the same of rejected.

    Minimises the cross-entropy of the labels under the policy's implied Bradley-Terry model, which
    is that of a reward b log(pi/prior). Where preferences are Bradley-Terry in b log e, for pairs
    from any proposal that reaches every completion, it is minimal at log pi/prior = log e - log Z:
    at the target. Unbiased at any number of draws; in nats, h in nats as well.

    `beta` is b, the units of the reward that the labels follow per nat of log-ratio:

    * preference data: b = 0.1 unless given, as in TRL. It plays the part of this library's beta:
      preferences by a reward r lead to prior x exp(r / b) / Z.
    * labelled draws: b = 1 unless given, as beta is inside the evidence already: P(y1 preferred) =
      sigmoid(b (log e1 - log e2)). Another b makes labels sharper or noisier, and moves nothing:
      the same b multiplies h. With evidence Reward(r, beta) and b = beta they are Bradley-Terry in
      r itself.

    `label_smoothing` takes that share of labels to be wrong; the policy then keeps nearer to the
    prior than the target is. With `labels="expected"` the gradient's noise vanishes with the
    gradient, as every pair has b h = log-odds there. (Rafailov et al. 2023, arXiv 2305.18290,
    section 4; label smoothing: Mitchell 2023, "A note on DPO with noisy preferences".)
    """

    name = "dpo"
    fixed_point = "the target, where preferences are Bradley-Terry in the evidence"

    Settings = DPOConfig

    @property
    def beta(self) -> float:
        default = 1.0 if self.settings.pairs is None else 0.1
        return default if self.settings.beta is None else self.settings.beta

    @property
    def label_scale(self) -> float:
        return self.beta

    def pair_loss(self, h_n: Tensor, probability_n: Tensor) -> Tensor:
        wrong = self.settings.label_smoothing
        p_n = (1 - wrong) * probability_n + wrong * (1 - probability_n)
        return -p_n * logsigmoid(self.beta * h_n) - (1 - p_n) * logsigmoid(-self.beta * h_n)
