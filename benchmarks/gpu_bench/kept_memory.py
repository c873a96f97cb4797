"""Peak memory of a forward and backward pass, over tokens and recomputation, against what lorachain counts."""

import torch

from gpu_bench.records import Setting
from gpu_bench.workload import random_rows
from lorachain.memory import is_out_of_memory, peak, release, reset_peak
from lorachain.tokens import collate, collate_packed
from lorachain.training.activations import activation_bytes, recompute_activations, recomputed_bytes
from lorachain.training.layers import choose_layers
from lorachain.training.loss import SupervisedLanguageModel
from lorachain.training.optimizer import MasterWeightAdamW
from lorachain.training.step import to_device
from lorachain.weights.attention_choice import takes_segments
from lorachain.weights.load import text_decoder
from lorachain.weights.lora import add_new_lora
from training_bench.models import load_base

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def run(setting: Setting) -> None:
    device = torch.device(setting.device)
    model = add_new_lora(
        load_base(setting.model, device, nf4=False), base_path=setting.model, rank=16, alpha=32, dropout=0.0,
        use_rslora=False, target_modules=TARGETS, seed=0,
    )  # fmt: skip
    MasterWeightAdamW(
        [p for p in model.parameters() if p.requires_grad], compute_dtype=torch.bfloat16, lr=1e-4, weight_decay=0.0
    )  # converts the factors as training does
    decoder = text_decoder(model)
    layers = choose_layers(decoder, device, "auto", compile=False, on_message=print)
    module = SupervisedLanguageModel(model, layers).train()
    collated = collate_packed if takes_segments(decoder) else collate
    for recomputed in (False, True):
        if recomputed:
            recompute_activations(model)
        for tokens in (64, 128) if setting.tiny else (1024, 2048, 4096, 8192):
            counted = recomputed_bytes(model, tokens) if recomputed else activation_bytes(model, tokens)
            figures = {"model": setting.model, "tokens": tokens, "recomputation": recomputed, "counted": counted}
            batch = collated([random_rows(1, tokens, first=tokens - 1)], 0)  # the head hardly counts
            release()
            reset_peak(device)
            before = torch.cuda.memory_allocated(device) if device.type == "cuda" else peak(device)
            try:
                one = torch.ones((), device=device)
                loss = module(**to_device(batch.as_inputs(), device), normalizer=one)
                if device.type == "cuda":
                    figures["kept"] = torch.cuda.memory_allocated(device) - before
                loss.backward()
                figures["peak"] = peak(device) - before
                del loss
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                figures["out_of_memory"] = True
            model.zero_grad(set_to_none=True)
            setting.write("memory", **figures)
