"""`lm-eval-3.0` equals lm-evaluation-harness question by question, on the task files of the harness."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers.processors import TemplateProcessing

from conftest import make_text_model, make_tokenizer
from lorachain.artifacts.evaluation import ScoredModelIdentity
from lorachain.evaluation.compare import compare_results
from lorachain.evaluation.protocols.lm_eval import LmEval, lm_eval_prompt
from lorachain.evaluation.results import summarize
from lorachain.records import LETTERS, ExamQuestion
from lorachain.tokens import TokenEncoder

WORDS = ["열", "기침 ", "A형", "간염", "정답: C", "B.", "두통", "C", " x"]


def make_questions(count: int, seed: int) -> list[ExamQuestion]:
    rng = random.Random(seed)

    def phrase() -> str:
        return "".join(rng.choice(WORDS) for _ in range(rng.randint(1, 3)))

    return [
        ExamQuestion(f"q{i}", "doctor", f" {phrase()}? ", tuple(phrase() for _ in range(5)), rng.randrange(5))  # type: ignore[arg-type]
        for i in range(count)
    ]


LIMIT = 40
QUESTIONS, SHOTS = make_questions(12, 0), make_questions(6, 1)


@pytest.fixture(scope="module")
def model():  # type: ignore[no-untyped-def]
    """A tiny model trained to answer with a letter, in several wordings and sometimes at length."""
    model = make_text_model()
    encoder = TokenEncoder(make_tokenizer())
    endings = ["\n\n", ". 열", "<eos>", " 정답: B\n\n", "번 Q: 열", "</s>"]
    rows = []
    for number, question in enumerate(QUESTIONS):
        for shots in (0, 5):
            text = lm_eval_prompt(question, SHOTS[:shots])
            answer = f" {LETTERS[number % 5]}{endings[number % len(endings)]}"
            rows.append([encoder.bos_id, *encoder.text_ids(text + answer)])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(192):
        row = rows[step % len(rows)]
        ids = torch.tensor([row])
        tail = 24
        logits = model(input_ids=ids[:, :-1]).logits[0, -tail:]
        torch.nn.functional.cross_entropy(logits, ids[0, -tail:]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    model.generation_config.eos_token_id = encoder.eos_id  # as Gemma's own; otherwise the harness generates beyond it
    model.train(False)
    return model


def harness_tasks(directory: Path) -> None:
    """Writes the template and the extraction of the harness, with local rows in place of the hub's."""
    source = Path(lm_eval.__file__).parent / "tasks" / "kormedmcqa"
    template = (source / "_template_yaml").read_text(encoding="utf-8")
    assert "sean0042/KorMedMCQA" in template
    (directory / "_template_yaml").write_text(template.replace("sean0042/KorMedMCQA", "json"), encoding="utf-8")
    shutil.copy(source / "utils.py", directory / "utils.py")
    files = {}
    for split, questions in (("test", QUESTIONS), ("fewshot", SHOTS)):
        path = directory / f"{split}.jsonl"
        rows = [
            {"question": q.question, **dict(zip(LETTERS, q.options, strict=True)), "answer": q.answer + 1}
            for q in questions
        ]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        files[split] = str(path)
    kwargs = {"data_files": files, "cache_dir": str(directory / "cache")}
    task = {"include": "_template_yaml", "task": "kormedmcqa_local", "dataset_kwargs": kwargs}
    (directory / "local.yaml").write_text(json.dumps(task), encoding="utf-8")


@pytest.mark.parametrize("shots", [0, 5])
def test_same_prompts_same_letters_same_score(  # type: ignore[no-untyped-def]
    model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shots: int
) -> None:
    # An answer that does not stop runs to the limit; 1,024 is too long for a test.
    monkeypatch.setattr("lorachain.evaluation.protocols.lm_eval.MAX_NEW_TOKENS", LIMIT)
    tokenizer = make_tokenizer()
    # As Gemma's own tokenizer adds BOS with the special tokens.
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    harness_tasks(tmp_path)
    # One at a time: in a batch the harness generates beyond a stop until all have stopped, and bytes that are no valid
    # character, of which this tokenizer gives many, then hide the stop string before them.
    harness = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, add_bos_token=True),
        tasks=["kormedmcqa_local"],
        task_manager=TaskManager(include_path=str(tmp_path)),
        num_fewshot=shots,
        bootstrap_iters=0,
        gen_kwargs={"max_gen_toks": LIMIT},
    )
    samples = sorted(harness["samples"]["kormedmcqa_local"], key=lambda sample: sample["doc_id"])
    protocol = LmEval(shots=shots, examples={"doctor": SHOTS})
    results = protocol.score(model, TokenEncoder(tokenizer), QUESTIONS)
    assert len(samples) == len(results) == len(QUESTIONS)
    for question, result, sample in zip(QUESTIONS, results, samples, strict=True):
        assert sample["arguments"][0][0] == lm_eval_prompt(question, SHOTS[:shots])
        assert result.generation == sample["resps"][0][0]
        assert ("" if result.chosen is None else LETTERS[result.chosen]) == sample["filtered_resps"][0]
        assert result.correct == bool(sample["exact_match"])
    score = harness["results"]["kormedmcqa_local"]["exact_match,extract_answer"]
    assert score == pytest.approx(sum(result.correct for result in results) / len(results))
    assert len({result.chosen for result in results}) > 2  # so that agreement is no coincidence
    theirs = written_by_the_harness(harness, tmp_path)
    ours = tmp_path / "ours.json"
    identity = ScoredModelIdentity(name="ours", base_sha256=None, adapter_sha256=None, quantization="none")
    summarize(QUESTIONS, results, protocol, out=ours, model=identity, split="test", selection={}, seconds=1.0)
    comparison = compare_results(theirs, ours)
    assert (comparison.n, comparison.gained, comparison.lost) == (len(QUESTIONS), (), ())
    assert comparison.settings == {"shots": shots, "max_new_tokens": LIMIT}
    assert "lm-eval 0.4.13" in comparison.a.model.name


def written_by_the_harness(harness: dict[str, Any], directory: Path) -> Path:
    """Writes a run as `lm_eval --log_samples --output_path` does; returns the directory of the model."""
    samples = harness.pop("samples")
    tracker = EvaluationTracker(output_path=str(directory / "out"))
    tracker.general_config_tracker.model_name = "tiny"
    tracker.general_config_tracker.model_name_sanitized = "tiny"
    tracker.save_results_aggregated(results=harness, samples=samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task_name=task, samples=rows)
    return directory / "out" / "tiny"
