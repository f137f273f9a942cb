"""The exchange between two branches at one position: DualAnoDiff's self-attention interaction module (SAIM).

Jin et al., "Dual-Interrelated Diffusion Model for Few-Shot Anomaly Image Generation", CVPR 2025, section 3.2: the
features of both branches form a sequence of length two at every spatial position, and attend to each other there.
A softmax over two is a sigmoid of a difference, so no length-two attention is ever computed here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

NUM_BRANCHES = 2
LAYER_NORM_EPS = 1e-6


class Interaction(nn.Module):
    """Attention between the two branches, position by position, added to the features.

    Notation: h_i in R^c the features of branch i; z_i = In(LayerNorm(h_i)) in R^r; q, k, v linear maps of z;
    a_i = softmax over j in {0, 1} of q_i . k_j / sqrt(r); the result is h_i + Out(sum_j a_ij v_j).

    With `inner` equal to the width this is the paper's structure (five full maps). With a small `inner` it is a
    bottleneck c -> r -> c. Differs: `zero_output` starts Out at zero, so that the base model is untouched at step 0;
    the published code starts it at random and must first relearn what it broke.
    """

    def __init__(self, width: int, inner: int, *, zero_output: bool, generator: torch.Generator) -> None:
        """Create the module.

        Args:
            width: c, channels of the attention layer.
            inner: r, width of q, k, v; at most `width`.
            zero_output: start the output map at zero.
            generator: CPU generator for the initial weights (uniform in +-1/sqrt(fan-in), torch's own rule).
        """
        super().__init__()
        if not 1 <= inner <= width:
            raise ValueError(f"inner width is {inner}; it must lie in [1, {width}]")
        self.width = width
        self.inner = inner
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.in_map = seeded_linear(width, inner, generator)
        self.q_map = seeded_linear(inner, inner, generator)
        self.k_map = seeded_linear(inner, inner, generator, bias=False)  # a bias of k cancels in the softmax
        self.v_map = seeded_linear(inner, inner, generator)
        self.out_map = seeded_linear(inner, width, generator)
        if zero_output:
            nn.init.zeros_(self.out_map.weight)
            nn.init.zeros_(self.out_map.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Let both branches see each other: the form that is trained.

        Args:
            features: [2 B, n, c], branch-major (all of branch 0, then all of branch 1, in the same order).

        Returns:
            features plus the exchange, [2 B, n, c].
        """
        z = self.in_map(self.norm(features))
        z0, z1 = z.chunk(NUM_BRANCHES)
        # weight of branch 1 as seen from i: sigmoid(q_i . (k_1 - k_0) / sqrt(r))
        toward = nn.functional.linear(z1 - z0, self.k_map.weight) / math.sqrt(self.inner)
        queries = self.q_map(z).unflatten(0, (NUM_BRANCHES, -1))
        weight = torch.sigmoid((queries * toward).sum(dim=-1, keepdim=True))
        v0, v1 = self.v_map(z).chunk(NUM_BRANCHES)
        mixed = v0 + weight * (v1 - v0)
        return features + self.out_map(mixed.flatten(0, 1))


class FoldedInteraction(nn.Module):
    """The same function with its linear maps multiplied out once, in float64: the form that samples.

    Full width (r = c): with u = LayerNorm without its affine part, du = u_1 - u_0,
    out_i = h_i + P u_0 + p + sigmoid(u_i . (S du) + s . du) (P du), three c x c products instead of ten.
    Bottleneck (r < c): folding to c x c would cost more than it saves, so only the maps inside r are multiplied out:
    z = A u + a, then the same formula on z, with P = Out V in R^(c x r) and S in R^(r x r).
    """

    down: Tensor | None
    down_bias: Tensor | None

    def __init__(self, source: Interaction) -> None:
        """Fold `source`; later changes of `source` are not followed."""
        super().__init__()
        self.width = source.width
        self.inner = source.inner
        norm_weight, norm_bias = source.norm.weight.double(), source.norm.bias.double()
        a_map = source.in_map.weight.double() * norm_weight
        a_bias = source.in_map.weight.double() @ norm_bias + source.in_map.bias.double()
        score = source.q_map.weight.double().T @ source.k_map.weight.double() / math.sqrt(self.inner)
        score_bias = source.q_map.bias.double() @ source.k_map.weight.double() / math.sqrt(self.inner)
        value = source.out_map.weight.double() @ source.v_map.weight.double()
        value_bias = source.out_map.weight.double() @ source.v_map.bias.double() + source.out_map.bias.double()
        if self.inner == self.width:
            score_bias = (a_bias @ score + score_bias) @ a_map
            score = a_map.T @ score @ a_map
            value_bias = value @ a_bias + value_bias
            value = value @ a_map
            self.register_buffer("down", None)
            self.register_buffer("down_bias", None)
        else:
            self.register_buffer("down", a_map.to(source.in_map.weight))
            self.register_buffer("down_bias", a_bias.to(source.in_map.weight))
        like = source.in_map.weight
        # S du and P du share their input: one product with both maps stacked
        self.register_buffer("score_and_value", torch.cat([score, value]).detach().to(like))
        self.register_buffer("score_bias", score_bias.detach().to(like))
        self.register_buffer("value_bias", value_bias.detach().to(like))

    score_and_value: Tensor
    score_bias: Tensor
    value_bias: Tensor

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        """See `Interaction.forward`; no gradients."""
        u = nn.functional.layer_norm(features, (self.width,), eps=LAYER_NORM_EPS)
        if self.down is not None:
            u = nn.functional.linear(u, self.down, self.down_bias)
        u0, u1 = u.chunk(NUM_BRANCHES)
        difference = u1 - u0
        both = nn.functional.linear(difference, self.score_and_value)
        toward, value = both.split([self.inner, self.width], dim=-1)
        base = nn.functional.linear(u0, self.score_and_value[self.inner :], self.value_bias)
        logits = (u.unflatten(0, (NUM_BRANCHES, -1)) * toward).sum(dim=-1, keepdim=True)
        logits = logits + nn.functional.linear(difference, self.score_bias.unsqueeze(0))
        exchange = torch.addcmul(base, torch.sigmoid(logits), value)
        return features + exchange.flatten(0, 1)


def seeded_linear(fan_in: int, fan_out: int, generator: torch.Generator, *, bias: bool = True) -> nn.Linear:
    """A linear map with torch's own initial weights (uniform in +-1/sqrt(fan_in)), drawn from `generator` alone."""
    # nn.Linear itself would draw from the global generator
    layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out, bias=bias)
    bound = 1.0 / math.sqrt(fan_in)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        if bias:
            layer.bias.uniform_(-bound, bound, generator=generator)
    return layer
