"""Known decoders compute what transformers' own classes compute, and only those are taken."""

from __future__ import annotations

import pytest
import torch
import transformers
from helpers import PROMPTS, WORDS, generator, tiny_lm, tiny_model
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn

from posteriori.models.cpu.fused_lora import fused_products
from posteriori.models.cpu.linear_groups import each_alone
from posteriori.models.cpu.packing import packed_products
from posteriori.models.decoders.decoder_forward import DecoderForward
from posteriori.models.decoders.known import known_decoder
from posteriori.models.weights.state import base_model

KNOWN = ("gpt2", "llama", "qwen2")
CPU = torch.device("cpu")
PROMPT_IDS = [(1, 2), (3,), (4, 5, 1, 3)]
PARENT = torch.tensor([2, 0, 1, 2])
IDS = torch.tensor([[1, 2, 3], [4, 5, 1], [2, 2, 2], [5, 4, 3]])


@pytest.fixture(autouse=True)
def own_random_state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def mistral(**settings):
    config = transformers.MistralConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        bos_token_id=0,
        eos_token_id=0,
        **settings,
    )
    return transformers.MistralForCausalLM(config).eval().requires_grad_(False)


def forward_of(model, product=each_alone, hidden=False) -> DecoderForward:
    decoder = known_decoder(model, {}, product)
    assert decoder is not None
    return DecoderForward(decoder, base_model(model).config, CPU, hidden)


def plain_logits(model) -> torch.Tensor:
    """Every row alone, unpadded and uncached: logits after the prompt and after each token."""
    rows = []
    for parent, ids in zip(PARENT.tolist(), IDS.tolist(), strict=True):
        whole = torch.tensor([[*PROMPT_IDS[parent], *ids]])
        rows.append(model(input_ids=whole, use_cache=False).logits[0, -len(ids) - 1 :])
    return torch.stack(rows)


def with_adapter(model):
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter.data)
    return wrapped.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("architecture", KNOWN)
@torch.no_grad()
def test_logits_are_those_of_transformers(architecture, dtype):
    model = tiny_model(architecture).to(dtype)
    (ours,) = forward_of(model).continued(PROMPT_IDS, PARENT, IDS)
    # RMS norms and rotary angles are float32 in transformers whatever the weights are.
    far = 1e-5 if dtype == torch.float32 else 1e-6
    torch.testing.assert_close(ours, plain_logits(model), rtol=far, atol=far)


@torch.no_grad()
def test_mistral_without_a_window():
    model = mistral(sliding_window=None)
    (ours,) = forward_of(model).continued(PROMPT_IDS, PARENT, IDS)
    torch.testing.assert_close(ours, plain_logits(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("architecture", KNOWN)
@torch.no_grad()
def test_token_by_token_with_a_cache(architecture, at_once):
    model = tiny_model(architecture)
    forward = forward_of(model)
    rows = forward.prefill(PROMPT_IDS, PARENT, room=4)
    parts = [rows.logits_RV[:, None]]
    for ids in IDS.split(at_once, dim=1):
        parts.append(forward.extend(rows, ids))
    torch.testing.assert_close(torch.cat(parts, 1), plain_logits(model), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows.logits_RV, parts[-1][:, -1])


@torch.no_grad()
def test_rows_that_leave_take_their_cache_along():
    model = tiny_model("llama")
    forward = forward_of(model)
    rows = forward.prefill(PROMPT_IDS, PARENT, room=4)
    forward.extend(rows, IDS[:, :1])
    rows.keep(torch.tensor([3, 1]))
    ours = forward.extend(rows, IDS[[3, 1], 1:2])[:, 0]
    torch.testing.assert_close(ours, plain_logits(model)[[3, 1], 2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", KNOWN)
@torch.no_grad()
def test_hidden_states_are_what_enters_the_head(architecture):
    model = tiny_model(architecture)
    hidden = forward_of(model, hidden=True).states(PROMPT_IDS, PARENT, IDS)
    logits = nn.functional.linear(hidden, model.get_output_embeddings().weight)
    torch.testing.assert_close(logits, plain_logits(model), rtol=1e-5, atol=1e-5)


def test_no_tokens_after_the_prompt():
    model = tiny_model("llama")
    with torch.no_grad():
        (ours,) = forward_of(model).continued(PROMPT_IDS, PARENT, IDS[:, :0])
        torch.testing.assert_close(ours, plain_logits(model)[:, :1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_hooks_on_layers_are_kept():
    model = tiny_model("llama")
    before = plain_logits(model)
    model.model.layers[1].mlp.up_proj.register_forward_hook(lambda _m, _i, out: 2 * out)
    model.lm_head.register_forward_pre_hook(lambda _m, inputs: (inputs[0] + 0.5,))
    (ours,) = forward_of(model).continued(PROMPT_IDS, PARENT, IDS)
    expected = plain_logits(model)
    assert float((expected - before).abs().max()) > 0.1
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


class TestAdapters:
    """Layers side by side, by every way through them."""

    @staticmethod
    def ways(dtype=torch.float32):
        return {
            "alone": each_alone,
            "packed": lambda *layers: packed_products(layers, 4, dtype) or each_alone(*layers),
            "fused": lambda *layers: fused_products(layers, dtype) or each_alone(*layers),
        }

    @pytest.mark.parametrize("way", ["alone", "packed", "fused"])
    @pytest.mark.parametrize("architecture", KNOWN)
    @torch.no_grad()
    def test_logits_are_those_of_peft(self, architecture, way):
        model = with_adapter(tiny_model(architecture).requires_grad_(False))
        (ours,) = forward_of(model, self.ways()[way]).continued(PROMPT_IDS, PARENT, IDS)
        expected = plain_logits(model)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
        with model.disable_adapter():
            (off,) = forward_of(model, self.ways()[way]).continued(PROMPT_IDS, PARENT, IDS)
            torch.testing.assert_close(off, plain_logits(model), rtol=1e-4, atol=1e-4)
        assert float((off - ours).abs().max()) > 0.1

    @pytest.mark.parametrize("architecture", ["llama", "qwen2"])
    def test_products_and_gradients_of_layers_side_by_side(self, architecture):
        model = with_adapter(tiny_model(architecture).requires_grad_(False))
        attention = model.get_base_model().model.layers[0].self_attn
        layers = [attention.q_proj, attention.k_proj, attention.v_proj]
        x = torch.randn(5, 16, generator=generator(1)).requires_grad_()
        trained = [p for layer in layers for p in layer.parameters() if p.requires_grad]
        assert len(trained) == 6
        slopes = [torch.randn(5, n, generator=generator(n)) for n in (16, 8, 8)]
        products = fused_products(layers, torch.float32)
        assert products is not None
        results = []
        for outs in (products(x), [layer(x) for layer in layers]):
            loss = sum((out * slope).sum() for out, slope in zip(outs, slopes, strict=True))
            results.append([*outs, *torch.autograd.grad(loss, [x, *trained])])
        for mine, expected in zip(*results, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)

    def test_packed_products_do_not_read_the_weights_again(self):
        mlp = tiny_model("llama").requires_grad_(False).model.layers[0].mlp
        x = torch.randn(4, 16, generator=generator(1))
        products = packed_products([mlp.gate_proj, mlp.up_proj], 4, torch.float32)
        assert products is not None
        expected = [mlp.gate_proj(x), mlp.up_proj(x)]
        mlp.up_proj.weight.data.mul_(3.0)
        for mine, theirs in zip(products(x), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)

    def test_layers_of_two_kinds_are_left_alone(self):
        model = with_adapter(tiny_model("llama").requires_grad_(False))
        mlp = model.get_base_model().model.layers[0].mlp
        pair = [mlp.gate_proj, mlp.up_proj.base_layer]
        assert packed_products(pair, 4, torch.float32) is None
        assert fused_products(pair, torch.float32) is None
        assert packed_products([nn.Embedding(3, 3)], 4, torch.float32) is None


def test_looking_at_a_model_makes_transformers_say_nothing(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(transformers.modeling_utils.logger, "warning_once", said.append)
    model = tiny_model("gpt2")
    model.config.pad_token_id = 2
    assert known_decoder(model, {}) is not None
    assert not said


class TestNotTaken:
    @pytest.mark.parametrize(
        "architecture", ["qwen3", "mistral, window of 3", "gemma", "phi", "opt", "bloom"]
    )
    def test_other_architectures(self, architecture):
        assert known_decoder(tiny_model(architecture), {}) is None

    def test_a_window_longer_than_what_is_tried(self):
        assert known_decoder(mistral(sliding_window=1000), {}) is None

    def test_qwen2_with_a_window(self):
        config = transformers.Qwen2Config(
            vocab_size=6,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            use_sliding_window=True,
            sliding_window=1000,
            max_window_layers=1,
        )
        assert known_decoder(transformers.Qwen2ForCausalLM(config), {}) is None

    @pytest.mark.parametrize(
        "settings", [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}]
    )
    def test_gpt2_with_other_scores(self, settings):
        config = transformers.GPT2Config(vocab_size=6, n_embd=16, n_layer=2, n_head=2, **settings)
        assert known_decoder(transformers.GPT2LMHeadModel(config).eval(), {}) is None

    def test_positions_that_depend_on_the_length(self):
        rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
        config = tiny_model("llama").config
        config.rope_parameters = rope
        assert known_decoder(transformers.LlamaForCausalLM(config).eval(), {}) is None

    @pytest.mark.parametrize("place", ["layers.0", "layers.1.self_attn", "layers.0.mlp"])
    def test_a_hook_on_what_would_be_passed_by(self, place):
        model = tiny_model("llama")
        assert known_decoder(model, {}) is not None
        model.model.get_submodule(place).register_forward_hook(lambda *_: None)
        assert known_decoder(model, {}) is None

    def test_a_forward_that_somebody_has_wrapped(self):
        model = tiny_model("llama")
        model.forward = model.forward
        assert known_decoder(model, {}) is None

    def test_weights_in_reduced_precision(self):
        assert known_decoder(tiny_model("llama").bfloat16(), {}) is None

    def test_adapters_that_are_not_lora(self):
        config = IA3Config(
            target_modules=["k_proj", "down_proj"],
            feedforward_modules=["down_proj"],
            task_type="CAUSAL_LM",
        )
        assert known_decoder(get_peft_model(tiny_model("llama"), config), {}) is None

    def test_virtual_tokens(self):
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        assert known_decoder(get_peft_model(tiny_model("llama"), config), {}) is None

    def test_a_class_that_computes_something_else_than_it_used_to(self, monkeypatch):
        """As after a new release of transformers."""
        mlp = transformers.models.llama.modeling_llama.LlamaMLP
        monkeypatch.setattr(mlp, "forward", lambda self, x: self.down_proj(self.up_proj(x)))
        model = tiny_model("llama")
        assert known_decoder(model, {}) is None
        monkeypatch.undo()
        assert known_decoder(tiny_model("llama"), {}) is not None


@pytest.mark.parametrize("architecture", KNOWN)
def test_a_causal_lm_is_the_same_distribution_either_way(architecture, monkeypatch):
    """The same draws from the same uniform numbers, and the same log-probs and gradients."""
    results = []
    for way in ("known", "transformers"):
        if way == "transformers":
            monkeypatch.setattr(
                "posteriori.models.execution.running_model.known_decoder", lambda *_: None
            )
        lm = tiny_lm(architecture).in_float64()
        draws = lm.sample(PROMPTS, 20, 6, generator())
        lm.model.requires_grad_(True)
        log_prob = lm.log_prob(draws)
        gradient = torch.autograd.grad(log_prob.sum(), list(lm.model.parameters()))
        results.append([draws.tokens_NL, draws.log_prob_N, log_prob.detach(), *gradient])
    for mine, expected in zip(*results, strict=True):
        # transformers rounds norms and angles to float32 even here.
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
