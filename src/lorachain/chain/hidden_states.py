"""The base's hidden states after each task's prompts, kept so that KL divergences need one model in memory."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lorachain.artifacts import LedgerStep, StepModel, TokenCacheManifest
from lorachain.atomic import atomic_folder
from lorachain.chain.context import ChainContext
from lorachain.chain.ledger_jobs import Job
from lorachain.chain.ledger_steps import BASE, Step
from lorachain.errors import WorkspaceError
from lorachain.evaluation import divergence
from lorachain.provenance import sha256_file, sha256_json
from lorachain.user_key import is_signed, signature

_STATES, _MADE_FROM = "hidden_states.safetensors", "made_from.json"
_PREFIX = "kl_"


class HiddenStates:
    """Directories beside the ledger, one for the prompts of each task, complete or absent."""

    def __init__(self, context: ChainContext, step: Step, base_model: LedgerStep | None) -> None:
        self._folder = context.workspace.ledger(context.model).parent
        self._of_base = step.name == BASE
        self._model: StepModel | None = step.model if self._of_base else (base_model.model if base_model else None)

    def ready(self, job: Job) -> bool:
        """Whether a job of the base has left what the jobs of the other steps need."""
        return not self._of_base or not _is_divergence(job) or self._is_there(job.data_sha256)

    def available(self, job: Job) -> bool:
        """Whether a job can be scored."""
        return self._of_base or not _is_divergence(job) or self._is_there(job.data_sha256)

    def of_base(
        self, digest: str, prompts: Sequence[Sequence[int]], model: nn.Module, token_budget: int
    ) -> list[Tensor] | None:
        """The base's states after these prompts; for the base itself they are computed and kept, and None returned."""
        folder = self._path(digest)
        if not self._of_base:
            tensors = load_file(folder / _STATES)
            return [tensors[f"{number:06}"] for number in range(len(prompts))]
        states = divergence.prompt_hidden_states(model, prompts, token_budget=token_budget)
        with atomic_folder(folder) as staging:
            save_file({f"{number:06}": state.contiguous() for number, state in enumerate(states)}, staging / _STATES)
            manifest = TokenCacheManifest(
                identity=self._identity(digest), facts={}, rows_sha256=sha256_file(staging / _STATES), signature=""
            )
            with suppress(WorkspaceError):  # unsigned, they are computed again at the next start
                manifest = manifest.model_copy(update={"signature": signature(_signed_part(manifest))})
            manifest.write(staging / _MADE_FROM)
        return None

    def _path(self, digest: str) -> Path:
        return self._folder / f"hidden_states-{digest[:16]}"

    def _identity(self, digest: str) -> str:
        model = self._model.as_dict() if self._model else None
        return sha256_json({"model": model, "prompts": digest, "version": divergence.VERSION})

    def _is_there(self, digest: str) -> bool:
        folder = self._path(digest)
        try:
            manifest = TokenCacheManifest.read(folder / _MADE_FROM)
            intact = sha256_file(folder / _STATES) == manifest.rows_sha256
            ours = is_signed(_signed_part(manifest), manifest.signature)
        except (WorkspaceError, OSError):
            return False
        return intact and ours and manifest.identity == self._identity(digest)


def _signed_part(manifest: TokenCacheManifest) -> dict[str, Any]:
    return {"kind": "hidden states", **manifest.model_dump(mode="json", exclude={"signature"})}


def _is_divergence(job: Job) -> bool:
    return job.measures[0].startswith(_PREFIX)
