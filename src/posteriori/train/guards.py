"""Guards between the backward pass and the update: nothing non-finite ever reaches the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from posteriori.core.protocols import TrainableLM
from posteriori.core.types import Draws
from posteriori.distributed.exchange import gathered
from posteriori.distributed.sharding import is_cut, part
from posteriori.errors import NonFiniteError
from posteriori.objectives.base import Constants, Objective, policy_log_prob

_SHOWN = 3


def check_draws(draws: Draws, step: int) -> None:
    """Raise `NonFiniteError` where a log-prob of a fresh draw is not a finite number."""
    _check("log-prob under what drew it", draws.log_proposal_N, draws, step)
    _check("log-prob under the prior", draws.log_prior_N, draws, step)


def check_constants(draws: Draws, constants: Constants, step: int) -> None:
    """Raise `NonFiniteError` where a constant of the loss is not a finite number."""
    for name, values in constants.items():
        _check(f"loss's constant '{name}'", values, draws, step)


def _check(name: str, values: Tensor, draws: Draws, step: int) -> None:
    values = values.reshape(len(draws), -1)
    wrong = ~torch.isfinite(values)
    bad = wrong.any(-1).nonzero()[:, 0]
    if len(bad):
        value = float(values[wrong][0])
        raise _error(f"the {name} is {value}", draws, bad.tolist(), step)


def check_gradient(
    grad_norm: Tensor,
    policy: TrainableLM,
    objective: Objective,
    draws: Draws,
    constants: Constants,
    step: int,
) -> None:
    """Raise `NonFiniteError` where the gradient is not finite, and find the draws that made it so.

    Only then is every draw's own gradient computed, one by one; of sharded weights it is not.
    """
    if bool(torch.isfinite(grad_norm)):
        return
    parameters = [p for p in policy.module.parameters() if p.requires_grad]
    if any(map(is_cut, parameters)):
        raise _error(f"the gradient norm is {float(grad_norm)}", draws, None, step)
    bad = []
    for rows in torch.arange(len(draws)).split(objective.rows_together):
        its_own = {name: values[rows] for name, values in constants.items()}
        completions = draws.completions.select(rows)
        log_prob, _ = policy_log_prob(objective, policy, completions, its_own)
        loss = objective.loss(log_prob, its_own).sum()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        if not all(bool(torch.isfinite(g).all()) for g in gradients if g is not None):
            bad += rows.tolist()
    raise _error(f"the gradient norm is {float(grad_norm)}", draws, bad, step)


def check_weights(policy: TrainableLM, step: int) -> None:
    """Raise `NonFiniteError` where a weight of the policy is not finite, before it is saved."""
    finite = {name: _finite(tensor) for name, tensor in policy.trained_state().items()}
    if any(is_cut(tensor) for tensor in policy.trained_state().values()):
        everywhere = gathered(lambda: finite)
        finite = {name: all(each[name] for each in everywhere) for name in finite}
    for name, is_finite in finite.items():
        if not is_finite:
            raise NonFiniteError(
                f"the weight '{name}' is not finite after the update",
                where=f"step {step}",
                hint="resume from the last checkpoint with a lower learning_rate",
            )


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(part(tensor)).all())


def _error(what: str, draws: Draws, rows: list[int] | None, step: int) -> NonFiniteError:
    if rows is None:
        blame = "by which completions is not looked for where weights are cut over processes"
    elif rows:
        shown = "; ".join(
            f"{draws.texts[row][:60]!r} after {str(draws.prompts[row])[:40]!r}"
            for row in rows[:_SHOWN]
        )
        blame = f"made by {len(rows)} of {len(draws)} completions: {shown}"
    else:
        blame = "no single completion makes it so: their sum overflows"
    return NonFiniteError(
        f"{what}, {blame}",
        where=f"step {step}",
        hint="the update was not made; look at these completions' rewards, or lower learning_rate",
    )
