"""A device without values (PyTorch's FakeTensors on its PrivateUse1 backend), and a count of what runs on it.

The backend can be registered once per process: use it through `gpu_making.count_steps`, which starts one.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = "fakegpu"
_FUSED = {  # kernels that an operator launches on CUDA, where it is not one
    "torch_attn._varlen_attn": 2, "torch_attn._varlen_attn_backward": 5, "aten._scaled_dot_product_flash_attention": 1,
    "aten._scaled_dot_product_flash_attention_backward": 5, "aten._scaled_dot_product_efficient_attention": 1,
    "aten._scaled_dot_product_efficient_attention_backward": 3,
}  # fmt: skip
_PRODUCTS = {"aten.mm", "aten.linear", "aten.addmm", "aten.addmm_", "aten.bmm", "aten.baddbmm"}
_GATHERS = {"aten.embedding", "aten.index", "aten.index_select"}
"""They read as much as they return."""
_NOTHING = {"aten.empty", "aten.empty_like", "aten.empty_strided", "aten.new_empty", "aten.new_empty_strided"}
"""They launch no kernel."""


@dataclass
class StepCounts:
    launches: int = 0
    elementwise_bytes: int = 0
    """Read and written by all operators besides matrix products and attention."""
    kept_bytes: int = 0
    """Alive after the forward pass and not before: what autograd keeps, whatever keeps it."""
    peak_bytes: int = 0
    """The most that was alive besides the model, at the ends of operators (sampled)."""
    estimated_bytes: int = 0
    """What `training/activations.py` calculates as kept."""
    masks: list[str] = field(default_factory=list)
    """Operators that returned a tensor of (..., T, T)."""
    to_host: list[str] = field(default_factory=list)
    """Operators whose result the host waits for."""
    operators: dict[str, int] = field(default_factory=dict)
    bytes_by_operator: dict[str, int] = field(default_factory=dict)


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators on the fake device; it sees what autograd and composite operators have become."""

    def __init__(self, tokens: int, supervised: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tokens = tokens
        self.supervised = supervised
        self.counts = StepCounts()
        self.operators: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self._seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self._host_value(func, args)
        if result is None:
            result = func(*args, **(kwargs or {}))
        name = str(func).rsplit(".", 1)[0]
        if _is_on_device(args) and isinstance(result, Tensor) and result.device.type != DEVICE:
            self.counts.to_host.append(name)
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor) and t.device.type == DEVICE]
        if not outputs or _is_view(func):
            return result
        self._remember(outputs)
        if name in _NOTHING:
            return result
        launches = _FUSED.get(name, 1)
        self.counts.launches += launches
        self.operators[name] += launches
        if name not in _PRODUCTS and name not in _FUSED:
            read = outputs if name in _GATHERS else [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            moved = sum(_touched(t) for t in (*read, *outputs))
            self.counts.elementwise_bytes += moved
            self.bytes[name] += moved
        self.counts.masks += [f"{name} {tuple(t.shape)} {t.dtype}" for t in outputs if self._is_mask(t)]
        self._seen += 1
        if self._seen % 100 == 0:
            self.counts.peak_bytes = max(self.counts.peak_bytes, self.alive())
        return result

    def _is_mask(self, tensor: Tensor) -> bool:
        """Whether it has an entry for each query and key. Booleans may have more keys: those of a prefix."""
        rows, columns = tensor.shape[-2:] if tensor.dim() > 2 else (0, 0)
        return rows == self.tokens and (columns == rows or (tensor.dtype == torch.bool and columns > rows))

    def _host_value(self, func: Any, args: Any) -> Any:
        """What the host would read from the device; None where the operator is another one."""
        name = str(func).rsplit(".", 1)[0]
        if name == "aten._local_scalar_dense" and args[0].device.type == DEVICE:
            self.counts.to_host.append(name)
            return 0 if not args[0].dtype.is_floating_point else 1.0
        if name == "aten.nonzero" and args[0].device.type == DEVICE:
            self.counts.to_host.append(name)
            return args[0].new_empty((self.supervised, args[0].dim()), dtype=torch.int64)
        if name == "aten.index" and any(t is not None and t.dtype == torch.bool for t in args[1]):
            self.counts.to_host.append("aten.index with booleans")
            mask = next(t for t in args[1] if t is not None)
            return args[0].new_empty((self.supervised, *args[0].shape[mask.dim() :]))
        if name.startswith("aten.index_put") and any(t is not None and t.dtype == torch.bool for t in args[1]):
            self.counts.to_host.append(f"{name} with booleans")
            return args[0].new_empty(args[0].shape)
        return None

    def finished(self) -> StepCounts:
        self.counts.operators = dict(self.operators.most_common())
        self.counts.bytes_by_operator = dict(self.bytes.most_common())
        return self.counts

    def _remember(self, outputs: list[Tensor]) -> None:
        for tensor in outputs:
            reference = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
            self.storages[reference.cdata] = (reference, tensor.untyped_storage().nbytes())

    def alive(self) -> int:
        """Bytes of all tensors that operators have returned and that are still held."""
        self.storages = {key: entry for key, entry in self.storages.items() if _is_alive(entry[0])}
        return sum(size for _, size in self.storages.values())


def _is_on_device(args: Any) -> bool:
    return any(isinstance(t, Tensor) and t.device.type == DEVICE for t in tree_leaves(args))


def _is_alive(reference: StorageWeakRef) -> bool:
    return not reference.expired()  # type: ignore[no-untyped-call]


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    alias = returns[0].alias_info if returns else None
    return str(func) == "aten._unsafe_view.default" or (alias is not None and not alias.is_write)


def _touched(tensor: Tensor) -> int:
    """Bytes of a tensor in memory: an expanded one is smaller than its shape."""
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())


def sdpa_of_cuda(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The operators of `scaled_dot_product_attention` on CUDA in bf16: flash without a mask, otherwise the
    memory-efficient one, for which a mask of booleans becomes one of numbers."""
    aten = torch.ops.aten
    if attn_mask is None:
        result = aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
    else:
        bias = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(attn_mask.logical_not(), -torch.inf)
        bias = bias.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        result = aten._scaled_dot_product_efficient_attention(query, key, value, bias, True, dropout_p, scale=scale)[0]
    assert isinstance(result, Tensor)
    return result


class Backend(backend_registration._DummyBackendModule):
    """`torch.fakegpu`: what activation recomputation asks a device for."""

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.zeros(16, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    @contextmanager
    def device(self, index: Any) -> Iterator[None]:
        yield


def register_device() -> None:
    backend_registration._setup_privateuseone_for_python_backend(DEVICE, backend_module=Backend())
