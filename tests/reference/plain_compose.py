"""Two LoRA adapters as one, from the definition alone, with dense (out, in) matrices in float64.

W + s1 B1 A1 + s2 B2 A2 is W plus one matrix. Its best approximation of rank k in the Frobenius and the spectral norm is
the truncated singular value decomposition (Eckart and Young 1936; Mirsky 1960). Nothing here imports lorachain.
"""

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor, float]
"""A (r, in), B (out, r), scale."""


def dense_update(factors: list[Factors]) -> Tensor:
    """The sum of scale * B A."""
    updates = [scale * (b.double() @ a.double()) for a, b, scale in factors]
    return torch.stack(updates).sum(dim=0)


def best_of_rank(matrix: Tensor, rank: int) -> Tensor:
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    best: Tensor = (u[:, :rank] * s[:rank]) @ vt[:rank]
    return best


def frobenius(matrix: Tensor) -> float:
    return float((matrix**2).sum().sqrt())


def spectral(matrix: Tensor) -> float:
    return float(torch.linalg.svdvals(matrix).amax())
