"""`local`: the project's own generation, for models in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from lorachain.inference.engines.base import Completion, EngineIdentity, FinishReason, Sampling, TextRequest
from lorachain.inference.generate import Generation, generate
from lorachain.tokens import TokenEncoder


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """Continues texts with a model in memory.

    What a request's seed draws does not depend on other requests, their order, or the memory allowed. The text can
    differ where two tokens are so close that the rounding of a batch of another size decides between them.
    """

    model: nn.Module
    encoder: TokenEncoder
    identity: EngineIdentity
    token_budget: int = 8192
    cache_bytes: int | None = None
    """See `generate`."""

    def complete(
        self,
        requests: Sequence[TextRequest],
        sampling: Sampling,
        *,
        stop: Callable[[str], bool],
        on_completion: Callable[[int, Completion], None],
    ) -> None:
        """See `TextEngine`. `stop` gets the text of the last 48 tokens.

        Raises:
            NonFiniteError: logits are NaN or infinite.
        """

        def on_generation(index: int, generation: Generation) -> None:
            finish: FinishReason = "stop" if generation.ended else "length"
            on_completion(index, Completion(generation.text, generation.tokens, finish))

        generate(
            self.model,
            self.encoder,
            [self.encoder.rendered_ids(request.text) for request in requests],
            stop=stop,
            max_new_tokens=sampling.max_new_tokens,
            token_budget=self.token_budget,
            cache_bytes=self.cache_bytes,
            temperature=sampling.temperature,
            seeds=[request.seed for request in requests],
            on_generation=on_generation,
        )
