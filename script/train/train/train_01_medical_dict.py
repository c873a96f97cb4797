"""Stage 01: the medical dictionary, with the same LoRA.

    python script/train/train/train_01_medical_dict.py --model medgemma-27b --epochs 3

Reads model/00_trained/{model}/; writes model/01_trained/{model}/, the checkpoints in model/01_training/{model}/, and
model/01_another_lora_added/{model}/: the LoRA merged into the base and verified, and a new LoRA on it.
`--help` lists every option.
"""

import sys

from lorachain.cli import main

if __name__ == "__main__":
    main(["train", "01", *sys.argv[1:]])
