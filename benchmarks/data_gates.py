"""All data gates on Korean text, against a plain datasketch script that only searches for near duplicates.

    LORACHAIN_REAL_DATA=/path/to/real python benchmarks/data_gates.py --megabytes 1000 --part 100 --processes 1

The text is real Korean Wikipedia, repeated and varied: paragraphs of different documents in a new order, numbers
changed. On its first `--part` MB both run in turns, in processes of their own. Then the gates read all of it, once
undisturbed, and once killed (SIGKILL) after half of the records and started again; the two reports must be equal.
Prints MB/s by the clock and by CPU seconds, the ratios of the medians, and the sum of the peaks of all processes, an
upper bound of their common peak.
"""

import argparse
import hashlib
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


def write_part(corpus: Path, path: Path, megabytes: float) -> None:
    """The first documents of the corpus."""
    with corpus.open("rb") as source, path.open("wb") as file:
        for line in source:
            file.write(line)
            if file.tell() >= megabytes * 1e6:
                return


def used(started: float, processes: int = 1) -> dict[str, float]:
    """Seconds by the clock and of the CPU, and the peak memory in MB, of this process and its workers."""
    own, workers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = own.ru_maxrss + (processes * workers.ru_maxrss if processes > 1 else 0)
    cpu = own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime
    return {"seconds": time.monotonic() - started, "cpu": cpu, "peak_mb": peak / 1024}


def run_gates(corpus: Path, processes: int, journal: Path | None) -> dict[str, object]:
    """Every gate, with the real dev questions held out; in this process and its workers."""
    from lorachain.data.gates.check import check_sources
    from lorachain.data_settings import DataConfig

    started = time.monotonic()
    report = check_sources(
        [str(corpus)],
        "plain",
        [str(Path(os.environ["LORACHAIN_REAL_DATA"]) / "kormedmcqa")],
        DataConfig.model_validate({"processes": processes}),
        on_progress=lambda records, characters: print(f"records {records}", flush=True),
        journal=journal,
    )
    return {
        **used(started, processes),
        "records": report.records,
        "near": report.duplicates.near if report.duplicates else 0,
        "report": hashlib.sha256(report.model_dump_json().encode()).hexdigest(),
    }


def run_datasketch(corpus: Path) -> dict[str, object]:
    """What a script of a few lines does: 5-grams of characters, MinHash of 128 permutations, LSH at 0.8."""
    from datasketch import MinHash, MinHashLSH

    started = time.monotonic()
    index = MinHashLSH(threshold=0.8, num_perm=128)
    near = 0
    with corpus.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            text = re.sub(r"\W+", "", json.loads(line)["text"]).casefold()
            minhash = MinHash(num_perm=128)
            minhash.update_batch([gram.encode() for gram in {text[i : i + 5] for i in range(len(text) - 4)}])
            near += bool(index.query(minhash))
            index.insert(str(number), minhash)
    return {**used(started), "near": near}


def in_a_process(*arguments: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def killed_after(records: float, *arguments: str) -> None:
    """Starts the gates, and kills them when they have screened that many records."""
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("records ") and int(line.split()[1]) >= records:
            break
    process.kill()
    process.wait()


def described(name: str, size: float, result: dict[str, float]) -> str:
    return (
        f"{name} {size / result['seconds'] / 1e6:.2f} MB/s, by CPU seconds {size / result['cpu'] / 1e6:.2f}, peak "
        f"{result['peak_mb']:,.0f} MB, {result['near']:,.0f} near duplicates"
    )


def take_turns(part: Path, turns: int, processes: int) -> None:
    """Gates and datasketch script on the same text, alternating."""
    size = part.stat().st_size
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    for turn in range(turns):
        ours.append(in_a_process("--one", "gates", "--corpus", str(part), "--processes", str(processes)))
        theirs.append(in_a_process("--one", "datasketch", "--corpus", str(part)))
        print(f"turn {turn + 1}, {size / 1e6:.0f} MB, {ours[-1]['records']:,.0f} documents:", flush=True)
        print(f"  {described('gates', size, ours[-1])}\n  {described('datasketch', size, theirs[-1])}", flush=True)
    for unit in ("seconds", "cpu"):
        ratio = statistics.median(r[unit] for r in theirs) / statistics.median(r[unit] for r in ours)
        print(f"ratio by {unit}: {ratio:.2f} : 1, {processes} process(es) of the gates, one of datasketch", flush=True)


def read_all(corpus: Path, processes: int, journal: Path) -> None:
    """All of the corpus, undisturbed; then killed and resumed."""
    size = corpus.stat().st_size
    common = ("--one", "gates", "--corpus", str(corpus), "--processes", str(processes))
    whole = in_a_process(*common, "--journal", str(journal.with_suffix(".whole")))
    print(f"{size / 1e6:.0f} MB, {whole['records']:,.0f} documents:\n  {described('gates', size, whole)}", flush=True)
    killed_after(whole["records"] / 2, *common, "--journal", str(journal))
    if not journal.exists():
        print("  the gates ended before they were killed: use more megabytes")
        return
    print(f"  killed; journal of {journal.stat().st_size / 1e6:.0f} MB", flush=True)
    resumed = in_a_process(*common, "--journal", str(journal))
    same = "the same report" if resumed["report"] == whole["report"] else "ANOTHER REPORT"
    print(
        f"  resumed: {resumed['seconds']:.0f} s instead of {whole['seconds']:.0f} s, CPU {resumed['cpu']:.0f} s, not "
        f"{whole['cpu']:.0f} s, peak {resumed['peak_mb']:,.0f} MB, {same}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=1000)
    parser.add_argument("--part", type=float, default=100, help="MB on which both run in turns.")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3, help="0: only all of it.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", choices=("gates", "datasketch"), help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--journal", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        gates = options.one == "gates"
        corpus, journal = options.corpus, options.journal
        print(json.dumps(run_gates(corpus, options.processes, journal) if gates else run_datasketch(corpus)))
        return
    with tempfile.TemporaryDirectory() as folder:
        corpus, part = Path(folder) / "corpus.jsonl", Path(folder) / "part.jsonl"
        write_corpus(corpus, options.megabytes, options.seed)
        write_part(corpus, part, options.part)
        if options.turns:
            take_turns(part, options.turns, options.processes)
        read_all(corpus, options.processes, Path(folder) / "journal.jsonl")


if __name__ == "__main__":
    main()
