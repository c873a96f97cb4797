"""Stage 02: KorMedMCQA, on the new LoRA.

    python script/train/train/train_02_kor_med_test.py --model medgemma-27b --epochs 5

Reads model/01_another_lora_added/{model}/; writes model/02_trained/{model}/ (the epoch with the best dev score) and the
checkpoints in model/02_training/{model}/.
`--help` lists every option.
"""

import sys

from lorachain.cli import main

if __name__ == "__main__":
    main(["train", "02", *sys.argv[1:]])
