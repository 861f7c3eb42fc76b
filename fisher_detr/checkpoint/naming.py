"""The official names of every tensor beside the names here: one table, read in both directions.

Official names are those of the repositories of DETR, Deformable DETR and DAB-DETR, whose backbone is
torchvision's ResNet.
"""

import dataclasses
import enum
from collections.abc import Iterable, Iterator

from fisher_detr.checkpoint.architecture import Architecture, Family


class Kind(enum.Enum):
    """What a module stores."""

    AFFINE = ("weight", "bias")
    WEIGHT = ("weight",)
    FROZEN_NORM = ("weight", "bias", "running_mean", "running_var")
    TENSOR = ("",)  # no module: the tensor itself
    ATTENTION = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A module's official name, its name here, and what it stores."""

    official: str
    ours: str
    kind: Kind = Kind.AFFINE

    def below(self, official: str, ours: str) -> "Pair":
        """The same module inside two others."""
        return Pair(f"{official}.{self.official}", f"{ours}.{self.ours}", self.kind)


@dataclasses.dataclass(frozen=True)
class TensorName:
    """A tensor's official name and its names here: one, or three where q, k and v are packed into it."""

    official: str
    ours: tuple[str, ...]


_FFN = (Pair("linear1", "ffn.linear1"), Pair("linear2", "ffn.linear2"))
_PRELU = Pair("activation", "ffn.activation", Kind.WEIGHT)
_SELF_ATTENTION = Pair("self_attn", "self_attn", Kind.ATTENTION)
_ENCODER_NORMS = (Pair("norm1", "self_attn_norm"), Pair("norm2", "ffn.norm"))
_DECODER_NORMS = (
    Pair("norm1", "self_attn_norm"),
    Pair("norm2", "cross_attn_norm"),
    Pair("norm3", "ffn.norm"),
)
# Deformable DETR numbers its norms in the order of its modules, which is not that of its computation.
_DEFORMABLE_DECODER_NORMS = (
    Pair("norm1", "cross_attn_norm"),
    Pair("norm2", "self_attn_norm"),
    Pair("norm3", "ffn.norm"),
)
_DEFORMABLE_ATTENTION = (
    Pair("sampling_offsets", "sampling_offsets"),
    Pair("attention_weights", "attention_weights"),
    Pair("value_proj", "value_proj"),
    Pair("output_proj", "out_proj"),
)
_DAB_SELF_ATTENTION = (
    Pair("sa_qcontent_proj", "self_attn.q_content_proj"),
    Pair("sa_qpos_proj", "self_attn.q_pos_proj"),
    Pair("sa_kcontent_proj", "self_attn.k_content_proj"),
    Pair("sa_kpos_proj", "self_attn.k_pos_proj"),
    Pair("sa_v_proj", "self_attn.v_proj"),
    Pair("self_attn.out_proj", "self_attn.out_proj"),
)
_DAB_CROSS_ATTENTION = (
    Pair("ca_qcontent_proj", "cross_attn.q_content_proj"),
    Pair("ca_kcontent_proj", "cross_attn.k_content_proj"),
    Pair("ca_kpos_proj", "cross_attn.k_pos_proj"),
    Pair("ca_qpos_sine_proj", "cross_attn.q_sine_proj"),
    Pair("ca_v_proj", "cross_attn.v_proj"),
    Pair("cross_attn.out_proj", "cross_attn.out_proj"),
)
_DAB_FIRST_LAYER = Pair("ca_qpos_proj", "cross_attn.q_pos_proj")


def tensor_names(architecture: Architecture) -> list[TensorName]:
    """Every tensor of an official checkpoint.

    Several official names may have one name here: those of one tensor that is stored several times.
    """
    pairs = {Family.DETR: _detr, Family.DEFORMABLE: _deformable, Family.DAB: _dab}[architecture.family]
    return [name for pair in (*_backbone(architecture), *pairs(architecture)) for name in _tensors_of(pair)]


def repeated_names(architecture: Architecture) -> dict[str, str]:
    """Names here of tensors that are stored again, each with the name that `tensor_names` has for it.

    Without refinement all heads of Deformable DETR are one module.
    """
    if architecture.family is not Family.DEFORMABLE or architecture.refinement:
        return {}
    first = [name for pair in _deformable_heads(1) for tensor in _tensors_of(pair) for name in tensor.ours]
    return {
        name.replace("_embed.0.", f"_embed.{head}."): name
        for head in range(1, architecture.num_heads)
        for name in first
    }


def class_heads(architecture: Architecture) -> list[str]:
    """Module names of the distinct class heads, official and here; the proposals' head comes last."""
    if architecture.family is not Family.DEFORMABLE:
        return ["class_embed"]
    distinct = architecture.num_heads if architecture.refinement else 1
    return [f"class_embed.{head}" for head in range(distinct)]


def _tensors_of(pair: Pair) -> Iterator[TensorName]:
    for leaf in pair.kind.value:
        if leaf.startswith("in_proj_"):
            parameter = leaf.removeprefix("in_proj_")
            ours = tuple(f"{pair.ours}.{part}_proj.{parameter}" for part in "qkv")
            yield TensorName(f"{pair.official}.{leaf}", ours)
        else:
            end = f".{leaf}" if leaf else ""
            yield TensorName(pair.official + end, (pair.ours + end,))


def _backbone(architecture: Architecture) -> Iterator[Pair]:
    convolutions = 3 if architecture.bottleneck else 2
    yield from _convolution("conv1", "bn1", "stem.conv1")
    for stage, blocks in enumerate(architecture.blocks, 1):
        for block in range(blocks):
            official, ours = f"layer{stage}.{block}", f"res{stage + 1}.{block}"
            for i in range(1, convolutions + 1):
                yield from _convolution(f"{official}.conv{i}", f"{official}.bn{i}", f"{ours}.conv{i}")
            # The first block changes the width, but in the first stage of a ResNet without bottlenecks.
            if block == 0 and (stage > 1 or architecture.bottleneck):
                yield from _convolution(
                    f"{official}.downsample.0", f"{official}.downsample.1", f"{ours}.shortcut"
                )


def _convolution(convolution: str, norm: str, ours: str) -> Iterator[Pair]:
    yield Pair(convolution, ours, Kind.WEIGHT).below("backbone.0.body", "backbone")
    yield Pair(norm, f"{ours}.norm", Kind.FROZEN_NORM).below("backbone.0.body", "backbone")


def _detr(architecture: Architecture) -> Iterator[Pair]:
    yield from _layers("encoder", architecture.encoder_layers, (_SELF_ATTENTION, *_ENCODER_NORMS, *_FFN))
    cross = Pair("multihead_attn", "cross_attn", Kind.ATTENTION)
    yield from _layers(
        "decoder", architecture.decoder_layers, (_SELF_ATTENTION, cross, *_DECODER_NORMS, *_FFN)
    )
    yield Pair("transformer.decoder.norm", "transformer.norm")
    yield Pair("input_proj", "input_proj")
    yield Pair("query_embed", "query_embed", Kind.WEIGHT)
    yield Pair("class_embed", "class_embed")
    yield from _mlp("bbox_embed", "bbox_embed", 3)


def _deformable(architecture: Architecture) -> Iterator[Pair]:
    encoder = [pair.below("self_attn", "self_attn") for pair in _DEFORMABLE_ATTENTION]
    yield from _layers("encoder", architecture.encoder_layers, (*encoder, *_ENCODER_NORMS, *_FFN))
    decoder = [_SELF_ATTENTION, *(pair.below("cross_attn", "cross_attn") for pair in _DEFORMABLE_ATTENTION)]
    yield from _layers("decoder", architecture.decoder_layers, (*decoder, *_DEFORMABLE_DECODER_NORMS, *_FFN))
    yield Pair("transformer.level_embed", "transformer.level_embed", Kind.TENSOR)
    for level in range(architecture.levels):
        yield Pair(f"input_proj.{level}.0", f"input_proj.{level}.0")
        yield Pair(f"input_proj.{level}.1", f"input_proj.{level}.1")
    if architecture.two_stage:
        for name in ("enc_output", "enc_output_norm", "pos_trans", "pos_trans_norm"):
            yield Pair(f"transformer.{name}", f"proposals.{name}")
    else:
        yield Pair("query_embed", "query_embed", Kind.WEIGHT)
        yield Pair("transformer.reference_points", "reference_points")
    yield from _deformable_heads(architecture.num_heads, one=not architecture.refinement)
    for head in range(architecture.num_heads):  # the decoder's own names for the same modules
        if architecture.refinement:
            yield from _mlp(f"transformer.decoder.bbox_embed.{head}", f"bbox_embed.{head}", 3)
        if architecture.two_stage:
            yield Pair(f"transformer.decoder.class_embed.{head}", f"class_embed.{head}")


def _deformable_heads(count: int, one: bool = False) -> Iterator[Pair]:
    for head in range(count):
        ours = 0 if one else head
        yield Pair(f"class_embed.{head}", f"class_embed.{ours}")
        yield from _mlp(f"bbox_embed.{head}", f"bbox_embed.{ours}", 3)


def _dab(architecture: Architecture) -> Iterator[Pair]:
    yield from _layers(
        "encoder", architecture.encoder_layers, (_SELF_ATTENTION, *_ENCODER_NORMS, *_FFN, _PRELU)
    )
    yield from _mlp("transformer.encoder.query_scale", "transformer.encoder_scale", 2)
    decoder = (*_DAB_SELF_ATTENTION, *_DAB_CROSS_ATTENTION, *_DECODER_NORMS, *_FFN, _PRELU)
    yield from _layers("decoder", architecture.decoder_layers, decoder)
    yield from _layers("decoder", 1, (_DAB_FIRST_LAYER,))
    yield Pair("transformer.decoder.norm", "transformer.norm")
    for name in ("query_scale", "ref_point_head", "ref_anchor_head"):
        yield from _mlp(f"transformer.decoder.{name}", f"transformer.{name}", 2)
    yield Pair("input_proj", "input_proj")
    yield Pair("refpoint_embed", "refpoint_embed", Kind.WEIGHT)
    if architecture.patterns:
        yield Pair("transformer.patterns", "patterns", Kind.WEIGHT)
    yield Pair("class_embed", "class_embed")
    yield from _mlp("bbox_embed", "bbox_embed", 3)
    yield from _mlp("transformer.decoder.bbox_embed", "bbox_embed", 3)


def _layers(side: str, count: int, pairs: Iterable[Pair]) -> Iterator[Pair]:
    for layer in range(count):
        for pair in pairs:
            yield pair.below(f"transformer.{side}.layers.{layer}", f"transformer.{side}.{layer}")


def _mlp(official: str, ours: str, layers: int) -> Iterator[Pair]:
    for layer in range(layers):
        yield Pair(f"{official}.layers.{layer}", f"{ours}.layers.{layer}")
