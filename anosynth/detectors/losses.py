"""Losses for masks that cover little of an image."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

FOCAL_GAMMA = 2.0
_SMOOTH = 1.0


def focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = FOCAL_GAMMA) -> Tensor:
    """Cross-entropy that looks away from pixels already right (Lin et al. 2017).

    FL(p_t) = -(1 - p_t)^gamma log(p_t), averaged over pixels

    Args:
        logits: [B, 1, H, W].
        targets: [B, 1, H, W] in {0, 1}; p_t is the probability given to the target.
        gamma: 0 is plain cross-entropy. The paper's class weight alpha is left out: Dice balances the classes.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return ((1.0 - (-entropy).exp()) ** gamma * entropy).mean()


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus the soft Dice overlap (Milletari et al. 2016), over the whole batch.

    D = (2 sum p t + 1) / (sum p + sum t + 1)

    Over the batch and not per image, because a normal image alone has no overlap to speak of; the 1 keeps a batch of
    normals defined.

    Args:
        logits: [B, 1, H, W].
        targets: [B, 1, H, W] in {0, 1}.
    """
    p = logits.sigmoid()
    overlap = 2.0 * (p * targets).sum() + _SMOOTH
    return 1.0 - overlap / (p.sum() + targets.sum() + _SMOOTH)
