"""A learned twist: a small network over the prior's hidden state of a prefix."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import ModelError
from .twists import Prefixes, Twist


class TwistHead(nn.Module, Twist):
    """log psi_t = MLP(h(c, y_1 .. y_t), (T - t) / T), h the input of the prior's output head.

    One hidden layer of `width`; it starts as psi = 1. No pass of its own: h is what the next
    token's logits are made of. Positive whatever it has learned, so the weights stay right.
    Trained by `fit_twist`; `save` and `load` as safetensors.
    """

    name = "learned"
    reads_hidden: ClassVar[bool] = True

    def __init__(self, hidden_size: int, width: int = 64, seed: int = 0) -> None:
        nn.Module.__init__(self)
        self.norm = nn.LayerNorm(hidden_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.inside = nn.Linear(hidden_size + 1, width)
            self.outside = nn.Linear(width, 1)
        nn.init.zeros_(self.outside.weight)
        nn.init.zeros_(self.outside.bias)

    def forward(self, hidden_LD: Tensor, left: float) -> Tensor:
        """log psi, float64 [L]; `left` is the share of the tokens that are still to come."""
        with torch.autocast(hidden_LD.device.type, enabled=False):
            left_L1 = hidden_LD.new_full((len(hidden_LD), 1), left)
            inner_LW = self.inside(torch.cat([self.norm(hidden_LD), left_L1], dim=-1))
            return self.outside(nn.functional.silu(inner_LW))[:, 0].double()

    def log_psi(self, prefixes: Prefixes) -> Tensor:
        hidden_LD = prefixes.lanes.hidden(prefixes.at)
        size = self.norm.normalized_shape[0]
        if hidden_LD.shape[1] != size:
            raise ModelError(
                f"the twist reads hidden states of {size} numbers, the prior's have "
                f"{hidden_LD.shape[1]}",
                hint="use it with the prior that it was trained on",
            )
        done, total = prefixes.completions.tokens_NL.shape[1], prefixes.target.max_new_tokens
        with torch.no_grad():
            return self(hidden_LD, (total - done) / total)

    def save(self, path: Path | str) -> None:
        save_file(self.state_dict(), path)

    @classmethod
    def load(cls, path: Path | str) -> TwistHead:
        """Raises `ModelError` where there is no such file, or it is no twist."""
        try:
            state = load_file(path)
            head = cls(state["norm.weight"].shape[0], state["inside.weight"].shape[0])
            head.load_state_dict(state)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise ModelError(
                f"there is no twist at '{path}': {str(error).splitlines()[0]}",
                hint="give the .safetensors file that TwistHead.save wrote",
            ) from error
        return head
