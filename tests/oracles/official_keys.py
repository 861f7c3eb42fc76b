"""Names and shapes of the official checkpoints, written down on their own; random tensors under them."""

import argparse

import torch

RESNETS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# A full set of names in tensors that are small. GroupNorm wants a width that 32 divides.
SMALL = {"width": 4, "dim": 32, "hidden": 16, "queries": 6}

# Every file that the project accepts: arguments of `official_shapes`, and how many keys there are.
VARIANTS = {
    "detr_r50": ({"family": "detr"}, 458),
    "detr_r101": ({"family": "detr", "depth": 101}, 713),
    "detr_r50_dc5": ({"family": "detr"}, 458),  # the same names
    "detr_r50_panoptic": ({"family": "detr", "rows": 251, "panoptic": True}, 490),
    "deformable": ({"family": "deformable"}, 561),
    "deformable_refine": ({"family": "deformable", "refine": True}, 597),
    "deformable_two_stage": ({"family": "deformable", "refine": True, "two_stage": True}, 630),
    "deformable_single_scale": ({"family": "deformable", "levels": 1}, 549),
    "deformable_r101": ({"family": "deformable", "depth": 101}, 816),
    "dab_r50": ({"family": "dab"}, 590),
    "dab_r50_patterns": ({"family": "dab", "patterns": 3}, 591),
    "dab_r101": ({"family": "dab", "depth": 101}, 845),
}


def official_shapes(family, depth=50, width=64, rows=None, panoptic=False, **sizes):
    """Shape by name, as the original repository stores them."""
    heads = {"detr": detr, "deformable": deformable, "dab": dab}[family]
    rows = rows or (92 if family == "detr" else 91)
    shapes = resnet(RESNETS[depth], width) | heads(channels=32 * width, rows=rows, **sizes)
    if not panoptic:
        return shapes
    return {f"detr.{key}": shape for key, shape in shapes.items()} | mask_head(sizes.get("dim", 256), width)


def official_tensors(seed=0, **arguments):
    """Random tensors; a name that stands for a tensor of another name has the same tensor."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, shape in official_shapes(**arguments).items():
        first = first_name(key, refined=arguments.get("refine", False))
        if first not in tensors:
            tensors[first] = random_tensor(key, shape, generator)
        tensors[key] = tensors[first]
    return tensors


def random_tensor(key, shape, generator):
    """Variances positive, products of the size of their inputs."""
    if key.endswith("running_var"):
        return torch.rand(shape, generator=generator) + 0.5
    scale = torch.Size(shape[1:]).numel() ** -0.5 if len(shape) > 1 else 0.2
    is_norm = len(shape) == 1 and key.endswith("weight")
    return torch.randn(shape, generator=generator) * scale + is_norm


def training_args(**settings):
    """What the originals store beside the weights, in part."""
    return argparse.Namespace(lr=1e-4, backbone="resnet50", output_dir="", device="cuda", **settings)


def first_name(key, refined):
    """The name that a module was given first."""
    for name in ("bbox_embed", "class_embed"):
        key = key.replace(f"transformer.decoder.{name}", name)
        if not refined and key.startswith(f"{name}.") and key.split(".")[1].isdigit():
            number = key.split(".")[1]
            key = key.replace(f"{name}.{number}", f"{name}.0", 1)
    return key


def resnet(blocks, width):
    shapes = {"conv1.weight": (width, 3, 7, 7), **frozen_norm("bn1", width)}
    inside = width
    for stage, count in enumerate(blocks):
        planes = width * 2**stage
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            for i, shape in enumerate(
                [(planes, inside, 1, 1), (planes, planes, 3, 3), (4 * planes, planes, 1, 1)], 1
            ):
                shapes |= {f"{name}.conv{i}.weight": shape, **frozen_norm(f"{name}.bn{i}", shape[0])}
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * planes, inside, 1, 1)
                shapes |= frozen_norm(f"{name}.downsample.1", 4 * planes)
            inside = 4 * planes
    return {f"backbone.0.body.{key}": shape for key, shape in shapes.items()}


def frozen_norm(name, width):
    return {f"{name}.{leaf}": (width,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def linear(name, outputs, inputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name, dim):
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def attention(name, dim):
    packed = {f"{name}.in_proj_weight": (3 * dim, dim), f"{name}.in_proj_bias": (3 * dim,)}
    return packed | linear(f"{name}.out_proj", dim, dim)


def mlp(name, *widths):
    shapes = {}
    for i, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        shapes |= linear(f"{name}.layers.{i}", outputs, inputs)
    return shapes


def feed_forward(name, dim, hidden, norms):
    shapes = linear(f"{name}.linear1", hidden, dim) | linear(f"{name}.linear2", dim, hidden)
    for i in range(norms):
        shapes |= norm(f"{name}.norm{i + 1}", dim)
    return shapes


def detr(channels, rows, dim=256, hidden=2048, queries=100, layers=6):
    shapes = {}
    for i in range(layers):
        encoder, decoder = f"transformer.encoder.layers.{i}", f"transformer.decoder.layers.{i}"
        shapes |= attention(f"{encoder}.self_attn", dim) | feed_forward(encoder, dim, hidden, 2)
        shapes |= attention(f"{decoder}.self_attn", dim) | attention(f"{decoder}.multihead_attn", dim)
        shapes |= feed_forward(decoder, dim, hidden, 3)
    shapes |= norm("transformer.decoder.norm", dim)
    shapes |= linear("class_embed", rows, dim) | mlp("bbox_embed", dim, dim, dim, 4)
    shapes |= {"query_embed.weight": (queries, dim), "input_proj.bias": (dim,)}
    return shapes | {"input_proj.weight": (dim, channels, 1, 1)}


def deformable(
    channels, rows, dim=256, hidden=1024, queries=300, layers=6, levels=4, refine=False, two_stage=False
):
    shapes = {"transformer.level_embed": (levels, dim)}
    for i in range(layers):
        encoder, decoder = f"transformer.encoder.layers.{i}", f"transformer.decoder.layers.{i}"
        shapes |= sampling(f"{encoder}.self_attn", dim, levels) | feed_forward(encoder, dim, hidden, 2)
        shapes |= sampling(f"{decoder}.cross_attn", dim, levels) | attention(f"{decoder}.self_attn", dim)
        shapes |= feed_forward(decoder, dim, hidden, 3)
    four = [(channels // 4, 1), (channels // 2, 1), (channels, 1), (channels, 3)]
    for level, (inputs, kernel) in enumerate(four if levels == 4 else [(channels, 1)]):
        shapes[f"input_proj.{level}.0.weight"] = (dim, inputs, kernel, kernel)
        shapes |= {f"input_proj.{level}.0.bias": (dim,), **norm(f"input_proj.{level}.1", dim)}
    count = layers + 1 if two_stage else layers
    for i in range(count):
        shapes |= linear(f"class_embed.{i}", rows, dim) | mlp(f"bbox_embed.{i}", dim, dim, dim, 4)
        if refine:
            shapes |= mlp(f"transformer.decoder.bbox_embed.{i}", dim, dim, dim, 4)
        if two_stage:
            shapes |= linear(f"transformer.decoder.class_embed.{i}", rows, dim)
    if two_stage:
        shapes |= linear("transformer.enc_output", dim, dim) | norm("transformer.enc_output_norm", dim)
        shapes |= linear("transformer.pos_trans", 2 * dim, 2 * dim)
        return shapes | norm("transformer.pos_trans_norm", 2 * dim)
    return (
        shapes | {"query_embed.weight": (queries, 2 * dim)} | linear("transformer.reference_points", 2, dim)
    )


def sampling(name, dim, levels, heads=8, points=4):
    samples = heads * levels * points
    shapes = linear(f"{name}.sampling_offsets", 2 * samples, dim)
    shapes |= linear(f"{name}.attention_weights", samples, dim)
    return shapes | linear(f"{name}.value_proj", dim, dim) | linear(f"{name}.output_proj", dim, dim)


def dab(channels, rows, dim=256, hidden=2048, queries=300, layers=6, patterns=0):
    shapes = mlp("transformer.encoder.query_scale", dim, dim, dim)
    for i in range(layers):
        encoder, decoder = f"transformer.encoder.layers.{i}", f"transformer.decoder.layers.{i}"
        shapes |= attention(f"{encoder}.self_attn", dim) | feed_forward(encoder, dim, hidden, 2)
        for projection in ("qcontent", "qpos", "kcontent", "kpos", "v"):
            shapes |= linear(f"{decoder}.sa_{projection}_proj", dim, dim)
        for projection in ("qcontent", "kcontent", "kpos", "v", "qpos_sine"):
            shapes |= linear(f"{decoder}.ca_{projection}_proj", dim, dim)
        if i == 0:
            shapes |= linear(f"{decoder}.ca_qpos_proj", dim, dim)
        shapes |= linear(f"{decoder}.self_attn.out_proj", dim, dim)
        shapes |= linear(f"{decoder}.cross_attn.out_proj", dim, dim)
        shapes |= feed_forward(decoder, dim, hidden, 3)
        shapes |= {f"{encoder}.activation.weight": (1,), f"{decoder}.activation.weight": (1,)}
    shapes |= norm("transformer.decoder.norm", dim) | mlp("transformer.decoder.query_scale", dim, dim, dim)
    shapes |= mlp("transformer.decoder.ref_point_head", 2 * dim, dim, dim)
    shapes |= mlp("transformer.decoder.ref_anchor_head", dim, dim, 2)
    shapes |= mlp("bbox_embed", dim, dim, dim, 4) | mlp("transformer.decoder.bbox_embed", dim, dim, dim, 4)
    shapes |= linear("class_embed", rows, dim) | {"refpoint_embed.weight": (queries, 4)}
    shapes |= {"input_proj.weight": (dim, channels, 1, 1), "input_proj.bias": (dim,)}
    return shapes | ({"transformer.patterns.weight": (patterns, dim)} if patterns else {})


def mask_head(dim, width):
    """What DETR's panoptic model has beside the detector."""
    shapes = linear("bbox_attention.q_linear", dim, dim) | linear("bbox_attention.k_linear", dim, dim)
    widths = [dim + 8, dim + 8, dim // 2, dim // 4, dim // 8, dim // 16]
    for i, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True), 1):
        shapes |= {f"mask_head.lay{i}.weight": (outputs, inputs, 3, 3), f"mask_head.lay{i}.bias": (outputs,)}
        shapes |= norm(f"mask_head.gn{i}", outputs)
    shapes |= {"mask_head.out_lay.weight": (1, dim // 16, 3, 3), "mask_head.out_lay.bias": (1,)}
    for i in range(3):
        shapes[f"mask_head.adapter{i + 1}.weight"] = (widths[i + 2], 16 * width // 2**i, 1, 1)
        shapes[f"mask_head.adapter{i + 1}.bias"] = (widths[i + 2],)
    return shapes
