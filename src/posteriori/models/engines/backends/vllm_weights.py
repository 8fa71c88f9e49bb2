"""Whole weights into a running vLLM.

On a CPU vLLM packs each linear layer's weight after loading and throws the weight away. Loading
into what is left raises, and vLLM's own `reload_weights` leaves the packed copies of tied heads as
they were, so that the engine is between old and new weights. Here every layer gets an empty weight
of its full size again, all are loaded, and all are packed anew.
"""

# vLLM is in an environment of its own, which the type checker does not see.
# pyright: reportMissingImports=false

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from posteriori.errors import EngineError


def load_whole(llm: Any, model: PreTrainedModel) -> None:
    """Give a `vllm.LLM` all weights of `model`. Raises `EngineError` where it does not take them.

    Whether it has them afterwards is for log-probs to say.
    """
    named = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        # One tensor under two names, of which vLLM has the first.
        named.pop("lm_head.weight", None)
    try:
        llm.collective_rpc(partial(_loaded_by, named=named))
    except (ValueError, RuntimeError, KeyError, AttributeError, NotImplementedError) as error:
        raise EngineError(
            f"vLLM does not take the new weights: {type(error).__name__}: {error}",
            where="Engine",
            hint='train an adapter (policy="lora"), which it loads in place',
        ) from error
    llm.reset_prefix_cache()


def _loaded_by(worker: Any, named: dict[str, Tensor]) -> None:
    """Run by vLLM's worker, in this process."""
    runner = getattr(worker, "worker", worker).model_runner
    model = runner.get_model()
    first = next(iter(model.parameters()))
    if first.device.type != "cpu":
        runner.reload_weights(weights_iterator=iter(named.items()))
        return
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.model_loader.utils import process_weights_after_loading

    config = runner.vllm_config
    with set_current_vllm_config(config):
        for layer in model.modules():
            if isinstance(getattr(layer, "quant_method", None), UnquantizedLinearMethod):
                _unpack(layer)
        model.load_weights(iter(named.items()))
        process_weights_after_loading(model, config.model_config, first.device)


def _unpack(layer: Any) -> None:
    """An empty weight of full size, as the layer was made with."""
    loader = getattr(layer, "weight_loader_v2", None) or layer.weight_loader
    size_in = getattr(layer, "input_size_per_partition", layer.input_size)
    sizes_out = getattr(layer, "output_partition_sizes", None) or [layer.output_size]
    layer.quant_method.create_weights(
        layer,
        size_in,
        sizes_out,
        layer.input_size,
        layer.output_size,
        layer.params_dtype,
        weight_loader=loader,
    )
