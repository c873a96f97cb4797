"""All data gates on Korean text, against a plain datasketch script that only searches for near duplicates.

    LORACHAIN_REAL_DATA=/path/to/real python benchmarks/data_gates.py --megabytes 100 --processes 1

The text is real Korean Wikipedia, repeated and varied: paragraphs of different documents in a new order, numbers
changed. Both run in turns in processes of their own; the datasketch script on a smaller share, because it is slower.
Prints MB/s of each turn, the ratio of the medians, and the peak memory of all processes of the gates.
"""

import argparse
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def write_corpus(path: Path, megabytes: float, seed: int) -> None:
    """Documents of about 4 kB; one in fifty is a near duplicate of an earlier one."""
    rng = random.Random(seed)
    folder = Path(os.environ["LORACHAIN_REAL_DATA"]) / "plain"
    lines = (folder / "kowiki-med.jsonl").read_text(encoding="utf-8").splitlines()
    paragraphs = [p for line in lines for p in json.loads(line)["text"].split("\n") if len(p) > 40]
    earlier: list[str] = []
    size = 0
    with path.open("w", encoding="utf-8") as file:
        while size < megabytes * 1e6:
            if earlier and rng.random() < 0.02:
                text = rng.choice(earlier).replace("있다", "있었다", 2)
            else:
                chosen = rng.sample(paragraphs, rng.randint(4, 16))
                text = re.sub(r"\d", lambda _: str(rng.randint(0, 9)), "\n".join(chosen))
                if len(earlier) < 1000:
                    earlier.append(text)
            size += len(text.encode())
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def run_gates(corpus: Path, processes: int) -> dict[str, float]:
    """Every gate, with the real dev questions held out; in this process and its workers."""
    from lorachain.data.gates.check import check_sources
    from lorachain.data_settings import DataConfig

    started = time.monotonic()
    report = check_sources(
        [str(corpus)],
        "plain",
        [str(Path(os.environ["LORACHAIN_REAL_DATA"]) / "kormedmcqa")],
        DataConfig.model_validate({"processes": processes}),
    )
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak += processes * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if processes > 1 else 0
    near = report.duplicates.near if report.duplicates else 0
    return {"seconds": seconds, "peak_mb": peak / 1024, "records": report.records, "near": near}


def run_datasketch(corpus: Path, share: float) -> dict[str, float]:
    """What a script of a few lines does: 5-grams of characters, MinHash of 128 permutations, LSH at 0.8."""
    from datasketch import MinHash, MinHashLSH

    started = time.monotonic()
    index = MinHashLSH(threshold=0.8, num_perm=128)
    limit, size, near = share * corpus.stat().st_size, 0, 0
    with corpus.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            size += len(line.encode())
            if size > limit:
                break
            text = re.sub(r"\W+", "", json.loads(line)["text"]).casefold()
            minhash = MinHash(num_perm=128)
            minhash.update_batch([gram.encode() for gram in {text[i : i + 5] for i in range(len(text) - 4)}])
            near += bool(index.query(minhash))
            index.insert(str(number), minhash)
    return {"seconds": time.monotonic() - started, "bytes": size, "near": near}


def in_a_process(*arguments: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--share", type=float, default=0.05, help="Of the corpus, for the datasketch script.")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", choices=("gates", "datasketch"), help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        gates = options.one == "gates"
        corpus = options.corpus
        print(json.dumps(run_gates(corpus, options.processes) if gates else run_datasketch(corpus, options.share)))
        return
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        write_corpus(corpus, options.megabytes, options.seed)
        size = corpus.stat().st_size
        speeds: dict[str, list[float]] = {"gates": [], "datasketch": []}
        for turn in range(options.turns):
            common = ("--corpus", str(corpus), "--processes", str(options.processes))
            ours = in_a_process("--one", "gates", *common)
            theirs = in_a_process("--one", "datasketch", "--share", str(options.share), *common)
            speeds["gates"].append(size / ours["seconds"] / 1e6)
            speeds["datasketch"].append(theirs["bytes"] / theirs["seconds"] / 1e6)
            print(
                f"turn {turn + 1}: gates {speeds['gates'][-1]:.2f} MB/s ({size / 1e6:.0f} MB, {ours['records']:,.0f} "
                f"documents, {ours['near']:,.0f} near duplicates, peak {ours['peak_mb']:,.0f} MB), datasketch "
                f"{speeds['datasketch'][-1]:.2f} MB/s ({theirs['bytes'] / 1e6:.1f} MB)",
                flush=True,
            )
        ratio = statistics.median(speeds["gates"]) / statistics.median(speeds["datasketch"])
        print(f"ratio {ratio:.2f} : 1, {options.processes} process(es) of the gates, one of datasketch")


if __name__ == "__main__":
    main()
