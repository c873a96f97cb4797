"""AdamW on float32 masters of low-precision parameters.

With float32 LoRA factors in a bf16 model, every activation is cast twice and no bf16 unit is used for the LoRA. With
bf16 factors alone, updates smaller than half an ulp are lost. So the model computes with bf16 factors, and the
optimizer keeps float32 masters (mixed precision as in Micikevicius et al. 2018, arXiv 1710.03740). Gradients are
float32 too: in bf16 the sum over a step's micro-batches, its norm and its clipping would each be rounded to 8 bits.
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

from lorachain.errors import NonFiniteError


class MasterWeightAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` over float32 copies, which are rounded into the model's parameters after each step.

    Construction converts each parameter to `compute_dtype` in place; its gradients stay float32. With float32 it is
    plain AdamW.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, compute_dtype: torch.dtype, lr: float, weight_decay: float
    ) -> None:
        self.model_parameters = list(parameters)
        self.masters = [p.detach().to(torch.float32, copy=True) for p in self.model_parameters]
        for parameter in self.model_parameters:
            parameter.data = parameter.data.to(compute_dtype)
            parameter.grad_dtype = torch.float32
        super().__init__(self.masters, lr=lr, weight_decay=weight_decay)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        for parameter, master in zip(self.model_parameters, self.masters, strict=True):
            master.grad = parameter.grad
        loss: float | None = super().step(closure)
        self.copy_to_model()
        for master in self.masters:
            master.grad = None
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.model_parameters:
            parameter.grad = None

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Rounds the masters into the model's parameters."""
        for parameter, master in zip(self.model_parameters, self.masters, strict=True):
            parameter.copy_(master)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "masters": list(self.masters)}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of `torch.optim.AdamW`, with the masters.

        Raises:
            NonFiniteError: a tensor is NaN or infinite.
        """
        state_dict = dict(state_dict)
        for master, stored in zip(self.masters, state_dict.pop("masters"), strict=True):
            master.copy_(stored)
        super().load_state_dict(state_dict)
        if not self.is_finite():
            raise NonFiniteError(
                "the optimizer state of the checkpoint is not finite (NaN or infinite); delete that checkpoint, and "
                "the run resumes from the one before it"
            )
        self.copy_to_model()

    def is_finite(self) -> bool:
        """Whether all masters and all of AdamW's moments are finite."""
        moments = (value for state in self.state.values() for value in state.values() if isinstance(value, Tensor))
        return all(bool(tensor.isfinite().all()) for tensor in (*self.masters, *moments))


def master_tensors(optimizer: MasterWeightAdamW, names: Iterable[str]) -> dict[str, Tensor]:
    """The float32 masters on the CPU by name; `names` are in the order in which the parameters were given."""
    return {name: m.detach().cpu().contiguous() for name, m in zip(names, optimizer.masters, strict=True)}
