"""A run stops at the first loss, gradient or weight that is NaN or infinite: the steps after it would train nothing."""

import math

from torch import nn

from lorachain.errors import NonFiniteError
from lorachain.training.progress import TrainingSettings
from lorachain.weights.load import plain_model


def check_finite(name: str, value: float, model: nn.Module, settings: TrainingSettings) -> None:
    """Raises NonFiniteError where `value`, called `name` ("loss of step 3 of 9"), is NaN or infinite."""
    if not math.isfinite(value):
        raise non_finite(f"the {name} is {value}", model, settings)


def non_finite(problem: str, model: nn.Module, settings: TrainingSettings) -> NonFiniteError:
    """The error for `problem`, with where to look."""
    dtype = str(plain_model(model).dtype).removeprefix("torch.")
    return NonFiniteError(
        f"{problem}. Training stopped, and nothing of this step is saved. At the first step, check the weights of the "
        f"base and of the parent adapter for damage. Later, lower the learning rate ({settings.learning_rate:g}), "
        f"check the type that the model computes in ({dtype}; Gemma 3 overflows float16), and look at the "
        "data of this step"
    )
