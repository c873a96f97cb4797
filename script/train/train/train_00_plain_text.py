"""Stage 00: plain Korean text.

    python script/train/train/train_00_plain_text.py --model medgemma-27b --epochs 1

Reads model/raw_lora_added/{model}/; writes model/00_trained/{model}/ and the checkpoints in model/00_training/{model}/.
`--help` lists every option.
"""

import sys

from lorachain.cli import main

if __name__ == "__main__":
    main(["train", "00", *sys.argv[1:]])
