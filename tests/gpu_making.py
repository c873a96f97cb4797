"""A fake GPU: training steps of any size without memory, whose operators are counted instead of computed.

Tensors are PyTorch's FakeTensors on a device of their own (PyTorch's PrivateUse1 backend), so shapes, types and devices
are those of a real step and a mismatch of devices is an error. Attention is mapped to the operators that CUDA takes.
The backend can be registered once per process and other tests must not see it: `count_steps` starts a process.

    PYTHONPATH=src:tests python tests/gpu_making.py '{"shape": "medgemma-4b", "tokens": 4096}'
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from fake_gpu import DEVICE, Counting, StepCounts, register_device, sdpa_of_cuda

SHAPES: dict[str, dict[str, Any]] = {  # the language models of google/medgemma-4b-it and google/medgemma-27b-text-it
    "medgemma-4b": {
        "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256,
    },
    "medgemma-27b": {
        "hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 62, "num_attention_heads": 32,
        "num_key_value_heads": 16, "head_dim": 128, "query_pre_attn_scalar": 168,
    },
}  # fmt: skip
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Case:
    """One training step: `documents` of equal length, packed, with a LoRA of rank 16 on all linear layers."""

    shape: str
    tokens: int
    layers: int | None = None
    """None: all of the shape."""
    documents: int = 8
    supervised: int | None = None
    """How many positions are supervised; None: all."""
    attention: str | None = None
    """Name of the implementation; None: the one that the model has on an unknown device."""
    fused: bool = False
    """Whether the layers, LoRA products and loss are those of `kernels/`."""
    recompute: bool = False
    scoring: bool = False
    """Instead of training, a forward pass over prefix trees behind a prefix cache."""
    sampling: int = 0
    """Instead of training, so many sequences of `tokens` ids in all are sampled."""


def count_steps(cases: Sequence[Case]) -> list[StepCounts]:
    """The counts of each case, from one new process."""
    here = Path(__file__).parent
    paths = [str(here.parent / "src"), str(here), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    done = subprocess.run(
        [sys.executable, __file__, *(json.dumps(asdict(case)) for case in cases)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"a fake step failed: {done.stderr[-3000:]}")
    return [StepCounts(**json.loads(line)) for line in done.stdout.splitlines()]


def _meta_model(case: Case) -> nn.Module:
    """The model with its LoRA, without weights."""
    from lorachain.weights import lora

    shape = SHAPES[case.shape] | ({} if case.layers is None else {"num_hidden_layers": case.layers})
    config = Gemma3TextConfig(**shape, sliding_window=1024, vocab_size=262208)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        base = Gemma3ForCausalLM(config)
    base.tie_weights()
    with patch.object(lora, "_initialize"):  # it draws factors on the CPU
        model = lora.add_new_lora(
            base, base_path="b", rank=16, alpha=32, dropout=0.0, use_rslora=False, target_modules=LINEARS, seed=0
        )
    return model.train()


def _move_to_fake_device(model: nn.Module) -> None:
    """Every parameter in bf16. Within FakeTensorMode."""
    moved: dict[int, tuple[Tensor, Tensor]] = {}  # tied weights stay tied
    for module in model.modules():
        for holder in (module._parameters, module._buffers):
            for name, tensor in holder.items():
                if tensor is not None:
                    if id(tensor) not in moved:
                        moved[id(tensor)] = tensor, _on_fake_device(tensor)
                    cast(dict[str, Tensor], holder)[name] = moved[id(tensor)][1]


def _on_fake_device(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, nn.Parameter):
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)
    values = torch.empty(tensor.shape, dtype=torch.bfloat16, device=DEVICE)
    return nn.Parameter(values, requires_grad=tensor.requires_grad)


def _count(case: Case) -> StepCounts:
    from lorachain.tokens import TokenRow, collate, collate_packed
    from lorachain.training.activations import activation_bytes, recompute_activations, recomputed_bytes
    from lorachain.training.loss import SupervisedLanguageModel
    from lorachain.weights.load import plain_model

    length = case.tokens // case.documents
    supervised_from = 1 if case.supervised is None else length - case.supervised // case.documents
    rows = [TokenRow(list(range(length)), supervised_from)] * case.documents
    batch = (collate if case.attention is None else collate_packed)([rows], 0)
    supervised = batch.supervised
    model = _meta_model(case)
    with FakeTensorMode():
        _move_to_fake_device(model)
        if case.scoring:
            return _count_scoring(model, case)
        if case.sampling:
            return _count_sampling(model, case)
        if case.recompute:
            recompute_activations(model)
        module = SupervisedLanguageModel(model, "fused" if case.fused else "recomputed")
        if case.attention is not None:
            plain_model(model).set_attn_implementation(case.attention)
        inputs = {name: _on_fake_device(v) if isinstance(v, Tensor) else v for name, v in batch.as_inputs().items()}
        normalizer = torch.ones((), device=DEVICE)
        counting = Counting(case.tokens, supervised)
        with patch("torch.nn.functional.scaled_dot_product_attention", sdpa_of_cuda), counting:
            loss = module(**inputs, normalizer=normalizer)
            counting.counts.kept_bytes = counting.alive()
            loss.backward()
        counts = counting.finished()
        if case.recompute:
            counts.estimated_bytes = recomputed_bytes(model, case.tokens)
        else:
            counts.estimated_bytes = activation_bytes(model, case.tokens, dense_masks=case.attention is None)
    return counts


def _count_scoring(model: nn.Module, case: Case) -> StepCounts:
    """Few and all tokens read of trees with two continuations, behind a prefix cache of 2,000 tokens."""
    from lorachain.inference.eval_mode import eval_mode
    from lorachain.inference.forward import hidden_states
    from lorachain.inference.prefix_cache import KeyValues, compute_prefix_cache
    from lorachain.inference.prefix_tree import PrefixTree
    from lorachain.weights.load import plain_model

    plain_model(model).set_attn_implementation(case.attention or "sdpa")
    length = case.tokens // case.documents
    part = list(range(length // 4))
    trees = [PrefixTree(list(range(length // 2)), [part, part]) for _ in range(case.documents)]
    counting = Counting(sum(map(len, trees)), 0)
    with (
        patch("torch.nn.functional.scaled_dot_product_attention", sdpa_of_cuda),
        patch("torch.tensor", _tensor_on_device),
        eval_mode(model),
        counting,
    ):
        prefix = compute_prefix_cache(model, list(range(2000)))
        for read in ([len(tree) - 1] for tree in trees), (range(len(tree)) for tree in trees):
            hidden_states(model, trees, list(read), KeyValues(prefix))
    return counting.finished()


def _count_sampling(model: nn.Module, case: Case) -> StepCounts:
    """Prompts of which none shares its beginning with another; every id that is drawn is 0, which ends nothing."""
    from conftest import make_tokenizer
    from lorachain.inference.generate import generate
    from lorachain.tokens import TokenEncoder

    counting = Counting(case.tokens, 0)

    def zeros(tensor: Tensor) -> list[Any]:
        counting.counts.to_host.append(f"tolist {tuple(tensor.shape)}")
        return [0] * len(tensor)

    with (
        patch("torch.nn.functional.scaled_dot_product_attention", sdpa_of_cuda),
        patch("torch.tensor", _tensor_on_device),
        patch.object(FakeTensor, "tolist", zeros),
        counting,
    ):
        generate(
            model,
            TokenEncoder(make_tokenizer()),
            [[2, 10 + number] for number in range(case.sampling)],
            stop=lambda text: False,
            max_new_tokens=case.tokens // case.sampling,
            temperature=1.0,
            seeds=range(case.sampling),
        )
    return counting.finished()


_tensor = torch.tensor


def _tensor_on_device(data: Any, *, device: Any = "cpu", **options: Any) -> Tensor:
    """`torch.tensor`, which is not an operator: no mode sees it."""
    made = _tensor(data, **options)
    on_cpu = torch.device(device).type == "cpu"
    return made if on_cpu else torch.empty(made.shape, dtype=made.dtype, device=device)


def main(arguments: Sequence[str]) -> None:
    register_device()
    for argument in arguments:
        print(json.dumps(asdict(_count(Case(**json.loads(argument))))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
