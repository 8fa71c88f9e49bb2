"""log Z from above: exact draws of the target among the draws of policy and prior."""

from __future__ import annotations

import math

import torch

from posteriori.core.numerics import Spread, log_mean_exp
from posteriori.core.same_outcomes import check_outcomes_of
from posteriori.core.target import Target
from posteriori.core.types import Draws, Estimate
from posteriori.diagnostics.mixture import Mixture, Stratum
from posteriori.errors import SamplingError


def log_z_upper(mixture: Mixture, exact: Stratum) -> Estimate:
    """-log (1/M) sum_m 1 / Z-hat_m >= log Z in expectation, nats.

    Z-hat_m is `Mixture.log_z`'s mean of the weights w = p~/m after the exact draw y*_m ~ p* has
    taken the place of one draw of a stratum: of stratum s (policy, prior) with the probability
    q_s(y*) / (2 m(y*)) that it came from there, summed over rather than drawn. Then

        E[1 / Z-hat_m] = sum over draws of (prod_i q_s(i)(y_i)) (Z-hat / Z) (1 / Z-hat) = 1 / Z,

    and -log is convex. Where policy and prior both miss a part of the target, exact draws have
    large weights there and the bound lies far above `log_z`, however good the weights look.
    The standard error adds that of the exact draws to that of the other draws, which all Z-hat_m
    share. Source: the conditional importance sampler of Andrieu, Doucet and Holenstein 2010, for
    strata.
    """
    if mixture.log_z_value == -math.inf:
        return Estimate(math.inf, math.inf, "upper_bound", mixture.num_draws)
    log_mixture_m = mixture.log_density(exact)
    log_w_m = exact.log_target_n - log_mixture_m
    log_inverse = []
    for s, log_q_m in enumerate(mixture.log_components(exact)):
        kept = [w[:-1] if at == s else w for at, w in enumerate(mixture.log_weight)]
        log_z_m = torch.logaddexp(torch.cat(kept).logsumexp(0), log_w_m) - math.log(
            mixture.num_draws
        )
        log_inverse.append(math.log(mixture.share) + log_q_m - log_mixture_m - log_z_m)
    log_inverse_m = torch.stack(log_inverse).logsumexp(0)
    value = -float(log_mean_exp(log_inverse_m))
    of_exact = Spread.of_means([(log_inverse_m + value).exp()]).error
    error = math.hypot(of_exact, mixture.log_z().standard_error)
    return Estimate(value, error, "upper_bound", mixture.num_draws + len(log_w_m))


def check_posterior(posterior: Draws, target: Target) -> None:
    """Raises `SamplingError` unless these are exact draws of the target, some for each prompt."""
    if posterior.guarantee != "exact":
        raise SamplingError(
            f"the bounds need exact draws of the target, and these are {posterior.guarantee}",
            where="evaluate",
            hint='draw them with posteriori.sample(target, "rejection")',
        )
    check_outcomes_of(target.prior, posterior.completions, "posterior")
    position_N = target.prompt_positions(posterior.completions)
    count_P = position_N.cpu().bincount(minlength=len(target.prompts))
    if not bool((count_P > 1).all()):
        at = int((count_P <= 1).nonzero()[0])
        raise SamplingError(
            f"the prompt {str(target.prompts[at])[:60]!r} has {int(count_P[at])} exact draws, and "
            "an error bar needs two",
            where="evaluate",
            hint="draw more with rejection, or raise its max_draws",
        )
