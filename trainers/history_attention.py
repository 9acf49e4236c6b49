"""Historical embeddings in the model: the H vectors of a side become one.

    user's vectors [B, H, D] --+--> one vector [B, D] --+
    (newest first, masked)     |                        +--> inputs of the dense part
    item's vectors [B, H, D] --+--> one vector [B, D] --+--> user . item, into the logit

With attention, a user's vectors are weighed by the item that is shown, and an item's by
the user who sees it. With one slot there is nothing to weigh.

Legend: B impressions, H slots a side, D width of a historical embedding, K inputs.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from trainers.features import History
from trainers.settings import ModelConfig


class HistoryInputs(nn.Module):
    """What the dense part reads of historical embeddings: K = 2 D + 2 columns."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.slots, self.dim = config.history_slots, config.history_width
        attends = config.history_aggregation == "attention" and self.slots > 1
        self.attention = HistoryAttention(self.dim) if attends else None

    @property
    def width(self) -> int:
        return 2 * self.dim + 2

    def forward(
        self, history: History | None, like_BN: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs [B, K] and user . item [B, 1]; both zero where a side knows nothing.

        The columns: the user's vector, the item's, and the share of the slots that hold
        something, of the user and of the item.
        """
        if history is None:
            history = History.none(len(like_BN), self.slots, self.dim, like_BN.device)
        user_BD, item_BD = self._aggregated(history)
        shares_B2 = torch.stack([history.user_mask_BH.mean(1), history.item_mask_BH.mean(1)], 1)
        inputs_BK = torch.cat([user_BD, item_BD, shares_B2], 1)
        return inputs_BK, (user_BD * item_BD).sum(1, keepdim=True)

    def _aggregated(self, history: History) -> tuple[torch.Tensor, torch.Tensor]:
        if self.attention is not None:
            user_BD, item_BD = self.attention(history)
            return user_BD, item_BD
        return (
            masked_mean(history.user_BHD, history.user_mask_BH),
            masked_mean(history.item_BHD, history.item_mask_BH),
        )


class HistoryAttention(nn.Module):
    """Each side's vectors, weighed by what the other side last was.

    The query is the other side's newest vector, projected; TPM learns user . item, so
    both sides live in one space and the projection starts as the identity. A side
    without any vector asks nothing: the other side's are then averaged.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.asks_user_DD = nn.Parameter(torch.eye(dim))
        self.asks_item_DD = nn.Parameter(torch.eye(dim))

    def forward(self, history: History) -> tuple[torch.Tensor, torch.Tensor]:
        """One vector [B, D] of the user and one of the item."""
        user_BHD, user_BH = history.user_BHD, history.user_mask_BH
        item_BHD, item_BH = history.item_BHD, history.item_mask_BH
        item_asks_BD = newest(item_BHD, item_BH) @ self.asks_user_DD
        user_asks_BD = newest(user_BHD, user_BH) @ self.asks_item_DD
        return attend(item_asks_BD, user_BHD, user_BH), attend(user_asks_BD, item_BHD, item_BH)


def attend(query_BD: torch.Tensor, x_BHD: torch.Tensor, mask_BH: torch.Tensor) -> torch.Tensor:
    """Scaled dot-product attention, softmax(x q / sqrt(D)) x, over what ``mask_BH`` lets through.

    Vaswani et al. 2017, with x as keys and values. [B, D]; zero, with a gradient of
    zero, where the mask lets nothing through.
    """
    score_BH = (x_BHD * query_BD[:, None, :]).sum(2) / math.sqrt(x_BHD.shape[2])
    # Not minus infinity: a row of those has no softmax.
    score_BH = score_BH.masked_fill(mask_BH == 0, torch.finfo(score_BH.dtype).min)
    share_BH = torch.softmax(score_BH, 1) * mask_BH
    return (share_BH[:, :, None] * x_BHD).sum(1)


def masked_mean(x_BHD: torch.Tensor, mask_BH: torch.Tensor) -> torch.Tensor:
    """[B, D]; zero where the mask lets nothing through."""
    count_B1 = mask_BH.sum(1, keepdim=True).clamp_min(1.0)
    return (x_BHD * mask_BH[:, :, None]).sum(1) / count_B1


def newest(x_BHD: torch.Tensor, mask_BH: torch.Tensor) -> torch.Tensor:
    """The first vector that ``mask_BH`` lets through [B, D]; zero where there is none."""
    first_BH = mask_BH * (mask_BH.cumsum(1) == 1)
    return (x_BHD * first_BH[:, :, None]).sum(1)
