"""TRL's GRPOTrainer with what `export-rewards` writes: the prompts as a data set, the rewards as an import."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import make_text_model, make_tokenizer
from lorachain.data.exam import load_exam
from lorachain.export.rewards import REWARD_FILE, export_rewards
from lorachain.records import LETTERS
from lorachain.weights.lora import PeftModel, add_new_lora

REASONING = "환자의 증상과 검사 소견을 차례로 살펴보면 이 보기가 가장 알맞다."
GENERATIONS = 4


def reward_functions(folder: Path) -> list[Any]:
    """As a script of the user's imports them."""
    spec = importlib.util.spec_from_file_location("lorachain_rewards", folder / REWARD_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [module.answer_reward, module.format_reward, module.language_reward, module.shuffle_reward]


def lora_b(model: PeftModel) -> list[Tensor]:
    return [p.detach().clone() for name, p in sorted(model.named_parameters()) if "lora_B" in name]


@pytest.mark.parametrize("varied", [True, False])
def test_a_step_moves_lora_b_where_rewards_vary_and_leaves_it_where_they_do_not(tmp_path: Path, varied: bool) -> None:
    """The completions are scripted: every second one is wrong, or all are right. All else is TRL's."""
    trl = pytest.importorskip("trl", reason="trl is not installed (pip install 'lorachain[bench]')")
    datasets = pytest.importorskip("datasets")
    export_rewards(load_exam(["sample"], "train").questions[:2], tmp_path / "rewards", orders=2, seed=0)
    files = str(tmp_path / "rewards" / "trl" / "train.jsonl")
    prompts = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    row_of = {row["prompt"][0]["content"]: row for row in prompts}
    tokenizer = make_tokenizer(chat=True)

    def rollout(asked: list[Any], trainer: Any) -> dict[str, Any]:
        completions = []
        for number, messages in enumerate(asked):
            row = row_of[messages[0]["content"]]
            option = (row["answer"] + (number % 2 if varied else 0)) % 5
            text = f"{REASONING}\n정답： {LETTERS[option]}. {row['options'][option]}"
            completions.append([*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id])
        rendered = [tokenizer.apply_chat_template(m, add_generation_prompt=True, return_dict=True) for m in asked]
        return {"prompt_ids": [r["input_ids"] for r in rendered], "completion_ids": completions, "logprobs": None}

    model = add_new_lora(
        make_text_model(), base_path="b", rank=2, alpha=4, dropout=0.0, use_rslora=False,
        target_modules=["q_proj", "v_proj"], seed=0,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=reward_functions(tmp_path / "rewards"),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path / "run"),
            per_device_train_batch_size=GENERATIONS,
            num_generations=GENERATIONS,
            max_completion_length=512,
            max_steps=1,
            learning_rate=1e-2,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
        ),
        train_dataset=prompts,
        processing_class=tokenizer,
        rollout_func=rollout,
    )
    before = lora_b(model)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["rewards/answer_reward/mean"] == (0.5 if varied else 1.0)
    assert logged["rewards/format_reward/mean"] == logged["rewards/language_reward/mean"] == 1.0
    moved = [not torch.equal(a, b) for a, b in zip(before, lora_b(model), strict=True)]
    assert moved
    assert all(moved) == any(moved) == varied
