"""Put an untrained LoRA on the public base model.

    python script/init_lora_on_raw.py --model medgemma-27b

Reads the Hugging Face model, writes model/raw_lora_added/{model}/. `--help` lists every option.
"""

import sys

from lorachain.cli import main

if __name__ == "__main__":
    main(["init", *sys.argv[1:]])
