"""Exam questions as prompts for GRPO in TRL and ms-swift, with rewards that both import."""

import random
from collections.abc import Sequence
from pathlib import Path

from lorachain.atomic import atomic_folder, atomic_write_text
from lorachain.data.exam_writer import write_json_lines
from lorachain.errors import DataError
from lorachain.prompts import REASONING_INSTRUCTION, options_depend_on_order, question_block
from lorachain.provenance import write_json
from lorachain.reasoning.orders import in_order, sample_order
from lorachain.reasoning.sample import question_key
from lorachain.records import ExamQuestion

REWARD_FILE = "lorachain_rewards.py"
_REWARDS = '''"""Rewards of lorachain for GRPO: written by `lorachain export-rewards`; needs lorachain to be installed.

TRL:       from lorachain_rewards import answer_reward, format_reward, language_reward, shuffle_reward
           GRPOTrainer(..., reward_funcs=[answer_reward, format_reward, language_reward, shuffle_reward])
ms-swift:  swift rlhf --rlhf_type grpo --external_plugins lorachain_rewards.py
           --reward_funcs lorachain_answer lorachain_format lorachain_language lorachain_shuffle
"""

from lorachain.reasoning.rewards import REWARDS, answer_reward, format_reward, language_reward, shuffle_reward

__all__ = ["answer_reward", "format_reward", "language_reward", "shuffle_reward"]

try:
    from swift.rewards import ORM, orms
except ImportError:
    try:
        from swift.plugin import ORM, orms
    except ImportError:
        ORM, orms = None, {}

if ORM is not None:

    def _orm(function):
        class Reward(ORM):
            def __call__(self, completions, **columns):
                return function(completions, **columns)

        return Reward

    orms.update({name: _orm(function) for name, function in REWARDS.items()})
'''


def export_rewards(questions: Sequence[ExamQuestion], out: Path, *, orders: int, seed: int) -> dict[str, int]:
    """Writes `trl/train.jsonl`, `swift/train.jsonl` and the reward file; returns how many rows and questions.

    A question comes in `orders` orders of its options, or in its own where they depend on it.

    Raises:
        DataError: no question. WorkspaceError: `out` exists and is not a directory of ours.
    """
    if not questions:
        raise DataError("export-rewards: the train split has no question that may be trained on")
    rows = [_row(shown) for question in questions for shown in _orders(question, orders, seed)]
    random.Random(seed).shuffle(rows)
    with atomic_folder(out) as staging:
        prompts = [{"prompt": [{"role": "user", "content": row["content"]}], **_columns(row)} for row in rows]
        write_json_lines(staging / "trl" / "train.jsonl", prompts)
        messages = [{"messages": [{"role": "user", "content": row["content"]}], **_columns(row)} for row in rows]
        write_json_lines(staging / "swift" / "train.jsonl", messages)
        atomic_write_text(staging / REWARD_FILE, _REWARDS)
        write_json(staging / "manifest.json", {"questions": len(questions), "rows": len(rows), "orders": orders})
    return {"questions": len(questions), "rows": len(rows)}


def _orders(question: ExamQuestion, count: int, seed: int) -> list[ExamQuestion]:
    if options_depend_on_order(question):
        return [question]
    return [in_order(question, sample_order(question, number, seed)) for number in range(count)]


def _row(question: ExamQuestion) -> dict[str, object]:
    return {
        "content": f"{question_block(question)}\n{REASONING_INSTRUCTION}",
        "question_id": question_key(question),
        "question": question.question,
        "options": list(question.options),
        "answer": question.answer,
        "solution": f"{question.answer_letter}. {question.answer_text}",
    }


def _columns(row: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if name != "content"}
