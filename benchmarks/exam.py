"""Speed and memory of evaluation: lorachain, lm-evaluation-harness and a plain transformers loop, in one run.

    python benchmarks/exam.py --model DIR --exam DIR [--questions 128] [--rounds 3]

The model is a directory of Gemma 3 weights, the exam a directory of KorMedMCQA (per subject: dev and few-shot files).
Each contender runs in a process of its own on the same questions, in alternating rounds. Loading is excluded, and the
median round is compared. Memory is the peak above what was in use when the model was loaded. The harness is first timed
at each of `--harness-batch-sizes`, and the rounds use the fastest; the output also says how many letters its batch
sizes agree on. `--only` selects contenders. Figures from a machine that does other work at the same time mean little.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTENDERS = (
    "harness", "lm-eval-3.0", "plain", "plain-sorted", "letters", "letters-5-orders", "letters-5-shot", "options",
)  # fmt: skip


def load_questions(exam: str, count: int) -> tuple[list[Any], dict[str, list[Any]]]:
    """The first dev questions, spread over the subjects, and the worked examples of each subject."""
    from lorachain.data.exam import load_exam

    questions = load_exam([exam], "dev", max_samples=count).questions
    examples: dict[str, list[Any]] = {}
    for question in load_exam([exam], "fewshot").questions:
        examples.setdefault(question.subject, []).append(question)
    return questions, examples


def plain_loop(model: Any, encoder: Any, questions: list[Any], *, tuned: bool) -> list[str]:
    """The obvious loop: batches of 8, padded on the left, logits read at the last position.

    `tuned` adds `logits_to_keep=1` and sorting by length.
    """
    import torch

    from lorachain.evaluation.scoring import letter_tokens
    from lorachain.prompts import answer_prompt

    letters = letter_tokens(encoder)
    prompts = [encoder.prompt_ids(answer_prompt(question)) for question in questions]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i])) if tuned else list(range(len(prompts)))
    chosen = [""] * len(prompts)
    device = next(model.parameters()).device
    with torch.inference_mode():
        for start in range(0, len(order), 8):
            batch = order[start : start + 8]
            width = max(len(prompts[i]) for i in batch)
            ids = torch.full((len(batch), width), encoder.pad_id)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(batch):
                ids[row, width - len(prompts[i]) :] = torch.tensor(prompts[i])
                mask[row, width - len(prompts[i]) :] = 1
            keep = {"logits_to_keep": 1} if tuned else {}
            logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), **keep).logits[:, -1]
            for i, letter in zip(batch, logits[:, letters.ids].argmax(-1).tolist(), strict=True):
                chosen[i] = "ABCDE"[letter]
    return chosen


def harness(model: Any, tokenizer: Any, questions: list[Any], examples: dict[str, list[Any]], batch: str) -> list[str]:
    """lm-evaluation-harness with its own task files on the same questions, with 5 worked examples."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from lorachain.records import LETTERS

    source = Path(lm_eval.__file__).parent / "tasks" / "kormedmcqa"
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        template = (source / "_template_yaml").read_text(encoding="utf-8")
        (directory / "_template_yaml").write_text(template.replace("sean0042/KorMedMCQA", "json"), encoding="utf-8")
        (directory / "utils.py").write_text((source / "utils.py").read_text(encoding="utf-8"), encoding="utf-8")
        members: dict[str, list[int]] = {}
        for index, question in enumerate(questions):
            members.setdefault(question.subject, []).append(index)
        for subject, indices in members.items():
            files = {}
            for split, members_of_split in (("test", [questions[i] for i in indices]), ("fewshot", examples[subject])):
                path = directory / f"{subject}-{split}.jsonl"
                rows = [
                    {"question": q.question, **dict(zip(LETTERS, q.options, strict=True)), "answer": q.answer + 1}
                    for q in members_of_split
                ]
                path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
                files[split] = str(path)
            task = {
                "include": "_template_yaml",
                "task": f"local_{subject}",
                "dataset_kwargs": {"data_files": files, "cache_dir": str(directory / "cache")},
            }
            (directory / f"{subject}.yaml").write_text(json.dumps(task), encoding="utf-8")
        result = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch if batch == "auto" else int(batch)),
            tasks=[f"local_{subject}" for subject in members],
            task_manager=TaskManager(include_path=name),
            num_fewshot=5,
            bootstrap_iters=0,
        )
        chosen = [""] * len(questions)
        for subject, indices in members.items():
            for sample in result["samples"][f"local_{subject}"]:
                chosen[indices[sample["doc_id"]]] = sample["filtered_resps"][0]
    return chosen


def run_one(arguments: argparse.Namespace) -> None:
    """Runs one contender in this process; prints one line of JSON."""
    import torch

    from lorachain.evaluation.protocols.base import batches
    from lorachain.evaluation.protocols.registry import make_protocol
    from lorachain.memory import peak, reset_peak
    from lorachain.records import LETTERS
    from lorachain.tokens import TokenEncoder
    from lorachain.weights.load import load_model, load_tokenizer, resolve_device

    device = resolve_device(arguments.device)
    model = load_model(Path(arguments.model), device, getattr(torch, arguments.dtype))
    if arguments.run in ("harness", "plain", "plain-sorted"):
        model.set_attn_implementation("sdpa")  # transformers' own default
    tokenizer = load_tokenizer(Path(arguments.model))
    encoder = TokenEncoder(tokenizer)
    questions, examples = load_questions(arguments.exam, arguments.questions)

    def protocol(name: str, **settings: Any) -> Callable[[], list[str]]:
        def run() -> list[str]:
            scorer = make_protocol(name, examples=examples, **settings)
            chosen = [""] * len(questions)
            for batch in batches(questions, scorer.batch_questions):
                results = scorer.score(model, encoder, [questions[i] for i in batch])
                for i, result in zip(batch, results, strict=True):
                    chosen[i] = "" if result.chosen is None else LETTERS[result.chosen]
            return chosen

        return run

    contenders: dict[str, Callable[[], list[str]]] = {
        "harness": lambda: harness(model, tokenizer, questions, examples, arguments.batch),
        "lm-eval-3.0": protocol("lm-eval-3.0", shots=5),
        "plain": lambda: plain_loop(model, encoder, questions, tuned=False),
        "plain-sorted": lambda: plain_loop(model, encoder, questions, tuned=True),
        "letters": protocol("letters"),
        "letters-5-orders": protocol("letters", rotations=5),
        "letters-5-shot": protocol("letters", shots=5),
        "options": protocol("options"),
    }
    reset_peak(device)
    loaded = peak(device)
    start = time.monotonic()
    chosen = contenders[arguments.run]()
    seconds = time.monotonic() - start
    print(json.dumps({"seconds": seconds, "peak_mb": (peak(device) - loaded) / 2**20, "chosen": chosen}))


def measure(arguments: argparse.Namespace, contender: str, batch: str = "") -> dict[str, Any]:
    """Runs a contender in a process of its own."""
    command = [
        sys.executable, __file__, "--model", arguments.model, "--exam", arguments.exam, "--device", arguments.device,
        "--dtype", arguments.dtype, "--questions", str(arguments.questions), "--run", contender, "--batch", batch,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise SystemExit(f"{contender} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def best_batch(arguments: argparse.Namespace) -> str:
    """The harness's fastest batch size; prints the speed of each, and how many letters equal those of the first."""
    results = {batch: measure(arguments, "harness", batch) for batch in arguments.harness_batch_sizes}
    first = arguments.harness_batch_sizes[0]
    for batch, result in results.items():
        same = same_letters(result, results[first])
        rate = arguments.questions / result["seconds"]
        print(f"harness, batch {batch:4} {rate:8.2f} questions/s   {same} letters as at batch {first}", flush=True)
    return min(results, key=lambda batch: float(results[batch]["seconds"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--exam", required=True)
    parser.add_argument("--questions", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--harness-batch-sizes", nargs="+", default=["4", "8", "16"])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--out", type=Path, default=None, help="also write the figures of all rounds to this JSON file")
    parser.add_argument("--run", choices=CONTENDERS, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--batch", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run_one(arguments)
        return
    batch = best_batch(arguments) if "harness" in arguments.only else ""
    rounds: dict[str, list[dict[str, Any]]] = {contender: [] for contender in arguments.only}
    for _ in range(arguments.rounds):
        for contender, measured in rounds.items():
            measured.append(measure(arguments, contender, batch))
    summaries = {contender: summary(measured) for contender, measured in rounds.items()}
    for contender, result in summaries.items():
        rates = [arguments.questions / result[key] for key in ("seconds", "slowest", "fastest")]
        print(
            f"{contender:18} {rates[0]:8.2f} questions/s ({rates[1]:.2f} to {rates[2]:.2f})"
            f"   {result['peak_mb']:8.0f} MB above the model"
        )
    for line in ratios(summaries):
        print(line)
    if arguments.out:
        arguments.out.write_text(json.dumps({"batch": batch, "rounds": rounds}, indent=2) + "\n", encoding="utf-8")


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds; the chosen letters are the same in each."""
    seconds = [result["seconds"] for result in rounds]
    return {
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "peak_mb": statistics.median(result["peak_mb"] for result in rounds),
        "chosen": rounds[0]["chosen"],
    }


def same_letters(a: dict[str, Any], b: dict[str, Any]) -> str:
    agree = sum(x == y for x, y in zip(a["chosen"], b["chosen"], strict=True))
    return f"{agree} of {len(a['chosen'])}"


def ratios(summaries: dict[str, dict[str, Any]]) -> list[str]:
    """The ratios that have a target (docs/benchmarks.md), for the contenders that ran."""
    lines = []
    for name, other, what, target in (
        ("lm-eval-3.0", "harness", "times the speed of the harness", "at least 4"),
        ("letters", "plain", "times the speed of the plain loop", "at least 3"),
        ("letters", "plain-sorted", "times the speed of the sorted loop with logits_to_keep", "at least 1.2"),
    ):
        if name in summaries and other in summaries:
            ratio = summaries[other]["seconds"] / summaries[name]["seconds"]
            letters = same_letters(summaries[name], summaries[other])
            lines.append(f"{name}: {ratio:.2f} {what} (target: {target}); {letters} letters identical")
    for name, other, what, target in (
        ("letters-5-orders", "letters", "times the cost of one order", "at most 3.5"),
        ("letters-5-shot", "letters", "times the cost of 0-shot", "at most 1.5"),
    ):
        if name in summaries and other in summaries:
            ratio = summaries[name]["seconds"] / summaries[other]["seconds"]
            lines.append(f"{name}: {ratio:.2f} {what} (target: {target})")
    if "letters" in summaries and "plain" in summaries:
        share = summaries["letters"]["peak_mb"] / summaries["plain"]["peak_mb"]
        lines.append(f"letters: {share:.2f} of the peak memory of the plain loop above the model (target: at most 0.3)")
    return lines


if __name__ == "__main__":
    main()
