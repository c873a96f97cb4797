"""A LoRA on a base in memory: created, loaded, saved, and checked to be what was asked for."""

import json
import warnings
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft import PeftModel as PeftModel  # other packages name the type, only this one imports peft
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from lorachain.errors import AdapterError
from lorachain.weights.load import decoder_linears
from lorachain.weights.lora_config import ADAPTER_CONFIG as ADAPTER_CONFIG
from lorachain.weights.lora_config import read_adapter_config as read_adapter_config
from lorachain.weights.lora_config import read_lora_config
from lorachain.weights.lora_layers import (
    ADAPTER_WEIGHTS as ADAPTER_WEIGHTS,
)
from lorachain.weights.lora_layers import (
    adapted_layers,
    check_shapes,
    explicit_config,
    find_factors,
    is_explicit,
    open_adapter_weights,
)
from lorachain.weights.parameter_names import ModuleNames
from lorachain.weights.safetensors_io import is_finite


def language_model_targets(model: PreTrainedModel, names: list[str]) -> list[str]:
    """Full names of the decoder's linear layers that end in one of `names`, without those of the vision tower.

    Raises:
        AdapterError: a name matches no linear layer of the language model.
    """
    linear = decoder_linears(model)
    unmatched = [name for name in names if not any(full.split(".")[-1] == name for full in linear)]
    if unmatched or not names:
        known = sorted({full.split(".")[-1] for full in linear})
        raise AdapterError(
            f"target modules {unmatched or names} match no linear layer of the language model; "
            f"allowed: {', '.join(known)}. Set lora.target_modules in a --config file"
        )
    return [full for full in linear if full.split(".")[-1] in names]


def add_new_lora(
    model: PreTrainedModel,
    *,
    base_path: str,
    rank: int,
    alpha: int,
    dropout: float,
    use_rslora: bool,
    target_modules: list[str],
    seed: int,
) -> PeftModel:
    """A new LoRA with B = 0 on the language model's `target_modules`: it changes no logit until it is trained.

    `base_path` is where plain `peft` will load the base from. Factors are float32, the type they are stored and merged
    in; training computes with them in the base's type (`training/optimizer.py`).

    Raises:
        AdapterError: a target matches nothing, or the model has an adapter already.
    """
    refuse_second_adapter(model)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_rslora=use_rslora,
        target_modules=language_model_targets(model, target_modules),
        base_model_name_or_path=base_path,
    )
    with warnings.catch_warnings():  # PEFT warns that it replaces the base's name by the model's own
        warnings.simplefilter("ignore", UserWarning)
        peft_model = get_peft_model(model, config, autocast_adapter_dtype=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in (m for m in peft_model.modules() if isinstance(m, LoraLayer)):
            _initialize(layer)
    peft_model.peft_config["default"].base_model_name_or_path = base_path
    return cast(PeftModel, peft_model)


def _initialize(layer: LoraLayer) -> None:
    """PEFT's own initialization, drawn on the CPU: the same for a model without weights and on any device."""
    factors = layer.lora_A["default"], layer.lora_B["default"]
    devices = [cast(Tensor, factor.weight).device for factor in factors]
    for factor in factors:
        factor.to_empty(device="cpu")
    layer.reset_lora_parameters("default", True)  # type: ignore[no-untyped-call]
    for factor, device in zip(factors, devices, strict=True):
        if device.type != "meta":
            factor.to(device)


def refuse_second_adapter(model: nn.Module) -> None:
    """Raises AdapterError where the model has a LoRA already."""
    if isinstance(model, PeftModel) or any("lora_" in name for name, _ in model.named_parameters()):
        raise AdapterError(
            "the model has an adapter already; merge it first (`lorachain merge`), an adapter cannot be put on an "
            "adapter"
        )


def load_adapter(model: PreTrainedModel, folder: Path, *, trainable: bool) -> PeftModel:
    """The adapter in `folder` on `model`, every tensor of the file used and every LoRA layer filled.

    Shapes are compared with the model's before anything is allocated, and PEFT is given no pattern to match.

    Raises:
        AdapterError: files are missing or broken, tensors do not fit the model or are not finite, or the model has an
            adapter already.
    """
    refuse_second_adapter(model)
    config = read_lora_config(folder)
    shard, modules = open_adapter_weights(folder), ModuleNames(model)
    factors, _ = find_factors(folder, shard, modules)
    layers = adapted_layers(folder, config, factors, modules)
    check_shapes(folder, factors, layers, modules)
    if not is_explicit(config, factors):
        config = explicit_config(config, layers)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            peft_model = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable, config=config)
        except Exception as error:  # an untrusted file: any error means that it does not fit
            raise AdapterError(f"the adapter in {folder} does not fit its base: {error}") from error
    # PEFT only warns of missing and unexpected keys (issue #2586: a merge that silently does nothing).
    misfits = [str(w.message) for w in caught if "missing" in str(w.message) or "adapter" in str(w.message).lower()]
    if misfits:
        raise AdapterError(f"the adapter in {folder} does not fit its base: {misfits[0][:500]}")
    for name, parameter in peft_model.named_parameters():
        if ".lora_" in name and not is_finite(parameter.detach()):
            raise AdapterError(
                f"the adapter in {folder} has values that are not finite (NaN or infinity) in {name}; its training "
                "diverged"
            )
    return peft_model


def check_adapter_files(folder: Path) -> None:
    """Raises AdapterError unless both files of an adapter exist and are complete; a pickle is not accepted."""
    read_adapter_config(folder)
    open_adapter_weights(folder)


def trainable_names(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def check_trainable(model: PeftModel) -> None:
    """Raises AdapterError unless the trainable set is exactly the LoRA's A and B of its targets."""
    targets = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
    expected = {f"{name}.lora_{side}.default.weight" for name in targets for side in "AB"}
    trainable = set(trainable_names(model))
    if trainable != expected:
        raise AdapterError(
            f"trainable tensors are not the LoRA's: {sorted(trainable - expected)[:3]} too many, "
            f"{sorted(expected - trainable)[:3]} missing"
        )


def adapter_tensors(model: PeftModel) -> dict[str, Tensor]:
    """The LoRA's tensors under the names that PEFT stores, contiguous on the CPU."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def set_adapter_tensors(model: PeftModel, tensors: dict[str, Tensor]) -> None:
    """Copies tensors under PEFT's stored names into the adapter."""
    set_peft_model_state_dict(model, tensors)


def save_adapter(model: PeftModel, folder: Path, tensors: dict[str, Tensor] | None = None) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, as plain `peft` reads them.

    `tensors` replaces the model's own (training passes its float32 masters).
    """
    save_file(tensors or adapter_tensors(model), folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = model.peft_config["default"]
    inference_mode, config.inference_mode = config.inference_mode, True
    try:
        config.save_pretrained(str(folder))
    finally:
        config.inference_mode = inference_mode
    normalize_files(folder)


def normalize_files(folder: Path) -> None:
    """Makes equal adapters equal files: PEFT writes `target_modules` from a set, in any order.

    safetensors creates files that only their owner can read: the weights get the mode of the configuration.
    """
    path = folder / ADAPTER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / ADAPTER_WEIGHTS).chmod(path.stat().st_mode & 0o777)
