"""Merging a LoRA: lorachain against PEFT's merge_and_unload, in one run.

    python benchmarks/merge.py --work DIR                    # a random base of medgemma-4b's shape (8.6 GB in bf16)
    python benchmarks/merge.py --work DIR --shape small      # a one-minute trial
    python benchmarks/merge.py --work DIR --base DIR         # any Gemma 3 directory

Each contender runs in a process of its own, in alternating order, from the same files: base and adapter on disk to a
merged directory on disk, flushed. Seconds count from after the imports. Two peaks of memory are measured: resident
(what the system counts, mapped files included) and anonymous (what cannot be dropped, sampled every 10 ms). The merged
weights of the first round are compared bit by bit. Needs disk space for three times the base.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    SiglipVisionConfig,
)
from transformers.core_model_loading import revert_weight_conversion

from lorachain.atomic import sync_tree
from lorachain.memory import peak
from lorachain.weights.merge import merge_adapter
from lorachain.weights.parameter_names import read_parameter_names
from lorachain.weights.safetensors_io import INDEX_FILE, open_shards, tensor_sha256

CONTENDERS = ("lorachain", "peft")
SHARD_BYTES = 5_000_000_000  # as of medgemma-4b on the hub, which has two files


def gemma_config(shape: str) -> Gemma3Config:
    """The configuration of google/medgemma-4b-it, or a small one of the same class."""
    if shape == "4b":
        text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "vocab_size": 262208}
        text |= {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
        vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    else:
        text = {"hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 6, "vocab_size": 32000}
        text |= {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256}
        vision = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Gemma3Config(
        text_config=Gemma3TextConfig(**text),
        vision_config=SiglipVisionConfig(**vision, image_size=896, patch_size=14, vision_use_head=False),
        mm_tokens_per_image=256,
        dtype="bfloat16",
        architectures=["Gemma3ForConditionalGeneration"],
    )


def make_base(directory: Path, shape: str) -> None:
    """Writes random bf16 weights under the hub's tensor names, without holding more than two tensors in memory."""
    directory.mkdir(parents=True)
    config = gemma_config(shape)
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(config)
    shapes = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    names = {
        name.replace("vision_tower.", "vision_tower.vision_model."): tuple(tensor.shape)
        for name, tensor in revert_weight_conversion(model, shapes).items()
    }
    files: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, dimensions in names.items():
        nbytes = 2 * torch.Size(dimensions).numel()
        if size + nbytes > SHARD_BYTES:
            files.append({})
            size = 0
        files[-1][name] = dimensions
        size += nbytes
    pool = (torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    weight_map = {}
    for number, content in enumerate(files, start=1):
        file = f"model-{number:05}-of-{len(files):05}.safetensors"
        weight_map |= dict.fromkeys(content, file)
        write_random(directory / file, content, pool)
    total = sum(2 * torch.Size(dimensions).numel() for dimensions in names.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=2), encoding="utf-8")
    config.save_pretrained(directory)


def write_random(file: Path, content: dict[str, tuple[int, ...]], pool: torch.Tensor) -> None:
    """Streams one shard; each tensor is another slice of the pool of random numbers."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dimensions in content.items():
        start, end = end, end + 2 * torch.Size(dimensions).numel()
        header[name] = {"dtype": "BF16", "shape": dimensions, "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with file.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for number, dimensions in enumerate(content.values()):
            left = torch.Size(dimensions).numel()
            offset = number * 7919 % (len(pool) // 2)
            while left:
                part = pool[offset : offset + left]
                stream.write(part.view(torch.uint8).numpy().data)
                left, offset = left - len(part), 0


def make_adapter(base: Path, directory: Path, rank: int) -> None:
    """Writes a LoRA on every linear layer of the language model, with B far from zero."""
    directory.mkdir(parents=True)
    generator = torch.Generator().manual_seed(1)
    tensors, targets = {}, []
    for name, module in read_parameter_names(open_shards(base)).model.named_modules():
        if isinstance(module, nn.Linear) and ".layers." in name and "vision" not in name:
            targets.append(name)
            a = torch.randn(rank, module.in_features, generator=generator) * module.in_features**-0.5
            b = torch.randn(module.out_features, rank, generator=generator) * 0.01
            tensors[f"base_model.model.{name}.lora_A.weight"] = a
            tensors[f"base_model.model.{name}.lora_B.weight"] = b
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, base_model_name_or_path=str(base))
    config.save_pretrained(directory)


def merge_with_lorachain(base: Path, adapter: Path, out: Path) -> None:
    merge_adapter(base, adapter, out)


def merge_with_peft(base: Path, adapter: Path, out: Path) -> None:
    kind = json.loads((base / "config.json").read_text(encoding="utf-8"))["model_type"]
    auto = AutoModelForCausalLM if kind == "gemma3_text" else AutoModelForImageTextToText
    model = PeftModel.from_pretrained(auto.from_pretrained(base, dtype="auto"), str(adapter))
    model.merge_and_unload().save_pretrained(out, max_shard_size="5GB")
    sync_tree(out)


MERGERS: dict[str, Callable[[Path, Path, Path], None]] = {"lorachain": merge_with_lorachain, "peft": merge_with_peft}


def anonymous_megabytes() -> float:
    """Anonymous memory of this process now, in MB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit("/proc/self/status has no RssAnon; this benchmark needs Linux")


def peak_megabytes() -> float:
    """Peak resident memory of this process, in MB."""
    return peak(torch.device("cpu")) / 1e6


def measure(contender: str, base: Path, adapter: Path, out: Path) -> dict[str, float]:
    """Runs one contender in this process."""
    before = peak_megabytes()
    anonymous, finished = [anonymous_megabytes()], threading.Event()

    def sample() -> None:
        while not finished.wait(0.01):
            anonymous.append(anonymous_megabytes())

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    start = time.perf_counter()
    MERGERS[contender](base, adapter, out)
    seconds = time.perf_counter() - start
    finished.set()
    sampler.join()
    return {
        "seconds": seconds,
        "resident_mb": peak_megabytes(),
        "anonymous_mb": max(anonymous),
        "imports_mb": before,
    }


def in_own_process(contender: str, base: Path, adapter: Path, out: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--contender", contender, *map(str, (base, adapter, out))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{contender} failed:\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def equal_weights(ours: Path, theirs: Path) -> tuple[int, int]:
    """How many parameters have the same bits in both directories, and how many there are."""
    a, b = read_parameter_names(open_shards(ours)), read_parameter_names(open_shards(theirs))
    names = a.stored.keys() & b.stored.keys()
    digests = ((tensor_sha256(x.shards.tensors[x.stored[n]]) for x in (a, b)) for n in names)
    return sum(len(set(pair)) == 1 for pair in digests), len(a.stored.keys() | b.stored.keys())


def run(work: Path, base: Path, rank: int, rounds: int) -> dict[str, object]:
    adapter = work / "adapter"
    if not adapter.exists():
        make_adapter(base, adapter, rank)
    results: dict[str, list[dict[str, float]]] = {contender: [] for contender in CONTENDERS}
    equal = None
    for number in range(rounds):
        order = CONTENDERS if number % 2 == 0 else CONTENDERS[::-1]
        for contender in order:
            results[contender].append(in_own_process(contender, base, adapter, work / f"out-{contender}"))
            print(f"round {number + 1} {contender:10} {results[contender][-1]}", flush=True)
            if number:
                shutil.rmtree(work / f"out-{contender}")
        if number == 0:
            equal = equal_weights(*(work / f"out-{contender}" for contender in CONTENDERS))
            for contender in CONTENDERS:
                shutil.rmtree(work / f"out-{contender}")
    median = {c: {key: statistics.median(r[key] for r in runs) for key in runs[0]} for c, runs in results.items()}
    return {
        "base_bytes": open_shards(base).total_bytes,
        "rank": rank,
        "rounds": results,
        "median": median,
        "equal": equal,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="a directory for base, adapter and results; default: a temporary one")
    parser.add_argument("--base", type=Path, help="a Gemma 3 directory; default: random weights of --shape")
    parser.add_argument("--shape", choices=["4b", "small"], default="4b")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", nargs=4, metavar=("NAME", "BASE", "ADAPTER", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        name, *directories = arguments.contender
        print(json.dumps(measure(name, *map(Path, directories))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        base = arguments.base or work / f"base-{arguments.shape}"
        if not base.exists():
            make_base(base, arguments.shape)
        result = run(work, base, arguments.rank, arguments.rounds)
        (work / "merge.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
    print(f"\nbase {result['base_bytes'] / 1e9:.2f} GB, rank {result['rank']}, median of {arguments.rounds} rounds")
    print(f"{'':10} {'seconds':>8} {'resident MB':>12} {'anonymous MB':>13}")
    for contender, m in result["median"].items():
        print(f"{contender:10} {m['seconds']:8.1f} {m['resident_mb']:12.0f} {m['anonymous_mb']:13.0f}")
    same, total = result["equal"]
    print(f"parameters with the same bits: {same} of {total}")


if __name__ == "__main__":
    main()
