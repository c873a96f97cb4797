"""Two adapters of a chain as one plain LoRA on the public base: megabytes instead of a merged model.

Stage 01 results in W1 = W + s1*B1@A1, stage 02 in W2 = W1 + s2*B2@A2. So W2 = W + [s1*B1, s2*B2] @ [A1; A2]: one LoRA
of rank r1 + r2, exact except for one rounding of each element of B to float32. Every layer's scale is 1 (alpha = rank),
so that a loader without rank and alpha patterns (vLLM's) computes the same.
"""

from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from lorachain.artifacts import MergeReport
from lorachain.artifacts.merging import ComposedLayer, ComposeReport
from lorachain.atomic import atomic_folder
from lorachain.errors import AdapterError, ConfigError, WorkspaceError
from lorachain.weights.checks import check_weights
from lorachain.weights.lora import normalize_files
from lorachain.weights.lora_file import LoraFile, adapter_sha256, open_lora
from lorachain.weights.lora_layers import ADAPTER_WEIGHTS, PEFT_PREFIX
from lorachain.weights.merge_report import read_merge_report
from lorachain.weights.safetensors_io import weights_sha256

COMPOSE_REPORT = "compose_report.json"


def compose_adapters(
    base: Path, first: Path, second: Path, out: Path, *, merged_base: Path, base_name: str, rank: int | None = None
) -> ComposeReport:
    """Writes `first` and `second` as one LoRA on `base` to `out`, with `compose_report.json`.

    `base` is the public model's directory, `merged_base` the model that `second` was trained on: `first` merged into
    `base` by lorachain, as its merge report says. `base_name` is where plain `peft` will load the base from (a hub id).
    With `rank`, layers of a higher exact rank are recompressed to it by a truncated SVD.

    Raises:
        AdapterError: an adapter does not fit, or `second` was not trained on `first` merged into `base`.
        ConfigError: `rank` is below 1.
        WorkspaceError: `out` exists.
    """
    if rank is not None and rank < 1:
        raise ConfigError(f"rank is {rank}; allowed: 1 or more, or none for the exact composition")
    if out.exists():
        raise WorkspaceError(f"{out} exists; composing never overwrites: choose another directory or remove it")
    merge = read_merge_report(merged_base)
    _check_merge(merge, base, first, merged_base)
    names = check_weights(base)
    stages = [open_lora(first, names), open_lora(second, names)]
    tensors: dict[str, Tensor] = {}
    layers = []
    for module in sorted({module for stage in stages for module in stage.targets}):
        a, b = concatenated(stages, module)
        layer, a, b = _kept(module, a, b, rank)
        layers.append(layer)
        tensors[f"{PEFT_PREFIX}{module}.lora_A.weight"] = a.contiguous()
        tensors[f"{PEFT_PREFIX}{module}.lora_B.weight"] = b.contiguous()
    with atomic_folder(out) as staging:
        save_file(tensors, staging / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        _write_config(staging, base_name, layers)
        report = ComposeReport(
            base_sha256=merge.base_sha256,
            adapter_sha256=(adapter_sha256(first), adapter_sha256(second)),
            merged_base_sha256=merge.merged_sha256,
            composed_sha256=adapter_sha256(staging),
            relative_error=_relative_error(layers),
            layers=tuple(layers),
        )
        report.write(staging / COMPOSE_REPORT)
    return report


def _check_merge(merge: MergeReport, base: Path, first: Path, merged_base: Path) -> None:
    """Raises AdapterError unless `merged_base` is `first` merged into the original weights of `base`."""
    if merge.adapter_sha256 != adapter_sha256(first) or merge.base_sha256 != weights_sha256(base):
        raise AdapterError(
            f"{merged_base} is not {first} merged into {base} (its merge report names other hashes): the second "
            "adapter's updates would be added to weights that it was not trained on"
        )
    if merge.weights != "original":
        raise AdapterError(
            f"{merged_base} is {first} added to dequantized weights: one adapter on the public base would lack what "
            "quantizing changed. Merge into the original weights, or export with --format hf"
        )


def _relative_error(layers: list[ComposedLayer]) -> float:
    """||exact - kept||_F / ||exact||_F over all layers; 0 where nothing was left out."""
    left_out = sum(layer.frobenius_error**2 for layer in layers)
    return float((left_out / sum(layer.norm**2 for layer in layers)) ** 0.5)


def concatenated(stages: list[LoraFile], module: str) -> tuple[Tensor, Tensor]:
    """A (R, in) and B (out, R) in float32 with B@A the sum of the stages' scale*B@A; R the sum of their ranks."""
    targets = [stage.targets[module] for stage in stages if module in stage.targets]
    factors = [(target.scale, *target.factors()) for target in targets]
    return torch.cat([a for _, a, _ in factors]), torch.cat([scale * b for scale, _, b in factors], dim=1)


def truncated(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best approximation of B@A of the given rank, as factors A' (k, in), B' (out, k), and all singular values.

    B = Qb Rb and A^T = Qa Ra, so B@A = Qb (Rb Ra^T) Qa^T and only the small core (at most R, R) needs an SVD: the dense
    (out, in) matrix is never computed. All in float64; the singular values are split evenly between the factors.
    """
    q_b, r_b = torch.linalg.qr(b.double())  # (out, m), (m, R) with m = min(out, R)
    q_a, r_a = torch.linalg.qr(a.double().T)  # (in, n), (n, R)
    u, s, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)  # (m, l), (l,), (l, n)
    root = s[:rank].sqrt()
    kept_b = q_b @ (u[:, :rank] * root)
    kept_a = (root[:, None] * vt[:rank]) @ q_a.T
    return kept_a.float(), kept_b.float(), s


def _kept(module: str, a: Tensor, b: Tensor, rank: int | None) -> tuple[ComposedLayer, Tensor, Tensor]:
    """What is kept of a layer: its factors, recompressed where their rank is above `rank`, and the error of that."""
    exact_rank = len(a)
    kept_a, kept_b, s = truncated(a, b, rank or exact_rank)
    norm = float(torch.linalg.vector_norm(s))
    if rank is None or rank >= exact_rank:
        return _layer(module, exact_rank, exact_rank, norm, 0.0, 0.0), a, b
    left_out = s[rank:]
    frobenius, spectral = float(torch.linalg.vector_norm(left_out)), float(left_out[0]) if len(left_out) else 0.0
    return _layer(module, exact_rank, len(kept_a), norm, frobenius, spectral), kept_a, kept_b


def _layer(
    module: str, exact_rank: int, rank: int, norm: float, frobenius_error: float, spectral_error: float
) -> ComposedLayer:
    return ComposedLayer(
        module=module,
        exact_rank=exact_rank,
        rank=rank,
        norm=norm,
        frobenius_error=frobenius_error,
        spectral_error=spectral_error,
    )


def _write_config(folder: Path, base_name: str, layers: list[ComposedLayer]) -> None:
    """`adapter_config.json` as PEFT writes it: alpha = rank everywhere, patterns only for layers of another rank."""
    rank = max(layer.rank for layer in layers)
    exceptions = {layer.module: layer.rank for layer in layers if layer.rank != rank}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        target_modules=[layer.module for layer in layers],
        rank_pattern=exceptions,
        alpha_pattern=exceptions,
        base_model_name_or_path=base_name,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    normalize_files(folder)
