"""What `Engine` and `Served` share: draws that another program makes, as `Completions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.hooks import OnDevice, context_of, tokenizer_of
from posteriori.core.occurrence import Prompt
from posteriori.core.protocols import LanguageModel
from posteriori.core.wrapped import Wrapped
from posteriori.distributed.world import refuse_several
from posteriori.errors import EngineError
from posteriori.models.execution.generate import Rows as Suffixes
from posteriori.models.execution.suffix import distinct_prefixes, splice
from posteriori.models.text.prompt_tokens import check_draws

from .rows import completions_of, encoded, requests_for, rows_of

TOP = 5
"""Most probable next tokens that are asked for, to check that draws follow their log-probs."""


class DrawnByEngine(Wrapped):
    """A language model with the tokens of `lm`, whose draws come from a running engine."""

    _session: Any
    """A `Session`, which gives the engine its weights, or a `Foreign`, which does not."""

    @property
    def tokenizer(self) -> Any:
        found = tokenizer_of(self.lm)
        if found is None:
            raise AttributeError("tokenizer")
        return found

    @property
    def context_length(self) -> int | None:
        return context_of(self.lm)

    @property
    def device(self) -> torch.device:
        """Where its completions are: with the model's."""
        return self.lm.device if isinstance(self.lm, OnDevice) else torch.device("cpu")

    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        max_new_tokens: int,
        generator: torch.Generator | None = None,
    ) -> Completions:
        """y ~ q, prompt by prompt, with log q. Raises `EngineError` where the engine does not have
        the model's weights, or does not draw what it says."""
        refuse_several("drawing through an engine", "the model itself")
        check_draws(prompts, num_samples)
        session, lm = self._session, self.lm
        ids = encoded(lm, prompts, max_new_tokens)
        index = [p for p in range(len(ids)) for _ in range(num_samples)]
        if session.can_verify:
            session.verify(lm)
        while True:
            requests = requests_for(
                ids,
                [num_samples] * len(ids),
                [max_new_tokens] * len(ids),
                generator,
                session.looked_at,
                TOP,
            )
            drawn = session.draw(lm, requests)
            rows = rows_of(drawn, [max_new_tokens] * len(index), lm.eos_token_ids, self.device)
            made = completions_of(lm, prompts, ids, index, rows, max_new_tokens)
            if not session.verify(lm, made):
                session.check_frequencies()
                return made

    def resample_suffix(
        self, completions: Completions, start_N: Tensor, generator: torch.Generator | None = None
    ) -> Completions:
        """Prefixes of draws, gone on with by the engine; as `LanguageModel.resample_suffix`."""
        refuse_several("drawing through an engine", "the model itself")
        session, lm, most = self._session, self.lm, completions.max_new_tokens
        prefixes, place = distinct_prefixes(completions, start_N)
        started = dict(zip(place, start_N.tolist(), strict=True))
        # A prefix that has ended, or is as long as may be, is a whole completion.
        open_N = start_N < torch.where(completions.ended_N, completions.lengths_N, most)
        asked = [at for at, goes_on in zip(place, open_N.tolist(), strict=True) if goes_on]
        number = {at: asked.count(at) for at in sorted(set(asked))}
        requests = requests_for(
            [prefixes[at] for at in number],
            list(number.values()),
            [most - started[at] for at in number],
            generator,
            session.looked_at,
            TOP,
        )
        drawn = session.draw(lm, requests) if requests else []
        rest = [most - started[at] for at, count in number.items() for _ in range(count)]
        rows = rows_of(drawn, rest, lm.eos_token_ids, self.device)
        session.check_frequencies()
        # The engine's rows are prefix by prefix, and wanted is one per completion that goes on.
        order = sorted(range(len(asked)), key=lambda row: asked[row])
        goes_on_n = open_N.nonzero()[:, 0][torch.tensor(order, dtype=torch.long)]
        width = max(1, rows.tokens_RL.shape[1])
        tokens_NL = completions.tokens_NL.new_zeros(len(completions), width)
        log_prob_NL = torch.zeros(len(completions), width, dtype=torch.float64, device=self.device)
        lengths_N = torch.zeros_like(completions.lengths_N)
        ended_N = completions.ended_N & ~open_N
        tokens_NL[goes_on_n], log_prob_NL[goes_on_n] = rows.tokens_RL, rows.log_prob_RL
        lengths_N[goes_on_n], ended_N[goes_on_n] = rows.lengths_R, rows.ended_R
        return splice(completions, start_N, Suffixes(tokens_NL, lengths_N, ended_N, log_prob_NL))

    def token_power(self, alpha: float) -> LanguageModel:
        """Raises `EngineError`: the engine draws at temperature 1."""
        raise EngineError(
            f"an engine draws at temperature 1, and not from pi^{alpha:g}",
            where="Engine",
            hint="use the model itself",
        )
