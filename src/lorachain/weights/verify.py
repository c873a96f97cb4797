"""A merge, verified later from the files alone."""

import hashlib
from pathlib import Path

import torch

from lorachain.artifacts import MergeReport
from lorachain.errors import AdapterError, ModelError
from lorachain.weights.blockwise import BlockWorkers, block_workers, half_ulp, row_blocks
from lorachain.weights.checks import check_weights
from lorachain.weights.lora_file import LoraTarget, adapter_sha256, open_lora
from lorachain.weights.merge_report import read_merge_report
from lorachain.weights.merge_source import merge_sources
from lorachain.weights.safetensors_io import TORCH_DTYPES, StoredTensor, combine_digests, open_shards, tensor_sha256

_FLOAT32_UNIT = 2.0**-24


def verify_merge(folder: Path, *, base: Path | None = None, adapter: Path | None = None) -> MergeReport:
    """Checks a merged directory against its base and adapter, reading all three; returns its report if it is right.

    Base and adapter are expected where the report says they were, unless given. Checked: the hashes of all three; every
    tensor that is not a target has the base's bytes; every target is base + scale*B@A, computed here in float64, within
    one rounding step. Dequantized weights that updates were added to are recomputed.

    Raises:
        ModelError: a file is missing or changed, or a weight is not what the report says; names the first.
        AdapterError: the adapter is not the one that was merged.
    """
    report = read_merge_report(folder)
    if base is None and report.base_path is None:
        raise ModelError(f"the base of {folder} is called {report.base_name}; give its directory with --base")
    base = base or (folder / str(report.base_path)).resolve()
    adapter = adapter or (folder / report.adapter_path).resolve()
    for role, path in (("base", base), ("adapter", adapter)):
        if not path.is_dir():
            raise ModelError(f"the {role} of {folder} is no longer at {path}; give its directory with --{role}")
    names, merged_shards = check_weights(base), open_shards(folder)
    base_shards = names.shards
    if adapter_sha256(adapter) != report.adapter_sha256:
        raise AdapterError(f"{adapter} is not the adapter that was merged into {folder}: its hash differs")
    targets = {names.stored[f"{m}.weight"]: target for m, target in open_lora(adapter, names).targets.items()}
    recorded = report.untouched | report.dequantized | {t.tensor: t.merged_sha256 for t in report.targets}
    if {target.tensor for target in report.targets} != targets.keys():
        raise ModelError(f"{folder}: the report's targets are not the adapter's")
    if not recorded.keys() == base_shards.tensors.keys() == merged_shards.tensors.keys():
        raise ModelError(f"{folder}: base, merged weights and report do not have the same tensors")
    base_digests, merged_digests = {}, {}
    with block_workers() as workers, merge_sources(names, report.quantization, report.weights) as source_of:
        for name, tensor in merged_shards.tensors.items():
            stored = base_shards.tensors[name]
            if (tensor.dtype, tensor.shape) != (stored.dtype, stored.shape):
                raise ModelError(f"{folder}: {name} has another type or shape than in the base")
            source = source_of(stored)
            if name in targets:
                digest, merged_digests[name] = _verify_target(source, tensor, targets[name], workers)
            else:
                digest, merged_digests[name] = workers.pool.map(tensor_sha256, (source, tensor))
                if digest != merged_digests[name]:
                    raise ModelError(f"{folder}: {name} is not a target of the adapter, but differs from the base")
            base_digests[name] = digest if source is stored else tensor_sha256(stored)
            if merged_digests[name] != recorded[name]:
                raise ModelError(f"{folder}: {name} has changed since the merge")
    if combine_digests(base_shards, base_digests) != report.base_sha256:
        raise ModelError(f"{base} is not the base that {folder} was merged from: its hash differs")
    if combine_digests(merged_shards, merged_digests) != report.merged_sha256:
        raise ModelError(f"{folder}: config.json has changed since the merge")
    return report


def _verify_target(
    base: StoredTensor, merged: StoredTensor, target: LoraTarget, workers: BlockWorkers
) -> tuple[str, str]:
    """SHA-256 of the base's and the merged weight's bytes.

    Raises:
        ModelError: an element is further from base + scale*B@A than one rounding to the stored type. The merge summed
            in float32, whose own error is at most (r + 2) * 2^-24 * (|W| + scale*|B|@|A|) (Higham 2002, section 3.1).
    """
    a, b = (factor.double() for factor in target.factors())
    base_digest, merged_digest = hashlib.sha256(), hashlib.sha256()
    dtype = TORCH_DTYPES[base.dtype]

    def excess(job: tuple[tuple[slice, bytearray], tuple[slice, bytearray]]) -> tuple[bytearray, bytearray, float]:
        (rows, before), (_, after) = job
        old = torch.frombuffer(before, dtype=dtype).view(-1, base.shape[1])
        new = torch.frombuffer(after, dtype=dtype).view(-1, base.shape[1])
        expected = old.double() + target.scale * (b[rows] @ a)
        magnitude = old.double().abs() + abs(target.scale) * (b[rows].abs() @ a.abs())
        allowed = half_ulp(new).double() + (target.rank + 2) * _FLOAT32_UNIT * magnitude
        return before, after, float(((new.double() - expected).abs() / allowed).amax())

    jobs = zip(row_blocks(base), row_blocks(merged), strict=True)
    for before, after, times_allowed in workers.in_order(excess, jobs):
        base_digest.update(before)
        merged_digest.update(after)
        if not times_allowed <= 1:  # false also for NaN
            raise ModelError(
                f"{merged.file.parent}: {merged.name} is not base + scale*B@A: an element differs by "
                f"{times_allowed:.3g} times what one rounding allows"
            )
    return base_digest.hexdigest(), merged_digest.hexdigest()
