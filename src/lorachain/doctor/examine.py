"""Runs every check, from the cheapest on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from lorachain.artifacts import DoctorReport, ShownExample
from lorachain.chain.context import ChainContext
from lorachain.chain.runtime import dtype_of
from lorachain.chain.scored_model import ScoredModel
from lorachain.doctor.findings import Finding, failure, gigabytes, guarded, ok, warning
from lorachain.doctor.hub import check_hub
from lorachain.doctor.machine import check_device, check_disk, check_versions
from lorachain.doctor.model_files import check_tensors, check_tokenizer, weights_bytes
from lorachain.doctor.model_run import check_adapter, check_isolation
from lorachain.doctor.serving import check_server
from lorachain.doctor.subject import Subject, find_subject
from lorachain.doctor.training_data import check_data
from lorachain.errors import LorachainError
from lorachain.fit.disk import disk_need
from lorachain.fit.estimate import read_structure
from lorachain.inference.engines.http_json import parse_address
from lorachain.memory import free_memory
from lorachain.tokens import TokenEncoder
from lorachain.version import __version__
from lorachain.weights.checks import check_finite
from lorachain.weights.load import resolve_device


@dataclass(frozen=True, slots=True)
class Server:
    """A running server to compare with."""

    url: str
    model: str | None = None
    timeout: float = 120.0


def examine(
    context: ChainContext,
    what: str | None,
    *,
    kinds: Sequence[str] | None,
    server: Server | None,
    on_finding: Callable[[Finding], None],
) -> DoctorReport:
    """Everything that was found, in the order of the checks.

    Args:
        what: see `find_subject`.
        kinds: of sources to check; None: those of a model of the workspace, all of them.
        on_finding: called with each finding as it is made.

    Raises:
        LorachainError: the model cannot be found, or the server's address is none.
    """
    findings: list[Finding] = []
    if server is not None:
        parse_address(server.url, "--serving")
    subject = find_subject(context, what)
    for finding in _findings(context, subject, kinds, server):
        findings.append(finding)
        on_finding(finding)
    return DoctorReport(
        version=__version__,
        subject=subject.name,
        checks=tuple(finding for finding in findings if not isinstance(finding, ShownExample)),
        examples=tuple(finding for finding in findings if isinstance(finding, ShownExample)),
    )


def _findings(
    context: ChainContext, subject: Subject, kinds: Sequence[str] | None, server: Server | None
) -> Iterator[Finding]:
    model = subject.model
    yield from guarded("versions", check_versions)
    yield from guarded("device", lambda: check_device(context.config))
    if subject.hub_id is not None:
        hub_id = subject.hub_id
        yield from guarded("hub", lambda: check_hub(hub_id, cached=model is not None))
    else:
        yield ok("hub", "not needed: the weights are on this machine")
    if model is None:
        yield warning(
            "weights",
            f"{subject.name} is not on this machine, so that its files cannot be checked",
            f"see whether it will fit (lorachain fit {subject.name}), download it, and run this command again",
        )
    else:
        yield from guarded("disk", lambda: _disk(context, model))
        yield from guarded("tensors", lambda: check_tensors(model.base))
        yield from guarded("tokenizer", lambda: check_tokenizer(model.base))
        yield from _in_memory(context, model, server)
    if kinds is not None or subject.is_chain:
        yield from check_data(context, model.base if model else None, kinds)


def _disk(context: ChainContext, model: ScoredModel) -> Iterator[Finding]:
    need = disk_need(read_structure(model.base), context.config, downloaded=True)
    what = f"the merged base ({gigabytes(need.merged_base)}), checkpoints and adapters"
    yield from check_disk(context.workspace.model_root, need.total, what)


def _in_memory(context: ChainContext, model: ScoredModel, server: Server | None) -> Iterator[Finding]:
    """Loads the model, which checks every value, and runs it."""
    try:
        device, size = resolve_device(context.config.device), weights_bytes(model.base)
    except LorachainError:  # reported by the checks of the device and the tensors
        return
    free = free_memory(device)
    if size > free:
        yield warning(
            "memory",
            f"the weights take {gigabytes(size)}, {device} has {gigabytes(free)} free: the model was not loaded",
            f"see which settings fit: lorachain fit {model.base}",
        )
        yield from guarded("values", lambda: _finite_files(model))
        return
    try:
        model.identity()
        loaded, encoder = model.load(device, dtype_of(context.config))
    except LorachainError as error:
        yield failure("values", str(error))
        return
    yield ok("values", f"loaded on {device} in {context.config.dtype}: every parameter from a file, none NaN")
    yield from _of_loaded(loaded, encoder, server)


def _of_loaded(model: nn.Module, encoder: TokenEncoder, server: Server | None) -> Iterator[Finding]:
    yield from guarded("attention isolation", lambda: check_isolation(model, encoder))
    yield from guarded("adapter", lambda: check_adapter(model, encoder))
    if server is not None:
        yield from guarded(
            "server",
            lambda: check_server(model, encoder, server.url, server_model=server.model, timeout=server.timeout),
        )


def _finite_files(model: ScoredModel) -> Iterator[Finding]:
    check_finite(model.base)
    yield ok("values", "every value of the files is finite")
