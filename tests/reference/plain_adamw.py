"""AdamW, number by number: Algorithm 2 of Loshchilov and Hutter 2019 (arXiv 1711.05101), with the learning rate as the
schedule multiplier of the decay, as in PyTorch. Masters are float32 numbers, moments Python floats (float64).

Mixed precision as in Micikevicius et al. 2018 (arXiv 1710.03740): the model computes with rounded copies of the
masters. Nothing here imports lorachain.
"""

import math
from dataclasses import dataclass

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass
class PlainAdamW:
    """One parameter, a list of numbers."""

    master: list[float]
    learning_rate: float
    weight_decay: float

    def __post_init__(self) -> None:
        self.steps = 0
        self.first = [0.0] * len(self.master)
        self.second = [0.0] * len(self.master)

    def step(self, gradient: list[float]) -> None:
        self.steps += 1
        for i, g in enumerate(gradient):
            self.master[i] -= self.learning_rate * self.weight_decay * self.master[i]
            self.first[i] = BETA1 * self.first[i] + (1 - BETA1) * g
            self.second[i] = BETA2 * self.second[i] + (1 - BETA2) * g * g
            mean = self.first[i] / (1 - BETA1**self.steps)
            variance = self.second[i] / (1 - BETA2**self.steps)
            self.master[i] -= self.learning_rate * mean / (math.sqrt(variance) + EPSILON)
