"""Intruder dimensions of a tuned matrix by singular value decompositions, one pair of vectors at a time.

Shuttleworth et al. 2024 (arXiv 2410.21228), algorithm 1: of the k left singular vectors of the tuned matrix with the
largest singular values, count those whose cosine with every left singular vector of the base is below epsilon. Nothing
here imports lorachain.
"""

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
K = 10
EPSILON = 0.5


def left_vectors(matrix: Matrix) -> list[Matrix]:
    """The left singular vectors, the largest singular value first, as numpy's SVD gives them."""
    u, _, _ = np.linalg.svd(matrix, full_matrices=False)
    return [u[:, i] for i in range(u.shape[1])]


def similarities(base: Matrix, tuned: Matrix) -> list[float]:
    """Of each of the first k vectors of the tuned matrix, the largest cosine with one of the base, of either sign."""
    before = left_vectors(base)
    return [max(abs(float(vector @ other)) for other in before) for vector in left_vectors(tuned)[:K]]


def intruders(base: Matrix, tuned: Matrix) -> int:
    return sum(cosine < EPSILON for cosine in similarities(base, tuned))


def spread(layers: list[int], count: int) -> set[int]:
    """So many layers from the first to the last at equal distances, rounded; a single one is the middle; 0: all."""
    if count == 0 or count >= len(layers):
        return set(layers)
    if count == 1:
        return {layers[len(layers) // 2]}
    distance = (len(layers) - 1) / (count - 1)
    return {layers[round(step * distance)] for step in range(count)}
