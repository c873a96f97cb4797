"""Pushes a step of the chain to the hub: checked, exported into the workspace, and sent as it was verified."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorachain.artifacts import EvalResult, Ledger, PushManifest, read_training_info
from lorachain.artifacts.pushing import SentTo
from lorachain.atomic import remove_tree
from lorachain.chain.context import ChainContext
from lorachain.chain.runtime import start_runtime
from lorachain.chain.stages import find_training_stage
from lorachain.chain.verify import verify_chain
from lorachain.errors import GateError, LorachainError, WorkspaceError
from lorachain.export.card import KOREAN_CARD, Form, write_card
from lorachain.export.chain import ExportedStep, card_facts, check_options, export_chain, find_exported
from lorachain.export.gguf import OutType
from lorachain.export.hub import Pushed, check_repository_name, find_target, push_files
from lorachain.provenance import sha256_file
from lorachain.version import __version__
from lorachain.workspace import TRAINING_INFO

_CARDS = ("README.md", KOREAN_CARD, "NOTICE")
"""Written again for every push: their scores may have changed, the weights have not."""


@dataclass(frozen=True, slots=True)
class PushOptions:
    """What is pushed, and what is allowed."""

    step: str
    repository: str
    form: Form = "adapter"
    outtype: OutType = "bf16"
    converter: Path | None = None
    results: tuple[EvalResult, ...] = ()
    """Of `lorachain eval`, for the card."""
    public: bool = False
    accept_harm: bool = False
    """Push a step although a gate stopped it."""
    accept_unverified: bool = False
    """Push although the chain does not match its files."""


@dataclass(frozen=True, slots=True)
class PreparedFile:
    """One file that is sent."""

    name: str
    path: Path
    size: int
    sha256: str


def prepare_push(context: ChainContext, options: PushOptions, *, online: bool = True) -> list[PreparedFile]:
    """Checks the step and, where `online`, the repository; then exports the step into the workspace.

    What an earlier push prepared of the same weights is used again once its hashes match.

    Raises:
        GateError: a gate stopped the step. HubError: as `find_target`.
        ConfigError, DataError, ModelError, AdapterError, WorkspaceError: for what they name; nothing was sent.
    """
    check_repository_name(options.repository)
    check_options(options.form, options.outtype, options.converter)
    refuse_harm(context, options.step, accept=options.accept_harm)
    exported = find_exported(context, options.step)
    if online:
        find_target(options.repository, public=options.public)
    _verify(context, options)
    return _prepare(context, exported, options)


def push(context: ChainContext, options: PushOptions, files: Sequence[PreparedFile]) -> Pushed:
    """Sends what `prepare_push` returned.

    Raises:
        HubError: nothing is visible on the hub; the same command resumes.
    """
    target = find_target(options.repository, public=options.public)
    pushed = push_files(
        target,
        [(file.name, file.path) for file in files],
        public=options.public,
        message=f"Step {options.step} of {context.model}, {options.form} (lorachain {__version__})",
    )
    path = _manifest_path(context, options)
    manifest = PushManifest.read(path)
    sent = SentTo(repository=options.repository, commit=pushed.commit, public=options.public)
    if sent not in manifest.sent:
        manifest.model_copy(update={"sent": (*manifest.sent, sent)}).write(path)
    return pushed


def refuse_harm(context: ChainContext, step: str, *, accept: bool) -> None:
    """Raises GateError where a gate stopped the step, also where it was published all the same, unless accepted."""
    stage = find_training_stage(step)
    folder = context.output(stage)
    kept = context.workspace.unpublished(step, context.model)
    if not (folder / TRAINING_INFO).is_file():
        if (kept / TRAINING_INFO).is_file():
            raise GateError(
                f"step {step} was stopped by a gate and is not published, so it is not pushed either; what it lost: "
                f"{context.command('ledger')}. To push it all the same, publish it first: "
                f"{context.command(stage.command)} --accept-harm"
            )
        return
    path = context.workspace.ledger(context.model)
    row = Ledger.read(path).step(step) if path.exists() else None
    if row is None or row.model.adapter_sha256 != read_training_info(folder).adapter_sha256:
        return  # nothing was measured of the adapter that is published
    harm = [gate for gate in row.gates if gate.outcome in ("failed", "accepted")]
    stopped = [gate for gate in harm if gate.on_fail != "warn"]
    summary = "; ".join(gate.summary for gate in harm)
    if stopped and not accept:
        raise GateError(
            f"step {step} is not pushed: a gate stopped it: {summary}. Push it all the same with --accept-harm, or "
            f"apply less of it: {context.command(f'dial {step}')}"
        )
    if harm:
        context.reporter.message(f"warning: step {step} lost more than its gates tolerate: {summary}")


def _verify(context: ChainContext, options: PushOptions) -> None:
    """Raises what `verify_chain` raises, unless accepted: then it is a warning."""
    try:
        for _ in verify_chain(context):
            pass
    except LorachainError as error:
        if not options.accept_unverified:
            raise type(error)(f"{error}. Not pushed; --accept-unverified pushes it all the same") from error
        context.reporter.message(f"warning: not verified: {error}")


def _prepare(context: ChainContext, exported: ExportedStep, options: PushOptions) -> list[PreparedFile]:
    folder, path = _folder(context, options), _manifest_path(context, options)
    outtype = options.outtype if options.form in ("gguf", "ollama") else None
    made_from = exported.identity
    manifest = _reusable(folder, path, made_from, outtype)
    if manifest is None:
        if folder.exists() and not remove_tree(folder):
            raise WorkspaceError(f"{folder} was not written by lorachain; move it away")
        context.reporter.message(f"exporting step {options.step} as {options.form} to {folder}")
        export_chain(
            context,
            start_runtime(context.config),
            folder,
            options.form,
            step=options.step,
            outtype=options.outtype,
            converter=options.converter,
            results=options.results,
        )
        manifest = PushManifest(
            step=options.step,
            form=options.form,
            outtype=outtype,
            made_from=made_from,
            lorachain=__version__,
            weights={name: sha256_file(folder / name) for name in _names(folder) if name not in _CARDS},
            sent=_sent(path),
        )
        manifest.write(path)
    write_card(folder, card_facts(context, exported, options.results), options.form)
    cards = {name: sha256_file(folder / name) for name in _CARDS}
    return [
        PreparedFile(name, folder / name, (folder / name).stat().st_size, sha256)
        for name, sha256 in sorted({**manifest.weights, **cards}.items())
    ]


def _reusable(folder: Path, path: Path, made_from: dict[str, str], outtype: str | None) -> PushManifest | None:
    """The manifest of what is prepared already, where it is what would be prepared now, byte for byte."""
    if not path.is_file() or not folder.is_dir():
        return None
    try:
        manifest = PushManifest.read(path)
    except WorkspaceError:
        return None  # of another version, or damaged: prepared again
    same = (manifest.made_from, manifest.outtype, manifest.lorachain) == (made_from, outtype, __version__)
    if not same or set(_names(folder)) - set(_CARDS) != set(manifest.weights):
        return None
    return manifest if all(sha256_file(folder / name) == sha for name, sha in manifest.weights.items()) else None


def _sent(path: Path) -> tuple[SentTo, ...]:
    try:
        return PushManifest.read(path).sent if path.is_file() else ()
    except WorkspaceError:
        return ()


def _names(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def _folder(context: ChainContext, options: PushOptions) -> Path:
    return context.workspace.push(context.model) / f"{options.step}-{options.form}"


def _manifest_path(context: ChainContext, options: PushOptions) -> Path:
    folder = _folder(context, options)
    return folder.with_name(f"{folder.name}.json")
