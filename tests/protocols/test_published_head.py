"""Published classifiers: class scores of whole models of timm, small and random, from files that hold both halves."""

import dataclasses

import numpy as np
import pytest
import torch
from from_timm import images, outputs, randomise, relative_error, to_torch
from safetensors.torch import save_file
from torch_reference import import_timm

from bob_jax.backbones import zoo
from bob_jax.backbones.card import IN1K, Card, Preprocessing, WeightSource
from bob_jax.data import digits
from bob_jax.data.arrays import ArraySource
from bob_jax.errors import BobError
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.head import Head, predict
from bob_jax.protocols.prompts import imagenet_names
from bob_jax.protocols.published_head import PublishedHead
from bob_jax.training.mesh import make_mesh

timm = import_timm()
from timm.models import beit, convnext, eva, hiera, resnet, swin_transformer_v2, vision_transformer  # noqa: E402

VIT = {"patch_size": 8, "depth": 2, "num_heads": 3}
SWIN = {"depths": (2, 1, 1, 1), "num_heads": (2, 2, 4, 4)}
WIDTHS = (16, 32, 48, 64)
# name: architecture, our arguments, table, width of the descriptor, timm's model
MODELS = {
    "vit": (
        "vit", {"width": 48, **VIT}, "timm_vit", 48,
        lambda: vision_transformer.VisionTransformer(img_size=64, embed_dim=48, **VIT),
    ),
    "deit3": (
        "vit", {"width": 48, "layer_scale": 1e-6, "position": "learned_patches", **VIT}, "timm_vit", 48,
        lambda: vision_transformer.VisionTransformer(
            img_size=64, embed_dim=48, init_values=1e-6, no_embed_class=True, **VIT
        ),
    ),
    "resnet": (
        "resnet", {"stages": (1, 1, 1, 1)}, "timm_resnet", 2048, lambda: resnet.ResNet(resnet.Bottleneck, (1, 1, 1, 1)),
    ),
    "convnext": (
        "convnext", {"depths": (1, 1, 1, 1), "widths": WIDTHS}, "timm_convnext", 64,
        lambda: convnext.ConvNeXt(depths=(1, 1, 1, 1), dims=WIDTHS),
    ),
    "swin_v2": (
        "swin_v2", {"width": 16, "window": 4, **SWIN}, "timm_swin_v2", 128,
        lambda: swin_transformer_v2.SwinTransformerV2(img_size=64, embed_dim=16, window_size=4, **SWIN),
    ),
    "hiera": (
        "hiera", {"width": 16, "num_heads": 2, "stages": (1, 2, 2, 1)}, "timm_hiera", 128,
        lambda: hiera.Hiera(img_size=(64, 64), embed_dim=16, num_heads=2, stages=(1, 2, 2, 1)),
    ),
    "beit": (
        "beit", {"width": 48, "layer_scale": 0.1, **VIT}, "timm_beit", 48,
        lambda: beit.Beit(
            img_size=64, embed_dim=48, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1, **VIT
        ),
    ),
    "eva02": (
        "eva",
        {"width": 48, "activation": "swiglu", "mlp_ratio": 8 / 3, "pooling": "mean", "final_norm": "fc_norm", **VIT},
        "timm_eva", 48,
        lambda: eva.Eva(
            img_size=64, embed_dim=48, swiglu_mlp=True, mlp_ratio=8 / 3, use_rot_pos_emb=True, ref_feat_shape=(16, 16),
            **VIT,
        ),
    ),
}  # fmt: skip


def card(name: str, url: str, classifier: str | None = IN1K) -> Card:
    architecture, arguments, table, width, _ = MODELS[name]
    return Card(
        name="tiny",
        architecture=architecture,
        arguments={"input_size": 64, **arguments},
        table=table,
        method="supervised",
        data=IN1K,
        source=WeightSource(url=url),
        licence="mit",
        commercial=True,
        preprocessing=Preprocessing(input_size=64, crop_pct=1.0),
        parameters=0.1,
        feature_dim=width,
        pooling="mean",
        classifier=classifier,
    )


def published(name: str, tmp_path, monkeypatch, rename=lambda key: key) -> torch.nn.Module:
    """timm's model, whose file is the backbone `tiny` in the zoo."""
    model = randomise(MODELS[name][4]())
    for module in model.modules():
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()  # constants, which `randomise` has drawn too
        if name == "swin_v2" and hasattr(module, "logit_scale"):
            torch.nn.init.constant_(module.logit_scale, 2.3)  # as in training; see test_swin_v2.py
    file = tmp_path / "model.safetensors"
    save_file({rename(key): tensor.contiguous() for key, tensor in model.state_dict().items()}, file)
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "bob"))
    monkeypatch.setitem(zoo.CARDS, "tiny", card(name, f"file://{file}"))
    return model


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence", "ignore:torch.searchsorted")  # BEiT's interpolation
@pytest.mark.parametrize("name", MODELS)
def test_scores_equal_timms_whole_model(name, tmp_path, monkeypatch):
    model = published(name, tmp_path, monkeypatch)
    pixels = images(2, 64, 64)
    with torch.no_grad():
        expected = model(to_torch(pixels)).numpy()
    pooled = outputs(zoo.load("tiny").module, pixels)[0]
    scores = predict(Head(*zoo.load_classifier("tiny")), pooled)
    assert scores.shape == (2, 1000) and relative_error(scores, expected) < 1e-5


def test_older_swin_files_call_it_otherwise(tmp_path, monkeypatch):
    model = published("swin_v2", tmp_path, monkeypatch, lambda key: key.replace("head.fc.", "head."))
    kernel, bias = zoo.load_classifier("tiny")
    np.testing.assert_array_equal(kernel, model.head.fc.weight.detach().numpy().T)
    np.testing.assert_array_equal(bias, model.head.fc.bias.detach().numpy())


def test_a_bridged_model(tmp_path, monkeypatch):
    model = randomise(timm.create_model("efficientnet_b0"))
    file = tmp_path / "model.safetensors"
    save_file(model.state_dict(), file)
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "bob"))
    known = zoo.card("efficientnet_b0_in1k")
    monkeypatch.setitem(zoo.CARDS, known.name, dataclasses.replace(known, source=WeightSource(url=f"file://{file}")))
    pixels = images(1, 64, 64)
    with torch.no_grad():
        features = model.forward_head(model.forward_features(to_torch(pixels)), pre_logits=True).numpy()
        expected = model(to_torch(pixels)).numpy()
    assert relative_error(predict(Head(*zoo.load_classifier(known.name)), features), expected) < 1e-5


def test_a_linear_probe_in_a_file_of_its_own(tmp_path, monkeypatch):
    """DINO's layout: what its training of linear probes saves, wrapped for several processes."""
    model = published("resnet", tmp_path, monkeypatch, lambda key: key.replace("fc.", "unused."))
    layer = torch.nn.Sequential()
    layer.add_module("linear", model.fc)
    wrapped = {f"module.{name}": tensor for name, tensor in layer.state_dict().items()}
    torch.save({"epoch": 100, "state_dict": wrapped, "best_acc": 75.3}, tmp_path / "probe.pth")
    probe = WeightSource(url=f"file://{tmp_path}/probe.pth")
    monkeypatch.setitem(zoo.CARDS, "tiny", dataclasses.replace(zoo.card("tiny"), classifier_source=probe))
    kernel, bias = zoo.load_classifier("tiny")
    np.testing.assert_array_equal(kernel, model.fc.weight.detach().numpy().T)
    np.testing.assert_array_equal(bias, model.fc.bias.detach().numpy())


def competitor(name: str) -> Competitor:
    loaded = zoo.load(name)
    return Competitor(zoo.card(name), loaded.module, loaded.weights_sha256)


def test_the_protocol_judges_imagenet_and_leaves_the_head(tmp_path, monkeypatch):
    model = published("vit", tmp_path, monkeypatch)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (10, 64, 64, 3), np.uint8)
    mean, std = (np.array(color, np.float32) for color in (zoo.card("tiny").preprocessing.mean, (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = model(to_torch((pictures / np.float32(255) - mean) / std)).numpy()
    labels = np.where(np.arange(10) % 3 == 0, 5, expected.argmax(axis=1)).astype(np.int32)
    source = ArraySource(pictures, labels, [f"image{i}" for i in range(10)])
    dataset = dataclasses.replace(
        digits.load(),
        name="imagenet",
        classes=tuple(imagenet_names()),
        splits=dict.fromkeys(("validation", "test"), source),
    )
    result = PublishedHead(batch_size=8).run(competitor("tiny"), dataset, Context(make_mesh(), tmp_path))
    np.testing.assert_array_equal(result.outputs["prediction"], expected.argmax(axis=1))
    np.testing.assert_array_equal(result.outputs["correct"], expected.argmax(axis=1) == labels)
    assert set(result.weights) == {"head.kernel", "head.bias"} and result.weights["head.kernel"].shape == (48, 1000)


def test_other_classes_than_imagenets(tmp_path, monkeypatch):
    published("vit", tmp_path, monkeypatch)
    with pytest.raises(BobError, match=r"data set digits has other classes than the 1000 of ImageNet-1k"):
        PublishedHead(batch_size=8).run(competitor("tiny"), digits.load(), Context(make_mesh(), tmp_path))


def test_a_backbone_without_a_classifier(tmp_path, monkeypatch):
    with pytest.raises(BobError, match=r"vit_b16_dino has no published classifier.*linear_probe"):
        zoo.load_classifier("vit_b16_dino")


def test_a_file_without_its_classifier(tmp_path, monkeypatch):
    published("vit", tmp_path, monkeypatch, lambda key: key.replace("head.", "pre_logits."))
    with pytest.raises(BobError, match=r"model.safetensors for tiny has no classifier head \(1000, 48\) with bias"):
        zoo.load_classifier("tiny")


def test_every_card_with_a_published_accuracy_has_its_classifier():
    """And no other but Swin V2-S, whose figure nobody noted, and DINO's ResNet-50 with its linear probe."""
    figures = {name for name, known in zoo.CARDS.items() if "imagenet top-1" in known.scores}
    marked = {name for name, known in zoo.CARDS.items() if known.classifier}
    assert figures <= marked
    assert marked - figures == {"swinv2_s_in1k", "swinv2_s_w16_in1k", "resnet50_dino"}
    assert {name for name in marked if zoo.card(name).classifier_source} == {"resnet50_dino"}
    assert {zoo.card(name).classifier for name in marked} == {IN1K}


def test_any_model_of_timms_has_the_classifier_that_timm_says():
    assert zoo.card("timm:resnet18.a1_in1k").classifier == IN1K
    assert zoo.card("timm:vit_tiny_patch16_224.augreg_in21k").classifier is None
    assert zoo.card("timm:deit_tiny_distilled_patch16_224.fb_in1k").classifier is None
    assert zoo.card("timm:resnet18.random").classifier is None
