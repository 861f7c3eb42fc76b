"""Small models with everything that quantization has to find."""

import torch
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet
from torch import nn

from fisher_detr.layers.attention import MultiheadAttention


class ToyDetector(nn.Module):
    """A ResNet of basic blocks, attention, an embedding and a head that has two names."""

    def __init__(self, norm="FrozenBN"):
        super().__init__()
        stages = [[BasicBlock(8, 8, norm=norm)], [BasicBlock(8, 16, stride=2, norm=norm)]]
        self.backbone = ResNet(BasicStem(3, 8, norm=norm), stages, out_features=["res3"])
        self.query_embed = nn.Embedding(5, 16)
        self.attention = MultiheadAttention(16, 2)
        self.norm = nn.LayerNorm(16)
        self.class_embed = nn.Linear(16, 7)
        self.decoder = nn.ModuleDict({"class_embed": self.class_embed})
        for module in self.modules():
            randomize_norm(module)

    def forward(self, images):
        features = self.backbone(images)["res3"].flatten(2).transpose(1, 2)
        queries = self.query_embed.weight.expand(len(images), -1, -1)
        return self.decoder["class_embed"](self.norm(self.attention(queries, features, features)))


def randomize_norm(module):
    if hasattr(module, "running_var"):
        for name in ("weight", "running_var"):
            getattr(module, name).data.uniform_(0.5, 2.0)
        for name in ("bias", "running_mean"):
            getattr(module, name).data.normal_(0.0, 0.3)


def toy_detector(seed=0, **kwargs):
    torch.manual_seed(seed)
    return ToyDetector(**kwargs).eval()


def images(batch=2, seed=1):
    return torch.randn(batch, 3, 32, 48, generator=torch.Generator().manual_seed(seed))
