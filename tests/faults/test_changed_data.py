"""Data that changes while a chain runs: the run reports it, asks, and then ends as a new run would have."""

import json
import shutil
from pathlib import Path

from fault_making import Place, Undisturbed, differences, outcome
from lorachain.atomic import ASIDE_SUFFIX


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def edit(place: Place, name: str) -> None:
    """Adds a row."""
    row = {"term": "새 용어", "definition": "새 뜻", "english": "new term", "text": "새 문서 하나"}
    with (place.root / name).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def test_a_dictionary_edited_between_two_stages(undisturbed: Undisturbed) -> None:
    place = undisturbed.place
    undisturbed.restore(undisturbed.part("train", "01"))
    edit(place, "dictionary.jsonl")
    assert undisturbed.run("run").code == 0
    expected = outcome(place)
    assert differences(expected, undisturbed.expected)  # the edit matters

    merging = next(number for number, event in enumerate(undisturbed.events, start=1) if "tensor" in event[0])
    assert undisturbed.disturb(merging)[1].code == -9  # 01 is trained, what follows is not
    edit(place, "dictionary.jsonl")
    before = all_files(place.model)
    refused = undisturbed.run("run")
    assert refused.code == 2
    message = (
        "01: medical dictionary: dictionary.jsonl changed; 01: medical dictionary will be run again, then "
        "merge: 01 merged + new LoRA, 02: KorMedMCQA"
    )
    assert message in refused.err
    assert "00: plain Korean text is finished" in refused.err
    assert "nothing was changed. Run again with --yes" in refused.err
    after = all_files(place.model)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert all(name.endswith(".lock-tiny") for name in changed), changed

    repeated = undisturbed.run("run", "--yes")
    assert repeated.code == 0, repeated.err
    assert message in repeated.err
    # Only the log also has the steps of the run that was replaced.
    assert differences(outcome(place), expected).keys() == {"train_01_debug.log"}


def test_a_replaced_directory_is_kept_until_the_new_one_is_complete(undisturbed: Undisturbed) -> None:
    """Killed between the two renames that exchange the directories: the old one is kept, and the next run resumes."""
    place = undisturbed.place
    adapter = place.model / "00_trained" / "tiny" / "adapter_model.safetensors"
    train = place.command("train", "00")
    undisturbed.restore(undisturbed.part("train", "01"))
    old = adapter.read_bytes()
    edit(place, "documents.jsonl")
    kept = shutil.copytree(place.root, place.root.with_name("kept"))
    counted = undisturbed.server.run(*train, "--yes")
    new = adapter.read_bytes()
    assert new != old
    unpublished = str(place.model / "00_training" / "tiny" / "unpublished")
    (exchange,) = (
        number
        for number, (kind, path) in enumerate(counted.events, start=1)
        if kind == "rename" and path == unpublished
    )

    shutil.rmtree(place.root)
    kept.rename(place.root)
    assert undisturbed.server.run(*train, "--yes", at=exchange).code == -9
    aside = adapter.parent.with_name(f".tiny{ASIDE_SUFFIX}")
    assert not adapter.exists()
    assert (aside / adapter.name).read_bytes() == old
    assert undisturbed.server.run(*train).code == 0  # replacing it was confirmed before the kill
    assert adapter.read_bytes() == new
    assert not aside.exists()
