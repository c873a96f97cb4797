"""For each kind of file: good ones, how they are damaged, and what of lorachain reads them."""

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fuzzing import damage as d

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))  # the tests' tiny models

Files = dict[str, bytes]
"""Damaged files, by their path below the good ones."""


@dataclass(frozen=True)
class Target:
    damage: st.SearchStrategy[Files]
    read: Callable[[Files], str]
    """Reads the good files with these in place of theirs; returns the message of a refusal, or nothing. Raises what
    lorachain must not."""


def make_target(kind: str, root: Path) -> Target:
    """Makes the good files of a kind below `root`."""
    root.mkdir(parents=True)
    makers: dict[str, Callable[[Path], Target]] = {
        "config": _config,
        "adapter": _adapter,
        "safetensors": _safetensors,
        "index": _index,
        "tokenizer": _tokenizer,
        "checkpoint": _checkpoint,
        "lock": _lock,
        "journal": _journal,
        "data": _data,
    }
    return makers[kind](root)


def _models(root: Path) -> dict[str, Path]:
    import lora_making as make

    single = make.save_base(root / "single", "text")
    pattern: dict[str, Any] = {
        "alpha_pattern": {"layers.1.self_attn.q_proj": 9},
        "rank_pattern": {"layers.0.self_attn.v_proj": 2},
    }
    return {
        "single": single,
        "multimodal": make.save_base(root / "multimodal", "multimodal"),
        "sharded": make.save_base(root / "sharded", "text", shard="20KB"),
        "adapter": make.save_adapter_for(single, root / "adapter", "text", target_modules=make.ATTENTION, **pattern),
    }


def _of(root: Path, names: dict[str, Callable[[bytes], st.SearchStrategy[bytes]]]) -> st.SearchStrategy[Files]:
    """One of the files, damaged."""

    def one(name: str) -> st.SearchStrategy[Files]:
        return names[name]((root / name).read_bytes()).map(lambda content: {name: content})

    return st.one_of(*map(one, names))


def _in_place(root: Path, read: Callable[[Path], None]) -> Callable[[Files], str]:
    """Calls `read` with the directory of the damaged file while that is in place, then puts back what was there."""
    from lorachain.errors import LorachainError

    def run(files: Files) -> str:
        stored = {name: (root / name).read_bytes() if (root / name).exists() else None for name in files}
        try:
            for name, content in files.items():
                (root / name).write_bytes(content)
            read((root / next(iter(files))).parent)
        except LorachainError as error:
            return str(error) or "no message"
        finally:
            for name, before in stored.items():
                if before is None:
                    (root / name).unlink()
                else:
                    (root / name).write_bytes(before)
        return ""

    return run


def _load(folder: Path) -> None:
    import torch

    from lora_making import IDS
    from lorachain.weights.load import load_model

    load_model(folder, torch.device("cpu"))(input_ids=IDS)


def _use_adapter(models: dict[str, Path], base: str = "single") -> None:
    import torch

    from lorachain.errors import LorachainError
    from lorachain.weights.load import load_model
    from lorachain.weights.lora import load_adapter
    from lorachain.weights.merge import merge_adapter

    refusal: LorachainError | None = None
    try:
        load_adapter(load_model(models[base], torch.device("cpu")), models["adapter"], trainable=False)
    except LorachainError as error:
        refusal = error
    merged = models["single"].parent / "merged"
    try:
        merge_adapter(models[base], models["adapter"], merged)
    finally:
        shutil.rmtree(merged, ignore_errors=True)
    if refusal is not None:
        raise refusal


def _config(root: Path) -> Target:
    _models(root)
    names = ["single/config.json", "multimodal/config.json", "single/generation_config.json"]
    return Target(_of(root, dict.fromkeys(names, d.damaged_json)), _in_place(root, _load))


def _adapter(root: Path) -> Target:
    models = _models(root)
    damage = _of(root, {"adapter/adapter_config.json": d.damaged_json})
    return Target(damage, _in_place(root, lambda _: _use_adapter(models)))


def _safetensors(root: Path) -> Target:
    models = _models(root)
    names = ["single/model.safetensors", "adapter/adapter_model.safetensors"]

    def read(folder: Path) -> None:
        if folder == models["single"]:
            _load(folder)
        _use_adapter(models)

    return Target(_of(root, dict.fromkeys(names, d.damaged_header)), _in_place(root, read))


def _index(root: Path) -> Target:
    models = _models(root)
    damage = _of(root, {"sharded/model.safetensors.index.json": d.damaged_json})

    def read(folder: Path) -> None:
        _load(folder)
        _use_adapter(models, "sharded")

    return Target(damage, _in_place(root, read))


def _tokenizer(root: Path) -> Target:
    from lorachain.prompts import Example, Prompt
    from lorachain.tokens import TokenEncoder
    from lorachain.weights.load import load_tokenizer

    folder = _models(root)["single"]
    special = {"bos_token": "<bos>", "eos_token": {"content": "<eos>", "lstrip": False}, "pad_token": "<pad>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    (folder / "added_tokens.json").write_text(json.dumps({"<start_of_turn>": 4, "<end_of_turn>": 5}), encoding="utf-8")
    names = [
        "tokenizer.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
    ]
    ways: dict[str, Any] = {f"single/{name}": d.damaged_json for name in names}
    ways["single/chat_template.jinja"] = d.damaged_template

    def read(folder: Path) -> None:
        encoder = TokenEncoder(load_tokenizer(folder))
        encoder.encode(Example(Prompt("환자 <bos> a\n\n뜻", "풀이："), "심장이 뛴다 🧬"))
        encoder.encode(Example(None, "가" * 2_000))

    return Target(_of(root, ways), _in_place(root, read))


def _command(*arguments: str) -> str:
    """Runs the command line; returns the message of a refusal.

    Raises:
        AssertionError: it crashed, or printed control characters or a forged message.
    """
    from chain_making import run_command_line

    code, out, err = run_command_line(*arguments)
    assert code in (0, 2), f"exit code {code}: {err}"
    assert "Traceback" not in err, err
    assert "\x1b" not in out + err, repr(out + err)
    assert not [line for line in err.splitlines() if line.startswith("error: forged")], err
    return err if code else ""


def _checkpoint(root: Path) -> Target:
    from fault_making import Place, save_smallest
    from lorachain.training.checkpoints import reason_to_skip

    place = Place(root / "workspace", save_smallest(root / "weights"))
    place.renew()
    for arguments in (["init"], ["train", "00"]):
        message = _command(*place.command(*arguments))
        assert not message, message
    shutil.rmtree(place.model / "00_trained")
    good = shutil.copytree(place.root, root / "kept")
    directory = max((good / "model/00_training/tiny").glob("checkpoint-*"), key=lambda path: path.stat().st_mtime_ns)
    inside = directory.relative_to(root / "kept").as_posix()
    names = ["progress.json", "trainer_state.json", "adapter_config.json", "manifest.json"]
    ways: dict[str, Any] = {f"{inside}/{name}": d.damaged_json for name in names}
    ways[f"{inside}/adapter_model.safetensors"] = d.damaged_header
    ways |= {"model/00_training/tiny/run.json": d.damaged_json}

    def with_manifest(files: Files) -> Files:
        """A manifest that matches: whoever edits a checkpoint can edit that too."""
        (name,) = files
        if not name.startswith(inside) or name.endswith("manifest.json"):
            return files
        manifest = json.loads((directory / "manifest.json").read_bytes())
        manifest["files"][Path(name).name] = hashlib.sha256(files[name]).hexdigest()
        return files | {f"{inside}/manifest.json": json.dumps(manifest).encode()}

    fingerprint = json.loads((directory / "manifest.json").read_bytes())["fingerprint"]

    def read(files: Files) -> str:
        shutil.rmtree(place.root)
        shutil.copytree(good, place.root)
        for name, content in files.items():
            (place.root / name).write_bytes(content)
        skipped = reason_to_skip(place.root / inside, fingerprint)
        # Of those that are skipped one in eight: a command takes a second.
        if skipped and hashlib.sha256(b"".join(files.values())).digest()[0] % 8:
            return skipped
        return _command(*place.command("train", "00"))

    return Target(_of(good, ways).map(with_manifest), read)


def _lock(root: Path) -> Target:
    from fault_making import Place, save_smallest

    place = Place(root / "workspace", save_smallest(root / "weights"))
    place.renew()
    assert not _command(*place.command("init"))
    holder = {"pid": 4242, "host": "evil", "start": "2026-01-01 10:00:00", "command": "lorachain run", "stage": "00"}
    content = json.dumps(holder).encode()
    damage = st.one_of(d.damaged_json(content), d.damaged_bytes(content), st.binary(max_size=6_000))
    path = place.model / ".lock-tiny"

    def read(files: Files) -> str:
        messages = []
        for held in (True, False):
            for content in files.values():
                path.write_bytes(content)
            with path.open("rb") as file:
                if held:
                    fcntl.flock(file, fcntl.LOCK_EX)
                messages += [_command(*place.command(name)) for name in ("status", "init")]
        return "".join(messages)

    return Target(damage.map(lambda content: {"workspace/model/.lock-tiny": content}), read)


def _journal(root: Path) -> Target:
    from conftest import make_text_model, make_tokenizer
    from lorachain.artifacts.evaluation import ScoredModelIdentity
    from lorachain.errors import LorachainError
    from lorachain.evaluation.protocols.options import Options
    from lorachain.evaluation.runner import run_evaluation
    from lorachain.records import ExamQuestion
    from lorachain.tokens import TokenEncoder

    questions = [
        ExamQuestion(
            f"q{i}", ("doctor", "nurse")[i % 2], f"증상 {i}?", ("열", "기침", "두통", "구토", "발진"), 0, exam="x"
        )
        for i in range(6)
    ]
    out, name = root / "result.json", "result.json.unfinished.jsonl"
    model, encoder = make_text_model(0), TokenEncoder(make_tokenizer())
    identity = ScoredModelIdentity(name="tiny", base_sha256="ab" * 32, adapter_sha256=None, quantization="none")

    def evaluate(on_progress: Callable[[int, int, int], None] | None = None) -> None:
        run_evaluation(
            model, encoder, questions, Options(batch_questions=1), out=out, model_identity=identity,
            on_progress=on_progress,
        )  # fmt: skip

    def stop(done: int, total: int, correct: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    try:
        evaluate(stop)
    except KeyboardInterrupt:
        content = (root / name).read_bytes()

    def read(files: Files) -> str:
        for path in root.iterdir():
            path.unlink()
        (root / name).write_bytes(files[name])
        try:
            evaluate()
        except LorachainError as error:
            assert not os.path.lexists(out), "a result was written and an error raised"
            return str(error)
        return ""

    return Target(d.damaged_lines(content).map(lambda changed: {name: changed}), read)


def _data(root: Path) -> Target:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lorachain.data.dictionary import load_dictionary
    from lorachain.data.exam import load_exam
    from lorachain.data.instruct import load_instructions
    from lorachain.data.plain_text import stream_plain_text
    from lorachain.errors import LorachainError
    from workbook_making import write_workbook

    row: dict[str, Any] = {
        "term": "간염", "definition": "간의 염증", "english": "hepatitis", "text": "문서", "question": "질문은?",
        **dict(zip("ABCDE", "가나다라마", strict=True)), "answer": 1, "cot": "", "year": 2021, "period": 1,
        "q_number": 1,
    }  # fmt: skip
    turns = [{"role": "user", "content": "무엇?"}, {"role": "assistant", "content": "답"}]
    line = json.dumps(row, ensure_ascii=False)
    table = "\n".join(",".join(map(str, values)) for values in (row, row.values(), row.values()))
    for name, text in {
        "rows.jsonl": f"{line}\n{line}\n",
        "rows.json": f"[{line}]",
        "chat.jsonl": json.dumps({"messages": turns}) + "\n",
        "rows.csv": table,
        "rows.tsv": table.replace(",", "\t"),
        "rows.txt": "문서\n\n둘째 문서\n",
    }.items():
        (root / name).write_text(text, encoding="utf-8")
    pq.write_table(pa.Table.from_pylist([row] * 3), root / "rows.parquet")
    cells = [list(row), list(row.values()), list(row.values())]
    for name in ("rows.xlsx", "rows.ods"):
        write_workbook(root / name, {"표": cells})

    def read_all(path: str) -> str:
        """The messages, or nothing where one of the readers takes the file."""
        readers: list[Callable[[], object]] = [
            lambda: load_dictionary([path]),
            lambda: load_exam([path], "train"),
            lambda: list(stream_plain_text([path])),
            lambda: load_instructions([path]),
        ]
        refused = []
        for read in readers:
            try:
                read()
            except LorachainError as error:
                refused.append(str(error) or "no message")
        return "\n".join(refused) if len(refused) == len(readers) else ""

    def read(files: Files) -> str:
        ((name, content),) = files.items()
        good = (root / name).read_bytes()
        try:
            (root / name).write_bytes(content)
            return read_all(str(root / name))
        finally:
            (root / name).write_bytes(good)

    ways: dict[str, Any] = dict.fromkeys(["rows.jsonl", "chat.jsonl"], d.damaged_lines)
    ways |= {"rows.json": d.damaged_json, "rows.xlsx": d.damaged_workbook, "rows.ods": d.damaged_workbook}
    ways |= dict.fromkeys(["rows.csv", "rows.tsv", "rows.txt", "rows.parquet"], d.damaged_bytes)
    return Target(_of(root, ways), read)
