"""`lorachain known`: the dictionary entries that a model already knows, as a dictionary to replay."""

from dataclasses import asdict, dataclass
from pathlib import Path

from lorachain.chain.context import ChainContext
from lorachain.chain.runtime import Runtime
from lorachain.chain.scored_model import find_scored_model
from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam_writer import write_json_lines
from lorachain.errors import ConfigError, DataError, WorkspaceError
from lorachain.evaluation.exact_match import SHORT_ANSWERS, exact_match
from lorachain.prompts import directions
from lorachain.records import Term


@dataclass(frozen=True, slots=True)
class KnownEntries:
    """How many of the entries with a name to ask for are known."""

    known: int
    asked: int


def write_known_entries(context: ChainContext, runtime: Runtime, what: str, out: Path) -> KnownEntries:
    """Writes the entries of the chain's dictionary that the model `what` (see `find_scored_model`) knows to `out`.

    An entry is known where each question about it whose answer is a name is answered exactly, greedily, in the entry's
    own form: "highly known" in Gekhman et al. 2024 (arXiv 2405.05904).

    Raises:
        ConfigError: `out` is not a .jsonl file name. WorkspaceError: it exists.
        DataError: the dictionary cannot be read, or no entry is known.
    """
    if out.suffix != ".jsonl":
        raise ConfigError(f"--out {out} must end in .jsonl; one entry is written per line")
    if out.exists() or out.is_symlink():
        raise WorkspaceError(f"--out: {out} exists; choose another name or remove it")
    entries = load_dictionary(context.sources.dictionary, skip_bad_rows=context.skip_bad_rows).entries
    model, encoder = find_scored_model(context, what).load(runtime.device, runtime.dtype)
    with context.reporter.bar(f"asking {what} for {len(entries)} entries", _questions(entries)) as bar:
        result = exact_match(model, encoder, entries, split="all entries", ask=SHORT_ANSWERS, on_progress=bar)
    answers = {way: iter(part.correct) for way, part in result.by_direction.items()}
    known, asked = [], 0
    for entry in entries:
        right = [next(answers[way]) == "1" for way in directions(entry) if way in answers]
        asked += bool(right)
        if right and all(right):
            known.append(entry)
    if not known:
        raise DataError(
            f"{what} knows none of {asked} entries of {', '.join(context.sources.dictionary)}; name a dictionary of "
            "more common terms with --dictionary"
        )
    write_json_lines(out, [{k: v for k, v in asdict(entry).items() if v is not None} for entry in known])
    return KnownEntries(len(known), asked)


def _questions(entries: list[Term]) -> int:
    return sum(way in SHORT_ANSWERS for entry in entries for way in directions(entry))
