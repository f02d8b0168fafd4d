"""Each key layout: a checkpoint as published, converted here and loaded by timm's own code, gives the same features."""

import functools
import re

import numpy as np
import pytest
import torch
from converter_models import TINY_VIT, card_of, in_zoo, numpy_state, randomised, weights_cache  # noqa: F401
from safetensors.numpy import save_file
from torch_reference import import_timm

from bob_jax.backbones import parameters, zoo
from converters import cache, parity, references
from converters.receipt import TOLERANCE

timm = import_timm()
pytestmark = pytest.mark.usefixtures("weights_cache")
OF = {
    "vit": references.of_vit,
    "resnet": references.of_resnet,
    "clip_resnet": references.of_clip_resnet,
    "convnext": references.of_convnext,
    "swin_v2": references.of_swin_v2,
    "hiera": references.of_hiera,
    "sam_vit": references.of_sam,
    "eva": lambda model: references.of_vit(model, "timm_eva"),
    "beit": lambda model: references.of_vit(model, "timm_beit"),
    "aimv2": lambda model: references.of_vit(model, "timm_aimv2"),
}


def check(card, model, path, side):
    """Converts the file, has timm load it into `model`, and compares the features on images of this side."""
    with in_zoo(card):
        original = cache.original_of(card, path)
        arrays, _ = cache.convert(card, original)
        module = zoo.skeleton(card.name, dtype=np.float32)
    parameters.assign(module, arrays, where="test")
    references.fill(model, original)
    stages = parity.compare(module, OF[card.architecture](model), [side])
    assert max(stage.float32 for stage in stages) < TOLERANCE, stages


def timm_vit(**options):
    return timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=0, dynamic_img_size=True, **options
    ).eval()


def fresh_and_random(make):
    """Two models of one kind: the one that is published, and the one that shall be filled from the file."""
    return randomised(make()), randomised(make(), seed=1)


CLIP = {"pre_norm": True, "epsilon": 1e-5}
VITS = {
    "plain": ({}, {}),
    "deit3": (
        {"layer_scale": 1e-6, "position": "learned_patches"},
        {"no_embed_class": True, "init_values": 1e-6},
    ),
    "registers": (
        {"layer_scale": 1e-5, "position": "learned_patches", "registers": 4},
        {"no_embed_class": True, "init_values": 1e-5, "reg_tokens": 4},
    ),
    "clip": (
        CLIP | {"activation": "quick_gelu"},
        {"pre_norm": True, "act_layer": "quick_gelu", "norm_layer": functools.partial(torch.nn.LayerNorm, eps=1e-5)},
    ),
    "siglip": (
        {"class_token": False, "pooling": "map"},
        {"class_token": False, "global_pool": "map"},
    ),
}


@pytest.mark.parametrize("kind", VITS)
def test_timm_vit(kind, tmp_path):
    ours, theirs = VITS[kind]
    published, filled = fresh_and_random(lambda: timm_vit(**theirs))
    arrays = numpy_state(published) | {"head.weight": np.zeros((3, 48), np.float32)}
    save_file(arrays, tmp_path / "model.safetensors")
    check(card_of("vit", TINY_VIT | ours, "timm_vit"), filled, tmp_path / "model.safetensors", side=48)


def test_siglip_without_its_attention_pool(tmp_path):
    published = randomised(timm_vit(class_token=False, global_pool="map"))
    filled = timm_vit(class_token=False, global_pool="avg", fc_norm=False)
    save_file(numpy_state(published), tmp_path / "model.safetensors")
    card = card_of("vit", TINY_VIT | {"class_token": False, "pooling": "mean"}, "timm_vit_without_pool")
    check(card, filled, tmp_path / "model.safetensors", side=32)


def moco_file(model, path, head):
    """A MoCo v3 checkpoint: encoder, momentum encoder, predictor, optimizer and counters."""
    state = {f"module.base_encoder.{name}": tensor for name, tensor in model.state_dict().items()}
    state |= {f"module.base_encoder.{head}.{name}": torch.ones(2) for name in ("0.weight", "1.bias")}
    state |= {
        f"module.momentum_encoder.{name}": torch.zeros_like(tensor) for name, tensor in model.state_dict().items()
    }
    state["module.predictor.0.weight"] = torch.zeros(2)
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    torch.save({"epoch": 300, "arch": "x", "state_dict": state, "optimizer": optimizer}, path)
    return path


def test_mocov3_vit(tmp_path):
    published, filled = fresh_and_random(timm_vit)
    card = card_of("vit", TINY_VIT | {"position": "sincos"}, "mocov3_vit")
    check(card, filled, moco_file(published, tmp_path / "vit-s-300ep.pth.tar", "head"), side=32)


def test_mocov3_and_torchvision_resnets(tmp_path):
    """The same weights in three wrappings; a full-width ResNet, because timm's class has no narrower one."""
    make = lambda: timm.models.ResNet(timm.models.resnet.Bottleneck, (1, 2, 1, 1), num_classes=0)  # noqa: E731
    published, filled = fresh_and_random(make)
    arguments = {"stages": (1, 2, 1, 1), "input_size": 64}
    moco = moco_file(published, tmp_path / "r-50-1000ep.pth.tar", "fc")
    check(card_of("resnet", arguments, "mocov3_resnet"), filled, moco, side=64)
    torch.save(published.state_dict() | {"fc.weight": torch.zeros(2)}, tmp_path / "resnet50.pth")
    torch.save({"state_dict": published.state_dict()}, tmp_path / "wrapped.pth")
    card = card_of("resnet", arguments, "timm_resnet")
    with in_zoo(card):
        digests = {cache.convert(card, cache.original_of(card, tmp_path / name))[1].weights_sha256
                   for name in ("resnet50.pth", "wrapped.pth")}  # fmt: skip
        moco_digest = cache.convert(card, cache.original_of(card, moco, "mocov3_resnet"))[1].weights_sha256
    assert digests == {moco_digest}


def augreg_arrays(generator, width=48, depth=2, heads=3, tokens=17):
    """Names and shapes of Google's AugReg files, from vision_transformer's Flax modules, with random values."""
    shapes = {
        "cls": (1, 1, width),
        "embedding/kernel": (8, 8, 3, width),
        "embedding/bias": (width,),
        "Transformer/posembed_input/pos_embedding": (1, tokens, width),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
        "head/kernel": (width, 5),
        "head/bias": (5,),
        "pre_logits/kernel": (width, width),
    }
    for block in (f"Transformer/encoderblock_{index}/" for index in range(depth)):
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}{norm}/scale": (width,), f"{block}{norm}/bias": (width,)}
        for part in ("query", "key", "value"):
            attention = f"{block}MultiHeadDotProductAttention_1/{part}"
            shapes |= {
                f"{attention}/kernel": (width, heads, width // heads),
                f"{attention}/bias": (heads, width // heads),
            }
        attention = f"{block}MultiHeadDotProductAttention_1/out"
        shapes |= {f"{attention}/kernel": (heads, width // heads, width), f"{attention}/bias": (width,)}
        for dense, (inside, outside) in (("Dense_0", (width, 4 * width)), ("Dense_1", (4 * width, width))):
            mlp = f"{block}MlpBlock_3/{dense}"
            shapes |= {f"{mlp}/kernel": (inside, outside), f"{mlp}/bias": (outside,)}
    return {name: 0.2 * generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def test_augreg_npz(tmp_path):
    np.savez(tmp_path / "S_16.npz", **augreg_arrays(np.random.default_rng(0)))
    check(card_of("vit", TINY_VIT, "augreg_vit"), randomised(timm_vit()), tmp_path / "S_16.npz", side=32)


def test_openclip_vit_with_its_text_tower(tmp_path):
    _, model = fresh_and_random(lambda: timm_vit(**VITS["clip"][1]))
    shapes = {
        "visual.class_embedding": (48,),
        "visual.positional_embedding": (17, 48),
        "visual.conv1.weight": (48, 3, 8, 8),
        "visual.proj": (48, 32),
        "logit_scale": (),
        "text_projection": (32, 32),
        "transformer.resblocks.0.ln_1.weight": (32,),
    }
    for norm in ("ln_pre", "ln_post", "transformer.resblocks.{}.ln_1", "transformer.resblocks.{}.ln_2"):
        for index in range(2):
            shapes |= {f"visual.{norm.format(index)}.{leaf}": (48,) for leaf in ("weight", "bias")}
    for index in range(2):
        block = f"visual.transformer.resblocks.{index}."
        shapes |= {block + "attn.in_proj_weight": (144, 48), block + "attn.in_proj_bias": (144,)}
        shapes |= {block + "attn.out_proj.weight": (48, 48), block + "attn.out_proj.bias": (48,)}
        shapes |= {block + "mlp.c_fc.weight": (192, 48), block + "mlp.c_fc.bias": (192,)}
        shapes |= {block + "mlp.c_proj.weight": (48, 192), block + "mlp.c_proj.bias": (48,)}
    generator = torch.Generator().manual_seed(0)
    state = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    card = card_of("vit", TINY_VIT | VITS["clip"][0], "openclip_vit")
    check(card, model, tmp_path / "open_clip_pytorch_model.bin", side=32)


def clip_resnet():
    """timm's CLIP ResNet at an eighth of its width."""
    byobnet = timm.models.byobnet
    blocks = tuple(
        byobnet.ByoBlockCfg(type="bottle", d=depth, c=32 * 2**stage, s=1 if stage == 0 else 2, br=0.25)
        for stage, depth in enumerate((1, 2, 1, 1))
    )
    config = byobnet.ByoModelCfg(
        blocks=blocks,
        stem_chs=(4, 4, 8),
        stem_type="",
        stem_pool="avg2",
        downsample="avg",
        aa_layer="avg",
        head_type="attn_abs",
    )
    return byobnet.ByobNet(config, num_classes=32, img_size=64)


def openai_names(state):
    """A timm CLIP ResNet's arrays under OpenAI's names."""
    renamed = {"logit_scale": torch.zeros(()), "transformer.resblocks.0.ln_1.weight": torch.zeros(3)}
    for name, tensor in state.items():
        name = re.sub(r"^stem\.conv(\d)\.(conv|bn)", r"\2\1", name)
        name = re.sub(r"^stages\.(\d)", lambda found: f"layer{int(found[1]) + 1}", name)
        name = re.sub(r"conv(\d)_\w+\.(conv|bn)", r"\2\1", name)
        name = name.replace("shortcut.conv.conv", "downsample.0").replace("shortcut.conv.bn", "downsample.1")
        name = name.replace("head.pos_embed", "attnpool.positional_embedding")
        name = re.sub(r"^head\.([qkv])\.", r"attnpool.\1_proj.", name).replace("head.proj", "attnpool.c_proj")
        renamed[f"visual.{name}"] = tensor
    return renamed


@pytest.mark.parametrize("table", ["timm_clip_resnet", "openai_clip_resnet"])
def test_clip_resnet(table, tmp_path):
    published, filled = fresh_and_random(clip_resnet)
    state = published.state_dict()
    torch.save(openai_names(state) if table.startswith("openai") else state, tmp_path / "RN50.pt")
    arguments = {"stages": (1, 2, 1, 1), "width": 8, "input_size": 64, "projection_dim": 32}
    check(card_of("clip_resnet", arguments, table), filled, tmp_path / "RN50.pt", side=64)


def test_clip_resnet_without_its_pool(tmp_path):
    """The file may hold the attention pool; timm's `_gap` model has the same trunk and the mean behind it."""
    published = randomised(clip_resnet())
    state = published.state_dict()
    torch.save(state, tmp_path / "gap.pt")
    arguments = {"stages": (1, 2, 1, 1), "width": 8, "input_size": 64, "pooling": "mean"}
    card = card_of("clip_resnet", arguments, "timm_clip_resnet_without_pool")
    with in_zoo(card):
        arrays, _ = cache.convert(card, cache.original_of(card, tmp_path / "gap.pt"))
        module = zoo.skeleton(card.name, dtype=np.float32)
    parameters.assign(module, arrays, where="test")
    images = np.random.default_rng(1).standard_normal((2, 64, 96, 3), np.float32)
    with torch.no_grad():
        last = published.forward_features(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    features = module(images)
    assert parity.relative(np.asarray(features.maps[-1]).transpose(0, 3, 1, 2), last) < 1e-5
    assert parity.relative(np.asarray(features.pooled), last.mean((2, 3))) < 1e-5


def classy_names(state):
    """SSCD's arrays as saved from Classy Vision's ResNeXt, from those saved from torchvision's."""
    names = {}
    for name in state:
        new = name.replace("backbone.conv1", "backbone.initial_block._module.0")
        new = new.replace("backbone.bn1", "backbone.initial_block._module.1").replace("backbone.fc", "embeddings.1")
        if found := re.fullmatch(r"backbone\.layer(\d)\.(\d+)\.(.*)", new):
            stage, rest = int(found[1]) - 1, found[3]
            rest = re.sub(r"^conv(\d)", lambda conv: f"convolutional_block.{3 * int(conv[1]) - 3}", rest)
            rest = re.sub(r"^bn([12])", lambda norm: f"convolutional_block.{3 * int(norm[1]) - 2}", rest)
            rest = re.sub(r"^bn3", "bn", rest)
            new = f"backbone.blocks.{stage}.block{stage}-{found[2]}.{rest}"
        names[new] = state[name]
    return names


def test_sscd_on_torchvision_and_on_classy_vision(tmp_path):
    from torchvision.models import resnet

    trunk = resnet.ResNet(resnet.Bottleneck, [2, 1, 1, 1], num_classes=24, groups=4, width_per_group=8)
    state = {f"backbone.{name}": tensor for name, tensor in randomised(trunk).state_dict().items()}
    torch.save(state, tmp_path / "sscd.torchvision.pt")
    torch.save(classy_names(state), tmp_path / "sscd.classy.pt")
    arguments = {"stages": (2, 1, 1, 1), "groups": 4, "group_width": 8, "input_size": 64, "descriptor_dim": 24}
    digests = set()
    for table in ("sscd_torchvision", "sscd_classy"):
        card = card_of("sscd", arguments, table)
        with in_zoo(card):
            original = cache.original_of(card, tmp_path / f"{table.replace('_', '.')}.pt")
            arrays, receipt = cache.convert(card, original)
        digests.add(receipt.weights_sha256)
    assert len(digests) == 1
    np.testing.assert_array_equal(
        arrays["layer1.1.conv2.kernel"].transpose(3, 2, 0, 1), state["backbone.layer1.1.conv2.weight"]
    )
    np.testing.assert_array_equal(arrays["layer2.0.bn3.var"], state["backbone.layer2.0.bn3.running_var"])
    np.testing.assert_array_equal(arrays["fc.kernel"].T, state["backbone.fc.weight"])
