"""Fused layers: the loss and gradients of transformers' layers, nothing more kept, and one graph for the compiler.

On a CPU their operators are plain PyTorch; `test_triton_kernels.py` compares the Triton kernels
with these.
"""

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from conftest import make_multimodal_model, make_text_model
from lorachain.chain.stages import default_settings
from lorachain.config import Kernels
from lorachain.config_reading import read_config
from lorachain.errors import ConfigError
from lorachain.kernels import operators
from lorachain.training import layers as layers_module
from lorachain.training.activations import recompute_activations
from lorachain.training.fused_layers import compile_fused_layers, use_fused_layers
from lorachain.training.layers import check_compile, choose_layers
from lorachain.training.recompute_layers import use_recompute_layers
from lorachain.weights.load import text_decoder
from lorachain.weights.lora import PeftModel, add_new_lora

CUDA = torch.device("cuda")
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapted(
    dtype: torch.dtype = torch.float32, targets: list[str] = ALL, dropout: float = 0.0, **kind: Any
) -> PeftModel:
    """A LoRA whose B is not zero, in the base's type."""
    multimodal = kind.pop("multimodal", False)
    base = make_multimodal_model(dtype=dtype) if multimodal else make_text_model(dtype=dtype, **kind)
    model = add_new_lora(
        base, base_path="b", rank=2, alpha=4, dropout=dropout, use_rslora=False, target_modules=targets, seed=0
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
    return model.train()


def gradients(model: PeftModel, length: int = 37) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden states, and the gradients of the mean of their squares."""
    ids = torch.randint(6, 380, (2, length), generator=torch.Generator().manual_seed(2))
    states = text_decoder(model)(input_ids=ids, use_cache=False).last_hidden_state
    states.float().square().mul(torch.arange(states.shape[-1])).mean().backward()
    result = {n: p.grad.float().clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return states.detach().float(), result


def relative_error(result: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of all gradients as one vector."""
    assert result.keys() == expected.keys()
    ours, theirs = (torch.cat([side[name].flatten() for name in sorted(side)]) for side in (result, expected))
    assert theirs.norm() > 0
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize(
    ("targets", "multimodal"),
    [(ALL, False), (ALL, True), (["q_proj", "down_proj"], False), (["v_proj"], False)],
    ids=["all", "all of the multimodal class", "q and down", "v"],
)
def test_states_and_gradients_are_those_of_transformers(
    targets: list[str], multimodal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(targets=targets, multimodal=multimodal)
    expected_states, expected = gradients(model)
    use_fused_layers(text_decoder(model))
    with monkeypatch.context() as patch:
        norms = Mock(side_effect=operators.rms_norm)
        patch.setattr(operators, "rms_norm", norms)
        states, result = gradients(model)
    assert norms.call_count == 4 * 4 + 1
    torch.testing.assert_close(states, expected_states, rtol=1e-4, atol=1e-4)
    assert relative_error(result, expected) <= 1e-5


def test_bf16_gradients_are_as_close_to_float32_as_those_of_transformers() -> None:
    """Both round, in different places; the fused layers round less often."""
    exact = adapted(torch.bfloat16).float()
    _, expected = gradients(exact)
    model = adapted(torch.bfloat16)
    _, plain = gradients(model)
    use_fused_layers(text_decoder(model))
    _, fused = gradients(model)
    assert relative_error(fused, expected) <= 1.15 * relative_error(plain, expected) < 0.1


def test_recomputed_layers_have_the_same_gradients_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, recomputed = adapted(torch.bfloat16), adapted(torch.bfloat16)
    for model in (kept, recomputed):
        use_fused_layers(text_decoder(model))
    recompute_activations(recomputed)
    expected_states, expected = gradients(kept)
    norms = Mock(side_effect=operators.rms_norm)
    monkeypatch.setattr(operators, "rms_norm", norms)
    states, result = gradients(recomputed)
    assert norms.call_count == 2 * (4 * 4) + 1  # in both passes, but for the last norm
    assert torch.equal(states, expected_states)
    assert all(torch.equal(result[name], expected[name]) for name in expected)


def test_dropout_is_that_of_peft() -> None:
    model = adapted(dropout=0.3)
    torch.manual_seed(3)
    _, expected = gradients(model)
    use_fused_layers(text_decoder(model))
    torch.manual_seed(3)
    _, result = gradients(model)
    assert relative_error(result, expected) <= 1e-5


def test_without_gradients_nothing_changes() -> None:
    model, ids = adapted(torch.bfloat16), torch.arange(6, 26)[None]
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        use_fused_layers(text_decoder(model))
        assert torch.equal(model(input_ids=ids).logits, expected)
        assert torch.equal(model(input_ids=ids, use_cache=True).logits, expected)


def test_no_more_is_kept_than_by_the_layers_that_recompute() -> None:
    def kept(switch: Callable[[torch.nn.Module], None]) -> int:
        model = adapted(torch.bfloat16)
        switch(text_decoder(model))
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        ids = torch.randint(6, 380, (2, 300), generator=torch.Generator().manual_seed(2))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            states = text_decoder(model)(input_ids=ids, use_cache=False).last_hidden_state
        assert states.requires_grad
        return sum(storages.values())

    assert kept(use_fused_layers) <= 1.01 * kept(use_recompute_layers)


def test_a_compiled_layer_is_one_graph_with_the_same_gradients() -> None:
    """`aot_eager` traces what a real backend would be given. Layers of one kind share their graph, and another size of
    the batch needs no new one."""
    from torch._dynamo.testing import CompileCounterWithBackend

    sliding: dict[str, Any] = {"num_hidden_layers": 5, "layer_types": ["sliding_attention"] * 5}
    model, compiled = adapted(**sliding), adapted(**sliding)
    counter = CompileCounterWithBackend("aot_eager")
    use_fused_layers(text_decoder(model))
    use_fused_layers(text_decoder(compiled))
    compile_fused_layers(text_decoder(compiled), backend=counter)
    graphs = []
    for length in (37, 21):
        (expected_states, expected), (states, result) = gradients(model, length), gradients(compiled, length)
        torch.testing.assert_close(states, expected_states, rtol=1e-5, atol=1e-5)
        assert relative_error(result, expected) <= 1e-6
        graphs.append(counter.frame_count)
    assert graphs[0] == graphs[1] < 5
    with torch.no_grad():
        text_decoder(compiled)(input_ids=torch.arange(6, 26)[None])
    assert counter.frame_count == graphs[0]


def test_fused_layers_are_used_on_cuda_where_the_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = text_decoder(adapted())
    messages: list[str] = []

    def choose(device: torch.device = CUDA, kernels: Kernels = "auto", *, compile: bool = False) -> str:
        return choose_layers(decoder, device, kernels, compile=compile, on_message=messages.append)

    monkeypatch.setattr(layers_module, "kernels_problem", lambda device: None)
    assert choose() == "fused"
    assert choose(kernels="off") == "recomputed"
    assert choose(torch.device("cpu")) == "recomputed"
    assert choose(compile=True) == "compiled"
    other: Any = decoder
    other.config.hidden_activation = "gelu"
    assert choose() == "recomputed"
    with pytest.raises(ConfigError, match="set it to false"):
        choose(compile=True)
    assert not messages
    other.config.hidden_activation = "gelu_pytorch_tanh"
    monkeypatch.setattr(layers_module, "kernels_problem", lambda device: "triton is not installed")
    assert choose() == "recomputed"
    assert messages == ["training without fused kernels, which takes more time: triton is not installed"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels can run here")
def test_why_kernels_cannot_run_is_found_by_running_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "find_spec", lambda name: None)
    assert operators.kernels_problem(CUDA) == "triton is not installed (`pip install 'lorachain[gpu]'`)"
    monkeypatch.setattr(operators, "find_spec", lambda name: object())
    assert str(operators.kernels_problem(CUDA)).startswith("triton fails with ")


def test_settings_of_the_layers_are_part_of_a_runs_identity_where_they_are_not_the_defaults() -> None:
    training = read_config(default_settings()).training
    assert not {"kernels", "compile"} & training.deciding().keys()
    changed = read_config(default_settings(), overrides=[{"training": {"kernels": "off", "compile": True}}]).training
    assert changed.deciding() == training.deciding() | {"kernels": "off", "compile": True}


def test_layers_that_cannot_be_compiled_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers_module, "kernels_problem", lambda device: "triton is not installed")
    with pytest.raises(ConfigError, match="triton is not installed"):
        check_compile(True, CUDA, "none")
    monkeypatch.setattr(layers_module, "kernels_problem", lambda device: None)
    check_compile(True, CUDA, "none")
    check_compile(False, torch.device("cpu"), "nf4")
    with pytest.raises(ConfigError, match="the device is cpu"):
        check_compile(True, torch.device("cpu"), "none")
    with pytest.raises(ConfigError, match="quantization is 'nf4'"):
        check_compile(True, CUDA, "nf4")
