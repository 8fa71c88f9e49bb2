"""A learned twist: a linear form of the next token and of the prior's hidden state, or more."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType] - they take a PathLike of anything
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from posteriori.core.protocols import Rows
from posteriori.core.seeds import drawing
from posteriori.errors import ModelError

from .guidance import NextTokenTwist
from .twists import Twist


class TwistHead(nn.Module, Twist):
    """A learned twist: a head on the prior's hidden states, trained by `posteriori.fit_twist`.

        log psi_t(c, y_1 .. y_t) = u . x(y_t) + v . (h, s) + [b + a . P x(y_t)],

    h the input of the prior's output head before y_t is drawn, x(y) that head's weights for token
    y, both normalised and of length 1, s = (T - t) / T; what is in brackets is there for a `width`
    above 0: (a, b) = MLP(h, s). It starts as psi = 1 and is positive whatever it has learned, so
    weights stay right. It costs no pass of its own and knows psi of all next tokens, so where the
    proposal is the prior, SMC draws y_t in proportion to prior(y_t) psi_t (Zhao et al. 2024, arXiv
    2404.17546, section 3). `save` and `load` use safetensors.

    Args:
        hidden_size: width of h.
        token_size: width of x(y).
        width: units of the hidden layer; 0: none.
        rank: numbers per token that the hidden layer multiplies.
        seed: of the hidden layer's first weights.

    Example:
        >>> sum(each.numel() for each in po.TwistHead(hidden_size=8, token_size=8).parameters())
        18
    """

    name = "learned"
    reads_hidden: ClassVar[bool] = True

    def __init__(
        self, hidden_size: int, token_size: int, width: int = 0, rank: int = 8, seed: int = 0
    ) -> None:
        nn.Module.__init__(self)
        self.inside = self.outside = self.project = None
        with drawing(seed):
            self.of_token = nn.Linear(token_size, 1, bias=False)
            self.of_state = nn.Linear(hidden_size + 1, 1)
            if width:
                self.inside = nn.Linear(hidden_size + 1, width)
                self.outside = nn.Linear(width, 1 + rank)
                self.project = nn.Linear(token_size, rank, bias=False)
        for layer in (self.of_token, self.of_state, self.outside):
            for parameter in layer.parameters() if layer is not None else ():
                nn.init.zeros_(parameter)

    def forward(self, hidden_LD: Tensor, feature_LE: Tensor, left: float) -> Tensor:
        """log psi of one next token each, float64 [L]; `left` is the share of tokens after it."""
        b_L, a_LK = self._state(hidden_LD, left)
        u_L, x_LK = self._token(feature_LE)
        log_psi_L = b_L + u_L
        if a_LK is not None and x_LK is not None:
            log_psi_L = log_psi_L + (a_LK * x_LK).sum(-1)
        return log_psi_L.double()

    def next_token_twist(self, rows: Rows) -> Callable[[float], NextTokenTwist]:
        """As `forward`, of every next token of every row. Raises `ModelError` for another prior."""
        wanted = (self.of_state.in_features - 1, self.of_token.in_features)
        found = (rows.hidden_RD.shape[1], rows.token_features_VD.shape[1])
        if found != wanted:
            raise ModelError(
                f"the twist reads hidden states and tokens of {wanted} numbers, the prior's have "
                f"{found}",
                hint="use it with the prior that it was trained on",
            )
        with torch.no_grad():
            u_V, x_VK = self._token(rows.token_features_VD)

        def ahead(left: float) -> NextTokenTwist:
            with torch.no_grad():
                b_R, a_RK = self._state(rows.hidden_RD, left)
                return NextTokenTwist(b_R, u_V, a_RK, x_VK)

        return ahead

    def _state(self, hidden_LD: Tensor, left: float) -> tuple[Tensor, Tensor | None]:
        h_LD = self._of_length_1(hidden_LD)
        h_LD = torch.cat([h_LD, h_LD.new_full((len(h_LD), 1), left)], dim=-1)
        with torch.autocast(h_LD.device.type, enabled=False):
            v_L = self.of_state(h_LD)[:, 0]
            if self.inside is None or self.outside is None:
                return v_L, None
            out = self.outside(silu(self.inside(h_LD)))
        return v_L + out[:, 0], out[:, 1:]

    def _token(self, feature_LE: Tensor) -> tuple[Tensor, Tensor | None]:
        x_LE = self._of_length_1(feature_LE)
        with torch.autocast(x_LE.device.type, enabled=False):
            u_L = self.of_token(x_LE)[:, 0]
            return u_L, None if self.project is None else self.project(x_LE)

    def _of_length_1(self, rows_LD: Tensor) -> Tensor:
        rows_LD = rows_LD.to(self.of_token.weight.dtype)
        return layer_norm(rows_LD, rows_LD.shape[1:]) / math.sqrt(rows_LD.shape[1])

    def save(self, path: Path | str) -> None:
        """The whole file or the one before it: it is written under another name first."""
        path = Path(path)
        incoming = path.with_name(f".{path.name}.incoming")
        try:
            incoming.unlink(missing_ok=True)
            save_file(self.state_dict(), incoming)
            os.replace(incoming, path)
        except (OSError, SafetensorError) as error:
            incoming.unlink(missing_ok=True)
            raise ModelError(
                f"the twist cannot be written: {str(error).splitlines()[0]}",
                where=str(path),
                hint="make room, or choose another place",
            ) from error

    @classmethod
    def load(cls, path: Path | str) -> TwistHead:
        """Raises `ModelError` where there is no such file, or it is no twist."""
        try:
            state = load_file(path)
            width, rank = 0, 1
            if "outside.weight" in state:
                width, rank = state["outside.weight"].shape[1], state["project.weight"].shape[0]
            sizes = state["of_state.weight"].shape[1] - 1, state["of_token.weight"].shape[1]
            head = cls(*sizes, width, rank)
            head.load_state_dict(state)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise ModelError(
                f"there is no twist at '{path}': {str(error).splitlines()[0]}",
                hint="give the .safetensors file that TwistHead.save wrote",
            ) from error
        return head
