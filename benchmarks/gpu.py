"""Everything that is to be known of a GPU, in one run that may be cut at any time: `make bench-gpu`.

    python benchmarks/gpu.py --out gpu.jsonl                                    # on the machine with the GPU
    python benchmarks/gpu.py --out gpu.jsonl --tokenizer tok --workload-file workload-00.json
    python benchmarks/gpu.py --prepare DIR                                      # elsewhere: tokenizer and workloads
    python benchmarks/gpu.py --out tiny.jsonl --size tiny --device cpu          # tries the script itself

Each step runs in a process of its own, at most `--minutes` minutes. A result is a line of JSON, on disk as soon as it
is measured; started again with the same `--out`, the run continues with the steps that are not finished. Without
`--workload-file`, stages are trained on random ids of similar lengths. What is not installed (TRL, flash-attn, Liger,
Unsloth, vLLM, bitsandbytes) is left out, and the reason is a line too. Models have random weights in MedGemma's shapes,
so that none needs to be downloaded.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
}  # fmt: skip
STEPS = ("tests", "attention", "train", "train-27b-nf4", "memory", "generate", "repeat")


def step_function(name: str) -> Callable[..., None]:
    """Imported where it runs: each needs torch, and some need what is not installed everywhere."""
    from gpu_bench import attention, generation, kept_memory, repeat, train

    functions: dict[str, Callable[..., None]] = {
        "attention": attention.run, "train": train.run, "train-27b-nf4": train.run_27b, "memory": kept_memory.run,
        "generate": generation.run, "repeat": repeat.run,
    }  # fmt: skip
    return functions[name]


def run_child(name: str, request: str) -> None:
    """Runs a step in this process; its last line is its status."""
    from gpu_bench.records import DONE, SKIPPED, Setting, StepSkippedError

    content = json.loads(request)
    setting = Setting(**{**content, "workloads": tuple(content["workloads"])})
    start = time.monotonic()
    try:
        step_function(name)(setting)
    except StepSkippedError as reason:
        setting.write(name, status=SKIPPED, reason=str(reason))
        return
    setting.write(name, status=DONE, seconds=round(time.monotonic() - start, 1))


def command_of(name: str, request: str, options: argparse.Namespace) -> list[str]:
    if name != "tests":
        return [sys.executable, __file__, "--child", name, "--request", request]
    files = (ROOT / "tests" / "gpu_tests.txt").read_text(encoding="utf-8").split()  # as `make test-gpu`
    files = ["tests/training/test_optimizer.py"] if options.size == "tiny" else files  # which shows that the step runs
    return [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short", *files]


def run_step(name: str, request: str, options: argparse.Namespace) -> None:
    from gpu_bench.records import CUT, DONE, FAILED, append, finished

    start = time.monotonic()
    device = "cuda:0" if options.device == "cuda" else options.device
    environment = {**os.environ, **ENVIRONMENT, "LORACHAIN_TEST_DEVICE": device}
    log = options.out.with_suffix(f".{name}.log")
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command_of(name, request, options), cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        code: int | None = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(60 * options.minutes)
        finally:
            if process.poll() is None:  # with whatever it has started: compilers, vLLM's workers
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    seconds = round(time.monotonic() - start, 1)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1][:500] if lines else ""
    if code is None:
        append(options.out, {"step": name, "status": CUT, "seconds": seconds, "reason": f"{options.minutes} minutes"})
    elif name == "tests":
        status = DONE if code == 0 else FAILED
        failed = [line.removeprefix("FAILED ")[:300] for line in lines if line.startswith("FAILED ")]
        append(options.out, {"step": name, "status": status, "seconds": seconds, "summary": last, "failed": failed})
    elif name not in finished(options.out):
        append(options.out, {"step": name, "status": FAILED, "seconds": seconds, "reason": last, "log": log.name})


def machine(device: str) -> dict[str, object]:
    """What the figures were measured on."""
    import torch

    from training import versions

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    return {"step": "machine", "device": device, "name": name, "cuda": torch.version.cuda, "versions": versions()}


def prepare(directory: Path, pack_length: int) -> None:
    """Writes tokenized workloads and the tokenizer, to take to a machine without the embedded model."""
    from lorachain.embedded_model import embedded_weights
    from lorachain.tokens import TokenEncoder
    from lorachain.weights.load import TOKENIZER_FILES, load_tokenizer
    from training_bench.workloads import build, write_workload

    weights, tokenizer = embedded_weights(), directory / "tokenizer"
    tokenizer.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (weights / name).exists():
            shutil.copyfile(weights / name, tokenizer / name)
    encoder, real = TokenEncoder(load_tokenizer(weights)), os.environ.get("LORACHAIN_REAL_DATA")
    for name in ("00", "02"):
        workload = build(name, encoder, Path(real) if real else None, pack_length=pack_length)
        write_workload(workload, directory / f"workload-{name}.json")
        print(directory / f"workload-{name}.json", f"{len(workload.packs)} packs of {workload.source}")


def embedded_tokenizer() -> str | None:
    """The directory of the embedded model's tokenizer, where the package is installed."""
    from lorachain.embedded_model import embedded_weights
    from lorachain.errors import LorachainError

    try:
        return str(embedded_weights())
    except LorachainError:
        return None


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"), help="lines of JSON are added to this file")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default="full", choices=["full", "tiny"])
    parser.add_argument("--steps", nargs="+", default=STEPS, choices=STEPS)
    parser.add_argument("--minutes", type=float, default=8.0, help="of one step, at most")
    parser.add_argument("--tokenizer", help="a directory; default: that of the embedded model, where it is installed")
    parser.add_argument("--workload-file", nargs="+", default=[], help="tokenized rows, of --prepare")
    parser.add_argument("--prepare", type=Path, metavar="DIR", help="write workloads and the tokenizer, and stop")
    parser.add_argument("--pack-length", type=int, default=2048, help="of --prepare")
    parser.add_argument("--child", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--request", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    sys.path.insert(0, str(ROOT / "src"))
    options = parse()
    if options.child:
        run_child(options.child, options.request)
        return
    if options.prepare:
        prepare(options.prepare, options.pack_length)
        return
    from gpu_bench.records import Setting, append, finished, read

    options.out = options.out.resolve()
    setting = Setting(
        device=options.device, size=options.size, out=str(options.out),
        tokenizer=options.tokenizer or embedded_tokenizer(),
        workloads=tuple(str(Path(path).resolve()) for path in options.workload_file), minutes=options.minutes,
    )  # fmt: skip
    append(options.out, machine(options.device))
    for name in options.steps:
        if name in finished(options.out):
            print(f"{name}: finished before", flush=True)
            continue
        run_step(name, json.dumps(asdict(setting)), options)
        print(json.dumps([record for record in read(options.out) if record["step"] == name][-1]), flush=True)


if __name__ == "__main__":
    main()
