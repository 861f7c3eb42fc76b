"""The first stage of two-stage Deformable DETR (arXiv 2010.04159, appendix A.4).

Shapes: B batch, S tokens of all levels, Q queries, D width.
"""

import dataclasses
import math

import torch
from torch import Tensor, nn

from fisher_detr.layers import at_least_float32, sine_encoding
from fisher_detr.modeling.pyramid import TokenPyramid

# Width and height of the first level's boxes as parts of the image; each level doubles them.
BASE_SIZE = 0.05
# Boxes that reach out of this range are no proposals: their logits would be extreme.
MARGIN = 0.01


@dataclasses.dataclass(frozen=True)
class Proposals:
    """A box for every token, and the queries made of the best.

    Attributes:
        logits: [B, S, n], of the encoder's class head; the first ranks the tokens.
        boxes: [B, S, 4], center x, center y, width, height as parts of the image.
        queries: [B, Q, D].
        query_position: [B, Q, D].
        reference: [B, Q, 4], boxes of the best, without gradient.
    """

    logits: Tensor
    boxes: Tensor
    queries: Tensor
    query_position: Tensor
    reference: Tensor


class ProposalStage(nn.Module):
    """Predicts a box at every token and turns the best into queries."""

    def __init__(self, dim: int, num_queries: int):
        """Args are D and Q."""
        super().__init__()
        self.num_queries = num_queries
        self.enc_output = nn.Linear(dim, dim)
        self.enc_output_norm = nn.LayerNorm(dim)
        self.pos_trans = nn.Linear(2 * dim, 2 * dim)
        self.pos_trans_norm = nn.LayerNorm(2 * dim)
        for layer in (self.enc_output, self.pos_trans):
            nn.init.xavier_uniform_(layer.weight)

    def forward(
        self, memory: Tensor, pyramid: TokenPyramid, class_head: nn.Module, box_head: nn.Module
    ) -> Proposals:
        """Propose.

        Args:
            memory: [B, S, D], the encoded tokens.
            pyramid: where they are.
            class_head: from [B, S, D] to [B, S, n].
            box_head: from [B, S, D] to [B, S, 4], relative to the token's own box.

        Raises:
            ValueError: there are fewer tokens than queries.
        """
        if memory.shape[1] < self.num_queries:
            raise ValueError(
                f"{memory.shape[1]} tokens for {self.num_queries} two-stage queries: "
                "lower MODEL.DETR.NUM_QUERIES or raise the size of the images"
            )
        anchors, usable = _anchors(pyramid)
        tokens = self.enc_output_norm(self.enc_output(memory.masked_fill(~usable, 0.0)))
        logits = class_head(tokens)
        box_logits = at_least_float32(box_head(tokens)) + anchors
        best = logits[..., 0].topk(self.num_queries, dim=1).indices  # [B, Q]
        best_logits = box_logits.gather(1, best[..., None].expand(-1, -1, 4)).detach()
        reference = best_logits.sigmoid()
        encoded = sine_encoding(reference * (2 * math.pi), memory.shape[-1] // 2).flatten(-2)  # [B, Q, 2 D]
        transformed = self.pos_trans_norm(self.pos_trans(encoded.to(memory.dtype)))
        query_position, queries = transformed.chunk(2, dim=-1)
        return Proposals(logits, box_logits.sigmoid(), queries, query_position, reference)


def _anchors(pyramid: TokenPyramid) -> tuple[Tensor, Tensor]:
    """Logits [B, S, 4] of the tokens' own boxes, infinite where they are not usable, and usable [B, S, 1]."""
    centers = pyramid.centers
    sides = [
        torch.full((h * w,), BASE_SIZE * 2.0**level, dtype=centers.dtype, device=centers.device)
        for level, (h, w) in enumerate(pyramid.levels.shapes)
    ]
    sides = torch.cat(sides)[:, None].expand(centers.shape[0], -1, 2)  # [B, S, 2]
    boxes = torch.cat([centers, sides], dim=-1)
    usable = ((boxes > MARGIN) & (boxes < 1 - MARGIN)).all(-1, keepdim=True)
    if pyramid.mask is not None:
        usable = usable & pyramid.mask[..., None]
    return torch.logit(boxes).masked_fill(~usable, torch.inf), usable
