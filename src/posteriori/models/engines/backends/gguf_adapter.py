"""A LoRA adapter in llama.cpp's format.

W' = W + B A, with A [r, in] and B [out, r] under the names of the file's own tensors. For some
architectures the file has the rows of the query and key projections in another order than
transformers (llama.cpp rotates neighbouring pairs, transformers the two halves), so the rows of
their B follow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor

from posteriori.core.journal.files import writing
from posteriori.errors import EngineError
from posteriori.models.causal import CausalLM
from posteriori.models.weights.state import base_model

_PAIRED = {"llama"}
"""Architectures of GGUF whose query and key rows are in pairs."""


def save_gguf_adapter(lm: CausalLM, base: Path, file: Path) -> None:
    """Write the adapter of `lm` for the model of the file `base`, in place of one that is there.

    Raises `EngineError` for an adapter that has more than low-rank products of linear layers.
    """
    import gguf

    assert isinstance(lm.model, PeftModel), "its caller has seen an adapter"
    assert lm.adapter is not None, "its caller has seen an adapter"
    config: Any = base_model(lm.model).config.get_text_config()
    architecture = _architecture(gguf.GGUFReader(str(base)))
    kind = {name: which for which, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    heads = {
        "attn_q": config.num_attention_heads,
        "attn_k": getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
    }
    part = file.with_suffix(".part")
    with writing("the adapter", file):
        writer = gguf.GGUFWriter(str(part), architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        # B has the scaling in it: 0 says that there is no other.
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)
        for module, a_rI, b_Or in _products(lm.model, lm.adapter):
            name = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
            if name is None:
                _refuse(f"GGUF has no name for '{module}'")
            head = heads.get(name.split(".")[-2]) if architecture in _PAIRED else None
            if head is not None:
                b_Or = _in_pairs(b_Or, head)
            writer.add_tensor(f"{name}.lora_a", _array(a_rI))
            writer.add_tensor(f"{name}.lora_b", _array(b_Or))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        part.replace(file)


def _products(model: PeftModel, adapter: str) -> list[tuple[str, Tensor, Tensor]]:
    """(module's name in the base, A, B times the scaling) of each adapted layer."""
    known = {"lora_A", "lora_B"}
    trained = [name for name, _ in model.named_parameters() if f".{adapter}." in name]
    other = [name for name in trained if not known & set(name.split("."))]
    config = model.peft_config[adapter]
    if other or getattr(config, "use_dora", False):
        _refuse(f"the adapter has more than low-rank products: '{(other or ['use_dora'])[0]}'")
    found = []
    modules: list[tuple[str, Any]] = list(base_model(model).named_modules())
    for name, module in modules:
        if adapter not in getattr(module, "lora_A", {}):
            continue
        a_rI = module.lora_A[adapter].weight
        b_Or = module.lora_B[adapter].weight * module.scaling[adapter]
        if a_rI.dim() != 2:
            _refuse(f"'{name}' is not a linear layer")
        found.append((name, a_rI, b_Or))
    return found


def _in_pairs(rows: Tensor, heads: int) -> Tensor:
    """Rows (head, half, place) in the order (head, place, half)."""
    size = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, size, -1).transpose(1, 2).reshape(rows.shape)


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return np.ascontiguousarray(tensor.detach().float().cpu().numpy())


def _architecture(reader: Any) -> str:
    return str(reader.fields["general.architecture"].contents())


def _refuse(what: str) -> NoReturn:
    raise EngineError(
        f"llama.cpp cannot be given this adapter: {what}",
        where="Engine",
        hint="use LoRA on linear layers alone, or the backend 'vllm'",
    )
