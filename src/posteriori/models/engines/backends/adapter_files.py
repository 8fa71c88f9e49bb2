"""A LoRA adapter in the files that engines read."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from posteriori.core.journal.files import writing
from posteriori.models.causal import CausalLM


def save_adapter(lm: CausalLM, folder: Path) -> int:
    """Its adapter alone, in PEFT's format, in place of one that is there; returns its rank.

    What `save_pretrained` writes is a whole model where the base has been changed in memory: here
    the engine has the base already.
    """
    assert isinstance(lm.model, PeftModel), "its caller has seen an adapter"
    assert lm.adapter is not None, "its caller has seen an adapter"
    config = lm.model.peft_config[lm.adapter]
    tensors = get_peft_model_state_dict(
        lm.model, adapter_name=lm.adapter, save_embedding_layers=False
    )
    with writing("the adapter", folder):
        folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(folder))
        found = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # Whoever reads it meanwhile sees the old file or the new one.
        part = folder / "adapter_model.safetensors.part"
        save_file(found, part)
        part.replace(folder / "adapter_model.safetensors")
    return int(getattr(config, "r", 0))
