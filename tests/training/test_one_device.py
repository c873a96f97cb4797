"""A process trains on the device that its settings name, whichever others it sees. The GPUs here are patched in."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState, DistributedType
from torch import Tensor, nn
from transformers import Trainer
from transformers.training_args import ParallelMode

from conftest import make_multimodal_model, make_text_model
from lorachain.chain import runtime
from lorachain.chain.context import load_config
from lorachain.errors import ConfigError
from lorachain.processes import Processes
from lorachain.tokens import TokenRow
from lorachain.training import chain_trainer
from lorachain.training.arguments import OneDeviceArguments
from lorachain.training.batch_schedule import BatchSchedule
from lorachain.training.memory_use import MemoryUse
from lorachain.training.progress import TrainingSettings
from lorachain.training.random_state import restore_torch_state, torch_state
from lorachain.weights.load import drop_vision_tower, resolve_device, text_decoder
from lorachain.weights.lora import add_new_lora


@pytest.fixture
def made_current(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.device]]:
    """Two visible GPUs and no launcher; the devices that are made the current one."""
    current: list[torch.device] = []
    for variable in ("WORLD_SIZE", "LOCAL_RANK", "ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    yield current
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(("name", "expected"), [("cuda:1", "cuda:1"), ("cuda:0", "cuda:0"), ("cuda", "cuda:0")])
def test_the_named_one_of_two_gpus_is_used(
    made_current: list[torch.device], tmp_path: Path, name: str, expected: str
) -> None:
    arguments = OneDeviceArguments(torch.device(name), output_dir=str(tmp_path))
    assert arguments.device == torch.device(expected)
    assert arguments.n_gpu == 1
    assert PartialState().device == torch.device(expected)
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ
    assert torch.device("cuda:0") not in made_current or expected == "cuda:0"


def test_a_model_on_the_cpu_stays_there(made_current: list[torch.device], tmp_path: Path) -> None:
    arguments = OneDeviceArguments(torch.device("cpu"), output_dir=str(tmp_path))
    assert (arguments.device, arguments.n_gpu) == (torch.device("cpu"), 0)
    assert PartialState().device == torch.device("cpu")
    assert made_current == []


def test_a_name_with_a_number_is_made_the_current_device(
    made_current: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "empty", lambda *sizes, device: None)  # this PyTorch may have no CUDA
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert made_current == [torch.device("cuda:1")]
    assert resolve_device("auto") == torch.device("cuda")
    assert made_current == [torch.device("cuda:1")]


def test_each_process_of_a_launcher_touches_its_own_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[str] = []

    def resolve(name: str) -> torch.device:
        touched.append(name)
        return torch.device(name if name != "auto" else "cuda")

    monkeypatch.setattr(runtime, "resolve_device", resolve)
    monkeypatch.setattr(runtime, "join_processes", lambda device, quantization: (Processes(1, 2), device))
    monkeypatch.setenv("LOCAL_RANK", "1")
    for world, name in (("1", "cuda:1"), ("2", "cuda"), ("2", "auto"), ("2", "cpu")):
        monkeypatch.setenv("WORLD_SIZE", world)
        runtime.start_runtime(load_config(overrides=[{"device": name}]), shared=True)
    assert touched == ["cuda:1", "cuda:1", "auto", "cpu"]
    with pytest.raises(ConfigError, match="device is 'cuda:0', but a launcher started several processes"):
        runtime.start_runtime(load_config(overrides=[{"device": "cuda:0"}]), shared=True)


def test_trainer_neither_moves_the_model_elsewhere_nor_wraps_it_in_data_parallel(
    made_current: list[torch.device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = make_text_model()
    model = add_new_lora(
        model, base_path="b", rank=2, alpha=4, dropout=0.0, use_rslora=False, target_modules=["q_proj"], seed=0
    )
    moved: list[torch.device] = []
    own = SimpleNamespace(device=torch.device("cuda:1"), dtype=torch.float32)
    monkeypatch.setattr(chain_trainer, "plain_model", lambda model: own)
    monkeypatch.setattr(Trainer, "_move_model_to_device", lambda self, model, device: moved.append(device))
    schedule = BatchSchedule(
        lambda epoch: [[TokenRow([2, 7, 8], 1)]], epochs=1, batch_size=1, micro_batch_tokens=8, pad_id=0, seed=0
    )
    settings = TrainingSettings(
        learning_rate=1e-3, warmup_ratio=0.0, scheduler="constant", weight_decay=0.0, max_grad_norm=1.0, seed=0,
        gradient_checkpointing=False, save_every_minutes=1.0, keep_checkpoints=1,
    )  # fmt: skip
    memory = MemoryUse(model, schedule, may_recompute=False)
    trainer = chain_trainer.ChainTrainer(
        model, schedule, settings, Processes(), tmp_path, "f", None, "recomputed", memory, lambda text: None
    )
    assert moved == [torch.device("cuda:1")]
    assert trainer.accelerator.device == torch.device("cuda:1")
    assert trainer._wrap_model(cast(nn.Module, trainer.model)) is trainer.model


def test_random_states_are_of_the_own_device_only(
    made_current: list[torch.device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the second of two processes, each with a GPU of its own; Trainer itself would use those of all GPUs."""
    arguments = OneDeviceArguments(torch.device("cuda:1"), output_dir=str(tmp_path))
    cast(Any, arguments).distributed_state = SimpleNamespace(
        distributed_type=DistributedType.MULTI_GPU, num_processes=2, process_index=1, local_process_index=1
    )
    assert arguments.parallel_mode == ParallelMode.DISTRIBUTED
    restored: list[Tensor] = []

    def refuse(*_: object) -> None:
        raise AssertionError("every GPU's state was read or set")

    monkeypatch.setattr(torch.cuda.random, "get_rng_state_all", refuse)
    monkeypatch.setattr(torch.cuda.random, "set_rng_state_all", lambda states: restored.append(torch.tensor([-1])))
    monkeypatch.setattr(torch.cuda.random, "get_rng_state", lambda: torch.tensor([5]))
    monkeypatch.setattr(torch.cuda.random, "set_rng_state", restored.append)
    trainer: Any = SimpleNamespace(args=arguments)
    with arguments.states_of_own_device():
        Trainer._save_rng_state(trainer, str(tmp_path))
        expected = torch.rand(3)
        torch.rand(7)
        Trainer._load_rng_state(trainer, str(tmp_path))
    assert [path.name for path in tmp_path.glob("rng_state*")] == ["rng_state_1.pth"]
    assert [int(state) for state in restored] == [5]
    assert torch.equal(torch.rand(3), expected)
    assert arguments.parallel_mode == ParallelMode.DISTRIBUTED


def test_a_repeated_step_draws_from_the_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    restored: list[tuple[int, torch.device]] = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([device.index]))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.append((int(state), device)))
    states = torch_state(torch.device("cuda:1"))
    expected = torch.rand(3)
    restore_torch_state(states, torch.device("cuda:1"))
    assert restored == [(1, torch.device("cuda:1"))]
    assert torch.equal(torch.rand(3), expected)
    assert torch_state(torch.device("cpu")).keys() == {"cpu"}


def test_the_vision_tower_is_dropped_and_the_text_stays_the_same() -> None:
    model: Any = make_multimodal_model()
    ids = torch.arange(6, 20)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        drop_vision_tower(model)
        assert torch.equal(model(input_ids=ids).logits, before)
    assert not [name for name, _ in model.named_parameters() if "vision" in name or "projector" in name]
    assert isinstance(text_decoder(model), nn.Module)
    text = make_text_model()
    names = [name for name, _ in text.named_parameters()]
    drop_vision_tower(text)
    assert [name for name, _ in text.named_parameters()] == names
