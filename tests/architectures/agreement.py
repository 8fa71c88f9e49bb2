"""How far a tiny model is from what it has to be, as figures: each is a gap that should be zero.

The reference is one plain pass of one unpadded sequence, without a cache.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
import transformers
from helpers import PROMPTS, generator, outcome_ids, word_tokenizer
from tiny_configs import tiny_config
from torch import Tensor, nn

import posteriori as po
from posteriori.core.settings.training import LoraSettings

Figures = dict[str, float]


def tiny_model(kind: str, **settings: Any) -> transformers.PreTrainedModel:
    """A random model of architecture `kind`, with matrices large enough to matter."""
    config = tiny_config(kind, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                # Logs of decay rates, and filters over few tokens, have a scale of their own.
                if parameter.dim() >= 2 and "A_log" not in name and "conv" not in name:
                    parameter.normal_(std=0.4)
    assert model.generation_config is not None
    model.generation_config.eos_token_id = 0
    return model.float().eval().requires_grad_(False)


def figures(model: transformers.PreTrainedModel, directory: Path) -> Figures:
    """Of sampling, scoring, enumeration, SMC's cache, gradients and what is saved."""
    lm = po.CausalLM(model, word_tokenizer())
    drawn = lm.sample(PROMPTS, 10, 6, generator())
    with torch.no_grad():
        rescored = lm.log_prob(drawn)
        found = {
            "drawn": gap(drawn.log_prob_N, rescored),
            "plain": gap(rescored, plain_log_probs(model, drawn)),
        }
        outcomes = lm.completions(["a b"], outcome_ids(6, 3), 3)
        found["sum"] = gap(lm.log_prob(outcomes).exp().sum(), torch.ones(()))
        found["exact"] = _gap_of_exact(lm)
        target = po.Target(lm, po.Reward(length, beta=1.0), list(PROMPTS), 4)
        smc = po.sample(target, "smc", 8, seed=0)
        found["smc"] = gap(smc.log_prior_N, plain_log_probs(model, smc.completions))
    found["gradient"] = _gap_of_gradients(lm)
    lm.save_pretrained(directory)
    loaded = po.load(directory)
    with torch.no_grad():
        found["reloaded"] = gap(loaded.log_prob(drawn), rescored)
        return found | _gaps_of_lora(loaded, drawn, rescored, directory / "policy")


def _gap_of_exact(lm: po.CausalLM) -> float:
    """log Z by `po.exact`, in float64 where the model can, against a sum over the outcomes."""
    outcomes = lm.completions(["a b"], outcome_ids(6, 2), 2)
    log_z = (lm.log_prob(outcomes) + outcomes.lengths_N).logsumexp(0)
    target = po.Target(lm, po.Reward(length, beta=1.0), ["a b"], 2)
    return gap(torch.as_tensor(po.exact(target).log_z[0]), log_z)


def _gap_of_gradients(lm: po.CausalLM) -> float:
    """As a share of the largest entry."""
    model = lm.model.requires_grad_(True)
    parameters = list(model.parameters())
    batch = lm.completions(["d e a c", "a"], [[1, 4, 2, 0], [2, 0]], 4)
    mine, plain = (
        torch.autograd.grad(loss.sum(), parameters, allow_unused=True, materialize_grads=True)
        for loss in (lm.log_prob(batch), plain_log_probs(model, batch))
    )
    model.requires_grad_(False)
    largest = max(float(each.abs().max()) for each in plain)
    return max(gap(a, b) for a, b in zip(mine, plain, strict=True)) / largest


def _gaps_of_lora(
    prior: po.CausalLM, drawn: po.Completions, rescored: Tensor, directory: Path
) -> Figures:
    """A LoRA policy as it begins, after it has moved, and saved and loaded again."""
    policy = prior.as_policy("lora", LoraSettings(rank=2), 0)
    found = {"lora": gap(policy.log_prob(drawn), rescored)}
    for name, tensor in policy.trained_state().items():
        if "lora_B" in name:
            tensor.normal_(std=0.05, generator=generator(1))
    moved = policy.log_prob(drawn)
    assert gap(moved, rescored) > 1e-3, "the adapter does something"
    found["lora, moved"] = gap(moved, plain_log_probs(policy.model, drawn))
    policy.save_pretrained(directory)
    found["lora, reloaded"] = gap(po.load(directory).log_prob(drawn), moved)
    return found


def plain_log_probs(model: nn.Module, batch: po.Completions) -> Tensor:
    """log pi(y|c) [N], differentiable."""
    base = getattr(model, "get_base_model", lambda: model)()
    # Some models have no cache at all, and do not know the word.
    takes = inspect.signature(base.forward).parameters
    extra = {"use_cache": False} if "use_cache" in takes else {}
    found = []
    for at, y in zip(batch.prompt_index_N.tolist(), batch.completion_ids, strict=True):
        ids = torch.tensor([[*batch.prompt_ids[at], *y]])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits
        log_prob = logits[0, -len(y) - 1 : -1].double().log_softmax(-1)
        found.append(log_prob.gather(-1, torch.tensor(y)[:, None]).sum())
    return torch.stack(found)


def gap(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def length(completion_ids, **kwargs):
    return [float(len(y)) for y in completion_ids]
