"""Every artifact: written and read back, and refused with file, key and value where anything about it is wrong."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artifact_making import (
    HASH,
    ablation,
    arm_score,
    data_report,
    exact_match_measure,
    hashed_exam,
    ledger,
    logit_diff,
    perplexity_measure,
    reasoning_report,
    training_info,
)
from lorachain.artifacts import (
    Artifact,
    CardSettings,
    Check,
    CheckpointManifest,
    ComposeReport,
    ConversionRecord,
    DataSummary,
    DialPoint,
    DialReport,
    DiskNeed,
    DoctorReport,
    EvalResult,
    FitReport,
    GgufReport,
    InitInfo,
    Measured,
    MergeInfo,
    MergeReport,
    PushManifest,
    Rejected,
    RunState,
    ShownExample,
    ShownToken,
    SourceSummary,
    StageMemory,
    TokenCacheManifest,
    TrainingInfo,
    TrainingProgress,
    ValidationHistory,
    read_stage_info,
    read_training_info,
)
from lorachain.artifacts.__main__ import EXPORTED, export_schemas
from lorachain.artifacts.merging import ComposedLayer, CompositionProbe
from lorachain.artifacts.pushing import SentTo
from lorachain.errors import WorkspaceError
from lorachain.workspace import TRAINING_INFO

ROOT = Path(__file__).parents[2]
VERSION_1 = Path(__file__).parent / "version_1"
MODEL = "gemma-3-270m"
Position = tuple[str | int, ...]


def artifacts() -> Iterator[Artifact]:
    """One of each kind, all of them with content."""
    model = VERSION_1 / "model"
    yield read_stage_info(model / "raw_lora_added" / MODEL)
    yield read_stage_info(model / "01_another_lora_added" / MODEL)
    yield training_info()
    yield ablation()
    yield data_report()
    yield hashed_exam()
    yield arm_score()
    history = ValidationHistory.read(model / "01_trained" / MODEL / "kormedmcqa_validation_results.json")
    yield history
    before = {"exact_match": exact_match_measure(0.2), "heldout_perplexity": perplexity_measure(35.8)}
    yield RunState(fingerprint=HASH, before=before, scores=history.results)
    yield MergeReport.read(model / "01_another_lora_added" / MODEL / "base" / "merge_report.json")
    yield EvalResult.read(VERSION_1 / "letters.json")
    yield ComposeReport(
        base_sha256=HASH,
        adapter_sha256=(HASH, HASH),
        merged_base_sha256=HASH,
        composed_sha256=HASH,
        relative_error=0.0,
        layers=(ComposedLayer(module="m", exact_rank=8, rank=8, norm=1.0, frobenius_error=0.0, spectral_error=0.0),),
        probe=CompositionProbe(in_dtype=logit_diff(), rounding_of_merged_base=logit_diff()),
    )
    yield GgufReport(
        file="m.gguf", sha256=HASH, outtype="bf16", model_sha256=HASH, probe=logit_diff(), packages={"gguf": "0"}
    )
    yield ledger()
    row = ledger().steps[-1]
    yield DialReport(stage="00", variant="lines", model=row.model, points=(DialPoint(scale=0.5, row=row, passes=True),))
    token = ShownToken(id=2, text="<bos>", supervised=False)
    yield DoctorReport(
        version="0",
        subject="m",
        checks=(Check(name="disk", state="failure", message="1 GB free", fix="free some space"),),
        examples=(ShownExample(stage="00", tokens=(token,)),),
    )
    yield FitReport(
        model="m",
        parameters=10,
        lora_parameters=2,
        stages=(StageMemory(stage="00", tokens=8, recomputation=True, base=20, lora=40, activations=5, working=1),),
        disk=DiskNeed(download=20, merged_base=20, adapters=8, checkpoints=32),
        disk_free=1000,
        capacity=100,
        usable=90,
        recommended=CardSettings(
            quantization="nf4", gradient_checkpointing=True, micro_batch_tokens=8, max_length={"02": 16}
        ),
        configuration="[training]",
        rejected=(
            Rejected(
                settings=CardSettings(
                    quantization="none", gradient_checkpointing=False, micro_batch_tokens=8, max_length={}
                ),
                stage="00",
                needed=95,
            ),
        ),
        measured=(
            Measured(stage="00", tokens=8, device="cpu", calculated=66, peak=70, tokens_per_second=9.5, joules=1.5),
        ),
    )
    yield DataSummary(
        model=None,
        sources=(
            SourceSummary(
                name="terms.csv", read_as="dictionary", files=1, records=3, complete=True, splits={}, duplicates=1,
                refused_rows=0, refused=(), characters=None, tokens=None, hangul=0.9, latin=0.1, other_letters=0.0,
                reasoning_writers={}, shown=(),
            ),
        ),
    )  # fmt: skip
    yield reasoning_report()
    yield PushManifest(
        step="02",
        form="gguf",
        outtype="q8_0",
        made_from={"base": HASH, "last": HASH},
        lorachain="0",
        weights={"m.gguf": HASH},
        sent=(SentTo(repository="kim/model", commit="c0ffee", public=False),),
    )
    yield CheckpointManifest(step=4, fingerprint=HASH, files={"optimizer.pt": HASH})
    yield TrainingProgress(step=4, tokens=100, supervised_tokens=50, seconds=1.5, losses=(3.0, 2.5))
    yield TokenCacheManifest(identity=HASH, facts={"rows": 1}, rows_sha256=HASH, signature=HASH)
    yield ConversionRecord(source_sha256=HASH, owner=1000, files={"config.json": HASH}, signature=HASH)


EVERY = list(artifacts())
each_artifact = pytest.mark.parametrize("artifact", EVERY, ids=lambda artifact: type(artifact).__name__)


def refusal(path: Path, kind: type[Artifact], content: Any) -> str:
    """The message with which the file is refused; `content` is JSON values, or text."""
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(WorkspaceError) as caught:
        kind.read(path)
    message = str(caught.value)
    assert str(path) in message
    assert kind.title in message
    assert message.endswith(f"; {kind.remedy}")
    return message


def leaves(value: Any, at: Position = ()) -> Iterator[tuple[Position, Any]]:
    """Every value in a JSON value that is neither an object nor an array, with its position."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*at, key))
    else:
        yield at, value


def with_value(stored: dict[str, Any], at: Position, value: object) -> dict[str, Any]:
    """A copy with another value at a position."""
    copied: dict[str, Any] = json.loads(json.dumps(stored))
    holder: Any = copied
    for key in at[:-1]:
        holder = holder[key]
    holder[at[-1]] = value
    return copied


def test_every_exported_artifact_is_tested() -> None:
    assert {type(artifact) for artifact in EVERY} == set(EXPORTED.values())
    assert {InitInfo, MergeInfo, TrainingInfo} <= set(EXPORTED.values())


@each_artifact
def test_what_is_written_is_read_back(artifact: Artifact, tmp_path: Path) -> None:
    artifact.write(tmp_path / "file.json")
    assert type(artifact).read(tmp_path / "file.json") == artifact
    assert json.loads((tmp_path / "file.json").read_text(encoding="utf-8")) == artifact.as_dict()


@each_artifact
def test_unknown_keys_are_refused(artifact: Artifact, tmp_path: Path) -> None:
    message = refusal(tmp_path / "file.json", type(artifact), {**artifact.as_dict(), "words": "x"})
    assert "unknown key 'words' (value 'x')" in message


@each_artifact
def test_missing_keys_are_refused(artifact: Artifact, tmp_path: Path) -> None:
    required = [name for name, field in type(artifact).model_fields.items() if field.is_required()]
    assert required
    for name in required:
        stored = {key: value for key, value in artifact.as_dict().items() if key != name}
        assert f"'{name}' is missing" in refusal(tmp_path / "file.json", type(artifact), stored)


@each_artifact
def test_other_types_are_refused(artifact: Artifact, tmp_path: Path) -> None:
    """Nothing is converted: not a number to text, nor text to a number, nor a Boolean to a number."""
    stored = artifact.as_dict()
    for name, value in stored.items():
        if name == "schema_version":
            continue
        others: list[object] = [[True]] if isinstance(value, bool) else [True, [True]]
        if name not in ("facts", "configuration", "report", "settings"):  # whose keys and values may be any
            others.append({"unexpected": True})
        if value is not None:  # what may be absent may also be text
            others.append(3 if isinstance(value, str) else "text")
        for other in others:
            message = refusal(tmp_path / "file.json", type(artifact), {**stored, name: other})
            assert f"'{name}" in message


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@each_artifact
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_neither_read_nor_written(
    artifact: Artifact, number: float, tmp_path: Path
) -> None:
    stored = artifact.as_dict()
    numbers = [at for at, value in leaves(stored) if isinstance(value, float)][:40]
    path = tmp_path / "file.json"
    for at in numbers:
        changed = with_value(stored, at, number)
        key = ".".join(map(str, at))
        assert f"'{key}' is {number}: numbers must be finite" in refusal(path, type(artifact), changed)
    path.unlink(missing_ok=True)
    # Also within values of any type, and where validation was bypassed.
    name = next(iter(type(artifact).model_fields))
    for value in (number, {"deep": [1, number]}):
        with pytest.raises(ValueError, match=f"'{name}.*is {number}: numbers must be finite"):
            artifact.model_copy(update={name: value}).write(path)
    assert not list(tmp_path.iterdir())


def test_numbers_in_untyped_values_must_be_finite(tmp_path: Path) -> None:
    measure = exact_match_measure(0.5).model_copy(update={"detail": {"by_direction": {"a": float("nan")}}})
    state = RunState(fingerprint=HASH, before={"exact_match": measure}, scores=())
    with pytest.raises(ValueError, match=r"'before\.exact_match\.detail\.by_direction\.a' is nan"):
        state.write(tmp_path / "run.json")
    message = refusal(tmp_path / "run.json", RunState, state.as_dict())
    assert r"'before.exact_match.detail.by_direction.a' is nan" in message


@each_artifact
@pytest.mark.parametrize("version", [None, "2", 0, -1, True, 1.0, [2]])
def test_a_version_that_is_not_a_whole_number_is_refused(artifact: Artifact, version: object, tmp_path: Path) -> None:
    message = refusal(tmp_path / "file.json", type(artifact), {**artifact.as_dict(), "schema_version": version})
    assert f"schema_version is {version!r}; expected a whole number" in message


@each_artifact
def test_a_newer_version_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    current = type(artifact).current_version()
    newer = {**artifact.as_dict(), "schema_version": current + 1}
    message = refusal(tmp_path / "file.json", type(artifact), newer)
    assert f"schema version {current + 1} is from a newer lorachain, this one reads up to {current}" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "it holds list, not an object"),
        ("null", "it holds NoneType, not an object"),
        ("", "Expecting value"),
        ('{"schema_version": 2,', "Expecting"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"schema_version": 2, "results": ' + "[" * 500 + "]" * 500 + "}", "recursion limit exceeded"),
    ],
)
def test_a_file_that_is_not_an_object_is_refused(content: str, reason: str, tmp_path: Path) -> None:
    assert reason in refusal(tmp_path / "file.json", ValidationHistory, content)


def test_no_depth_of_nesting_crashes(tmp_path: Path) -> None:
    """Python, its JSON reader and pydantic have limits of their own."""
    for depth in range(850, 1001):
        refusal(
            tmp_path / "file.json", ValidationHistory, '{"schema_version": 1, "a": ' + "[" * depth + "]" * depth + "}"
        )


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "missing.json", "no such file"), (tmp_path / "not-utf8.json", "utf-8")):
        if reason == "utf-8":
            path.write_bytes(b'{"a": "\xff"}')
        with pytest.raises(WorkspaceError) as caught:
            RunState.read(path)
        assert str(path) in str(caught.value)
        assert reason in str(caught.value)
        assert "the stage starts again" in str(caught.value)


@pytest.mark.parametrize("kind", ["train", None, 3, ["init"]])
def test_stage_info_of_an_unknown_kind_is_refused(kind: object, tmp_path: Path) -> None:
    stored = {**training_info().as_dict(), "kind": kind}
    (tmp_path / TRAINING_INFO).write_text(json.dumps(stored))
    with pytest.raises(WorkspaceError, match=r"kind is .*; allowed: init, merge, training") as caught:
        read_stage_info(tmp_path)
    assert str(tmp_path / TRAINING_INFO) in str(caught.value)


def test_stage_info_is_read_as_its_kind(tmp_path: Path) -> None:
    training_info("01").write(tmp_path / TRAINING_INFO)
    assert read_stage_info(tmp_path) == read_training_info(tmp_path) == training_info("01")
    read_stage_info(VERSION_1 / "model" / "raw_lora_added" / MODEL).write(tmp_path / TRAINING_INFO)
    assert isinstance(read_stage_info(tmp_path), InitInfo)
    with pytest.raises(WorkspaceError, match="is of stage init, which is not trained"):
        read_training_info(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questions": {"chosen": {}}}, "the protocols or n are not those of its questions"),
        ({"questions": {"gold": "AB"}}, "not one exam, subject, gold letter and chosen letter for each id"),
        ({"questions": {"subjects": []}}, "not one exam, subject, gold letter and chosen letter for each id"),
        ({"protocols": {}}, "the protocols or n are not those of its questions"),
        ({"n": 19}, "the protocols or n are not those of its questions"),
        ({"protocols": {"letters": {"correct": 20}}}, "the score of letters is not that of its answers"),
        ({"protocols": {"options": {"n": 7}}}, "the score of options is not that of its answers"),
    ],
)
def test_scores_must_be_those_of_the_answers(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Every score of a history can be computed from its answers, and comparisons are."""

    def changed(value: Any, changes: Any) -> Any:
        if isinstance(value, dict) and isinstance(changes, dict) and changes:
            return {**value, **{key: changed(value.get(key), item) for key, item in changes.items()}}
        return changes

    path = VERSION_1 / "model" / "01_trained" / MODEL / "kormedmcqa_validation_results.json"
    stored = ValidationHistory.read(path).as_dict()
    stored["results"][1]["result"] = changed(stored["results"][1]["result"], change)
    refused = refusal(tmp_path / "file.json", ValidationHistory, stored)
    assert "'results.1.result" in refused
    assert message in refused


def test_records_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        training_info().stage = "03"  # type: ignore[misc]


def test_docs_schemas_is_current(tmp_path: Path) -> None:
    export_schemas(tmp_path)
    exported = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "schemas").iterdir()}
    assert exported == committed, "run: python -m lorachain.artifacts docs/schemas"


@each_artifact
def test_the_exported_schema_forbids_unknown_keys(artifact: Artifact) -> None:
    """At every object with named properties."""
    schema = type(artifact).model_json_schema()
    objects = [schema, *schema.get("$defs", {}).values()]
    assert all(part["additionalProperties"] is False for part in objects if "properties" in part)
    assert artifact.as_dict().keys() <= schema["properties"].keys()
