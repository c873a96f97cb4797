"""Checks of a model in memory: packed documents are isolated, an adapter has an effect."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from lorachain.artifacts import Check
from lorachain.doctor.findings import failure, ok, warning
from lorachain.inference.eval_mode import eval_mode
from lorachain.prompts import Prompt
from lorachain.tokens import TokenEncoder, TokenRow, collate_packed
from lorachain.weights.attention_choice import takes_segments
from lorachain.weights.load import text_decoder
from lorachain.weights.logit_diff import probe_logits
from lorachain.weights.lora import PeftModel
from lorachain.weights.segments import sequence_options

_DOCUMENTS = (
    "고혈압은 혈압이 정상보다 높은 상태가 지속되는 질환으로, 심장과 혈관에 부담을 준다.",
    "당뇨병은 인슐린의 분비나 작용에 이상이 생겨 혈당이 높아지는 만성 대사 질환이다.",
)
PROBES = (
    Prompt("용어: 고혈압", "뜻:"),
    Prompt("뜻: 혈당이 높은 상태가 지속되는 대사 질환", "용어:"),
    Prompt("용어: 폐렴", "영어:"),
    Prompt("다음 중 심장의 판막이 아닌 것은?\nA. 승모판\nB. 삼첨판\nC. 대동맥판\nD. 폐동맥판\nE. 회맹판", "정답："),
)
_LEAK = 1e-3
"""Largest change of a hidden state relative to the largest state: masked keys have a weight of exactly 0, so that
nothing but another order of summation could change a state at all."""


def check_isolation(model: nn.Module, encoder: TokenEncoder) -> Iterator[Check]:
    """Two documents in one pack: changing the first must move no hidden state of the second."""
    first, second = (TokenRow([encoder.bos_id, *encoder.text_ids(text)], 1) for text in _DOCUMENTS)
    changed = TokenRow([encoder.bos_id, *reversed(first.ids[1:])], 1)
    with eval_mode(model):
        states, after = (_states(model, [row, second], encoder.pad_id) for row in (first, changed))
    scale = float(states.abs().max())
    difference = (states - after).abs()
    moved = float(difference[: len(first)].max()) / scale
    leaked = float(difference[len(first) :].max()) / scale
    device = next(model.parameters()).device
    if leaked <= _LEAK and moved > 0:
        yield ok(
            "attention isolation", f"on {device}, changing a packed document moves the next one's states by {leaked:g}"
        )
        return
    yield failure(
        "attention isolation",
        f"on {device}, documents that are packed into one row see each other: changing one moves the next one's states "
        f"by {leaked:.1%}, its own by {moved:.1%}",
        "install the versions of torch and transformers in constraints.txt, or use another device",
    )


def _states(model: nn.Module, rows: list[TokenRow], pad_id: int) -> Tensor:
    """Hidden states of one pack, (T, H) float32, computed as in training."""
    decoder = text_decoder(model)
    batch = collate_packed([rows], pad_id)
    device = next(decoder.parameters()).device
    packing: dict[str, Any] = {}
    if takes_segments(decoder):
        packing = sequence_options(cast(Tensor, batch.bounds).to(device), batch.longest)
    states: Tensor = decoder(
        input_ids=batch.input_ids.to(device), position_ids=batch.position_ids.to(device), use_cache=False, **packing
    ).last_hidden_state
    return states[0].float().cpu()


def check_adapter(model: nn.Module, encoder: TokenEncoder) -> Iterator[Check]:
    """An adapter that was trained changes the logits of its base; a new one (B = 0) changes none."""
    if not isinstance(model, PeftModel):
        return
    rows = [encoder.prompt_ids(prompt) for prompt in PROBES]
    with eval_mode(model):
        tuned = probe_logits(model, rows)
        with model.disable_adapter():
            base = probe_logits(model, rows)
    largest = float((tuned - base).abs().max())
    trained = any(bool(parameter.any()) for name, parameter in model.named_parameters() if ".lora_B." in name)
    if trained and largest == 0:
        yield failure(
            "adapter",
            f"its factors are not zero, but it changes none of {len(rows)} prompts' logits",
            "install the versions of peft and transformers in constraints.txt",
        )
    elif trained:
        kl = torch.nn.functional.kl_div(tuned.log_softmax(-1), base.log_softmax(-1), log_target=True, reduction="none")
        yield ok(
            "adapter",
            f"it changes the base's answers: logits by up to {largest:.2f}, KL {float(kl.sum(-1).mean()):.3f} nats",
        )
    elif largest:
        yield failure(
            "adapter", f"its B is zero, but logits differ by up to {largest:.2g}", "put a new LoRA on the base again"
        )
    else:
        yield warning("adapter", "it is untrained (B = 0) and changes no logit", "train it: lorachain train 00")
