"""A learned twist: a small network over the prior's hidden state, for every next token at once."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from ..errors import ModelError
from ..protocols import Rows
from .twists import Foresight, Twist


class TwistHead(nn.Module, Twist):
    """log psi_t(c, y_1 .. y_t) = b + a . P x(y_t),  (a, b) = MLP(h(c, y_<t), (T - t) / T),

    h the input of the prior's output head before y_t is drawn, x(v) that head's weights for token
    v, both normalised. One hidden layer of `width`, `rank` numbers a token; it starts as psi = 1.

    It costs no pass of its own and knows psi of all next tokens, so where the proposal is the
    prior, SMC draws y_t in proportion to prior(y_t) psi_t. Positive whatever it has learned, so the
    weights stay right. Trained by `fit_twist`; `save` and `load` as safetensors.
    Source: Zhao et al. 2024 (arXiv 2404.17546, section 3.2 and appendix on the twist's form).
    """

    name = "learned"
    reads_hidden: ClassVar[bool] = True

    def __init__(
        self, hidden_size: int, token_size: int, width: int = 64, rank: int = 32, seed: int = 0
    ) -> None:
        nn.Module.__init__(self)
        self.norm = nn.LayerNorm(hidden_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.inside = nn.Linear(hidden_size + 1, width)
            self.outside = nn.Linear(width, 1 + rank)
            self.tokens = nn.Linear(token_size, rank, bias=False)
        nn.init.zeros_(self.outside.weight)
        nn.init.zeros_(self.outside.bias)

    def forward(self, hidden_LD: Tensor, feature_LE: Tensor, left: float) -> Tensor:
        """log psi of one next token each, float64 [L]; `left` is the share of tokens after it."""
        b_L, a_LK = self._state(hidden_LD, left)
        return (b_L + (a_LK * self._embed(feature_LE)).sum(-1)).double()

    def foresight(self, rows: Rows) -> Foresight:
        """As `forward`, of every next token of every row. Raises `ModelError` for another prior."""
        wanted = (self.norm.normalized_shape[0], self.tokens.in_features)
        found = (rows.hidden_RD.shape[1], rows.token_features_VD.shape[1])
        if found != wanted:
            raise ModelError(
                f"the twist reads hidden states and tokens of {wanted} numbers, the prior's have "
                f"{found}",
                hint="use it with the prior that it was trained on",
            )
        with torch.no_grad():
            token_VK = self._embed(rows.token_features_VD)

        def log_psi(left: float) -> Tensor:
            with torch.no_grad():
                b_R, a_RK = self._state(rows.hidden_RD, left)
                return torch.addmm(b_R[:, None], a_RK, token_VK.t())

        return log_psi

    def _state(self, hidden_LD: Tensor, left: float) -> tuple[Tensor, Tensor]:
        hidden_LD = hidden_LD.to(self.tokens.weight.dtype)
        with torch.autocast(hidden_LD.device.type, enabled=False):
            left_L1 = hidden_LD.new_full((len(hidden_LD), 1), left)
            inner_LW = self.inside(torch.cat([self.norm(hidden_LD), left_L1], dim=-1))
            out = self.outside(silu(inner_LW))
        return out[:, 0], out[:, 1:]

    def _embed(self, feature_LE: Tensor) -> Tensor:
        feature_LE = feature_LE.to(self.tokens.weight.dtype)
        with torch.autocast(feature_LE.device.type, enabled=False):
            return self.tokens(layer_norm(feature_LE, feature_LE.shape[1:]))

    def save(self, path: Path | str) -> None:
        save_file(self.state_dict(), path)

    @classmethod
    def load(cls, path: Path | str) -> TwistHead:
        """Raises `ModelError` where there is no such file, or it is no twist."""
        try:
            state = load_file(path)
            rank, token_size = state["tokens.weight"].shape
            width = state["inside.weight"].shape[0]
            head = cls(state["norm.weight"].shape[0], token_size, width, rank)
            head.load_state_dict(state)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise ModelError(
                f"there is no twist at '{path}': {str(error).splitlines()[0]}",
                hint="give the .safetensors file that TwistHead.save wrote",
            ) from error
        return head
