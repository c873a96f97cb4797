"""Cross entropy of supervised tokens against 262,144 vocabulary rows, without an (N, V) tensor.

The gradient of a token's loss with respect to its hidden state h is  softmax(h Wᵀ) W − W[target]:  attention with the
head as both keys and values. It is computed as flash attention computes its output (Dao et al. 2022, arXiv 2205.14135):
one pass over blocks of the vocabulary with an online softmax (Milakov & Gimelshein 2018, arXiv 1805.02867), with each
block's logits in the CPU's cache. The head is frozen (and tied), so it needs no gradient and nothing is computed twice.
Products are in the weights' type, statistics in float32. Liger (arXiv 2410.10989) and Cut Cross-Entropy (arXiv
2411.09009) have the same aim; docs/benchmarks.md compares them. On CUDA a block's softmax is one operator.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lorachain.artifacts import LayerKind
from lorachain.kernels.operators import online_softmax_
from lorachain.training.layers import use_layers
from lorachain.training.preference import preference_losses, preference_margins
from lorachain.training.progress import PreferenceSettings
from lorachain.weights.attention_choice import use_fast_attention
from lorachain.weights.load import head_weight, is_sharded, plain_model, text_decoder
from lorachain.weights.lora import PeftModel
from lorachain.weights.segments import sequence_options

ROW_BLOCK = 256
VOCABULARY_BLOCK = {"cpu": 8_192, "cuda": 65_536}
"""By device type, as measured (docs/benchmarks.md): a block of 256 x 8,192 logits stays in a CPU's shared cache."""
FUSED_ROW_BLOCK, FUSED_VOCABULARY_BLOCK = 2_048, 32_832
"""With the fused softmax: an eighth of the vocabulary, 134 MB of logits in bf16, and large products."""


class _TokenCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, fused: bool) -> Tensor:
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None  # (N, H)
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        row_block, softmax = (FUSED_ROW_BLOCK, _fused_softmax) if fused else (ROW_BLOCK, _online_softmax)
        for start in range(0, hidden.shape[0], row_block):
            rows = slice(start, start + row_block)
            states, target_rows = hidden[rows], weight[targets[rows]].float()  # (C, H) both
            log_normalizer, expected_row = softmax(states, weight, with_expectation=gradient is not None)
            losses[rows] = log_normalizer - (states.float() * target_rows).sum(dim=1)
            if gradient is not None:
                gradient[rows] = (expected_row - target_rows).to(gradient.dtype)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype).unsqueeze(1), None, None, None


def _online_softmax(states: Tensor, weight: Tensor, *, with_expectation: bool) -> tuple[Tensor, Tensor]:
    """log Σ exp(h Wᵀ) as (C,), and softmax(h Wᵀ) W as (C, H), both float32, in one pass over the vocabulary."""
    count, width = states.shape
    block = VOCABULARY_BLOCK.get(states.device.type, 65_536)
    highest = torch.full((count, 1), -torch.inf, device=states.device)
    normalizer = torch.zeros((count, 1), device=states.device)
    expectation = torch.zeros((count, width), device=states.device)
    for start in range(0, weight.shape[0], block):
        vocabulary = weight[start : start + block]  # (B, H)
        logits = states @ vocabulary.T  # (C, B)
        new_highest = torch.maximum(highest, logits.amax(dim=1, keepdim=True).float())
        rescale = (highest - new_highest).exp_()
        exponentials = logits.float().sub_(new_highest).exp_()  # (C, B)
        normalizer = normalizer * rescale + exponentials.sum(dim=1, keepdim=True)
        if with_expectation:
            expectation.mul_(rescale).add_(exponentials.to(weight.dtype) @ vocabulary)
        highest = new_highest
    return (highest + normalizer.log()).squeeze(1), expectation / normalizer


def _fused_softmax(states: Tensor, weight: Tensor, *, with_expectation: bool) -> tuple[Tensor, Tensor]:
    """`_online_softmax` with one operator for what happens to a block of logits, in place."""
    count, width = states.shape
    highest = torch.full((count,), -torch.inf, device=states.device)
    normalizer = torch.zeros((count,), device=states.device)
    expectation = torch.zeros((count, width), device=states.device)
    for start in range(0, weight.shape[0], FUSED_VOCABULARY_BLOCK):
        vocabulary = weight[start : start + FUSED_VOCABULARY_BLOCK]  # (B, H)
        block = states @ vocabulary.T  # (C, B)
        rescale = online_softmax_(block, highest, normalizer)
        if with_expectation:
            expectation.mul_(rescale[:, None]).add_(block @ vocabulary)
    return highest + normalizer.log(), expectation / normalizer[:, None]


def token_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, fused: bool = False) -> Tensor:
    """Negative log-likelihood of each target, in nats, as (N,) float32.

    Args:
        hidden: (N, H) hidden states, in the weights' type.
        weight: (V, H) frozen head.
        targets: (N,) int64, the id that each hidden state is to predict.
        fused: whether the softmax is one operator (`kernels/`), for CUDA.
    """
    return cast(Tensor, _TokenCrossEntropy.apply(hidden, weight, targets, fused))  # type: ignore[no-untyped-call]


def supervised_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, fused: bool = False) -> Tensor:
    """The sum of `token_cross_entropy`, block by block, as a float32 scalar."""
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for losses in torch.split(token_cross_entropy(hidden, weight, targets, fused=fused), ROW_BLOCK):
        total = total + losses.sum()
    return total


class SupervisedLanguageModel(nn.Module):
    """A causal language model whose forward pass is its training loss.

    The decoder runs on all positions, the head on supervised ones only. The Trainer calls this module, so it is what
    DDP wraps. Construction switches `model` to this project's attention (on a CPU or a CUDA device) and layers of that
    kind.

    Args:
        preference: how pairs of a right and a wrong answer are trained, where batches have some.
    """

    def __init__(
        self, model: nn.Module, layers: LayerKind = "recomputed", preference: PreferenceSettings | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.preference = preference
        self.fused = layers != "recomputed"
        use_fast_attention(plain_model(model))
        use_layers(text_decoder(model), layers)

    @property
    def is_distributed_loading_by_transformers(self) -> bool:
        """The name under which Trainer looks up whether the model is sharded already."""
        return is_sharded(self.model)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        labels: Tensor,
        supervised: Tensor,
        normalizer: Tensor,
        bounds: Tensor | None = None,
        longest: int = 0,
        preference: Tensor | None = None,
        pairs: Tensor | None = None,
    ) -> Tensor:
        """The loss summed over the labels at `supervised`, divided by `normalizer`; with `preference`, without those of
        wrong answers, and with the preference loss of the pairs (`training.preference`).

        Args:
            input_ids, position_ids: (B, T) int64.
            labels: (B, T) int64, already shifted (`tokens.collate`).
            supervised: (N,) int64, the indices of those labels in `labels.flatten()`.
            normalizer: () float32.
            bounds, longest: of the sequences in a single batch row, where the attention takes them.
            preference: (P, N) float32, of the pairs among the labels; bounds and this as in `tokens.Batch`.
            pairs: () float32, what the preference loss is divided by.

        Raises:
            ValueError: there are pairs, and the module was made without `preference` settings.
        """
        packing = {} if bounds is None else sequence_options(bounds, longest)
        decoder_inputs = {"input_ids": input_ids, "position_ids": position_ids, **packing}
        targets = labels.flatten().index_select(0, supervised)  # (N,)
        if preference is None:
            states = self._states(supervised, decoder_inputs)
            return supervised_cross_entropy(states, head_weight(self.model), targets, fused=self.fused) / normalizer
        if self.preference is None or pairs is None:
            raise ValueError("the batch has pairs, but no preference is trained")
        # First: without its adapter, no parameter needs a gradient meanwhile.
        with cast(PeftModel, self.model).disable_adapter(), torch.no_grad():
            reference = self._token_losses(supervised, targets, decoder_inputs)
        losses = self._token_losses(supervised, targets, decoder_inputs)
        rejected = (preference < 0).any(dim=0)  # (N,)
        likelihood = losses.masked_fill(rejected, 0.0).sum() / normalizer
        margins = preference_margins(reference - losses, preference)  # (P,)
        return likelihood + self.preference.weight * preference_losses(margins, self.preference.beta).sum() / pairs

    def _states(self, supervised: Tensor, decoder_inputs: dict[str, Any]) -> Tensor:
        """(N, H), of the positions whose targets are supervised."""
        states = text_decoder(self.model)(**decoder_inputs, use_cache=False).last_hidden_state  # (B, T, H)
        return cast(Tensor, states.flatten(0, 1).index_select(0, supervised))

    def _token_losses(self, supervised: Tensor, targets: Tensor, decoder_inputs: dict[str, Any]) -> Tensor:
        """(N,)"""
        states = self._states(supervised, decoder_inputs)
        return token_cross_entropy(states, head_weight(self.model), targets, fused=self.fused)
