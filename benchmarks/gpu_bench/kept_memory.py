"""Peak memory of a forward and backward pass, over tokens and recomputation, against what lorachain counts."""

import torch

from gpu_bench.records import Setting
from gpu_bench.workload import random_rows
from lorachain.memory import is_out_of_memory, peak, release, reset_peak
from lorachain.tokens import collate
from lorachain.training.activations import activation_bytes, recompute_activations
from lorachain.training.loss import SupervisedLanguageModel
from lorachain.training.optimizer import MasterWeightAdamW
from lorachain.training.step import to_device
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
    module = SupervisedLanguageModel(model).train()
    config = text_decoder(model).config
    for recomputed in (False, True):
        if recomputed:
            recompute_activations(model)
        for tokens in (64, 128) if setting.tiny else (1024, 2048, 4096, 8192):
            counted = activation_bytes(model, tokens)
            if recomputed:  # the input of each layer, and one layer at a time
                inputs = tokens * config.num_hidden_layers * config.hidden_size * 2
                counted = inputs + counted // config.num_hidden_layers
            figures = {"model": setting.model, "tokens": tokens, "recomputation": recomputed, "counted": counted}
            batch = collate([random_rows(1, tokens, first=tokens - 1)], 0)  # the head hardly counts
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
