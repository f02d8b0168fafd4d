"""Zero-shot classification by name, files from a hub, beside transformers' own computation; and what can be wrong."""

import dataclasses
from pathlib import Path

import huggingface_hub.constants
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clip
import torch
from from_timm import randomise, relative_error
from hub_server import serve_hub
from safetensors.torch import save_file
from tiny_clip import open_clip

from bob_jax import grid
from bob_jax.backbones import tokenizer, zoo
from bob_jax.backbones.card import CLIP_MEAN, CLIP_STD, TextCard, WeightSource
from bob_jax.data import catalog, digits
from bob_jax.data.on_device import normalize
from bob_jax.data.transforms import Eval
from bob_jax.errors import BobError
from bob_jax.launch import local
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.head import Head, predict
from bob_jax.protocols.prompts import Prompts, prompts_of
from bob_jax.protocols.zero_shot import ZeroShot, class_embeddings, head_of
from bob_jax.results.store import Store
from bob_jax.training.mesh import make_mesh
from configs import digits as digits_config

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def original():
    return tiny_clip.model()


@pytest.fixture
def hub(tmp_path, monkeypatch, original):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "bob"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    tiny_clip.publish(tmp_path / "served", original)
    monkeypatch.setitem(zoo.CARDS, "tiny_clip", tiny_clip.card())
    tokenizer._splitter.cache_clear()
    with serve_hub(tmp_path / "served") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def few(count: int = 40):
    """The digits, cut short."""
    return catalog.load("digits", limit=count)


def logits_of(original, dataset, templates) -> np.ndarray:
    """transformers' scores of the test images: prompts through its tokenizer and tower, averaged as OpenAI does."""
    made = tiny_clip.tokenizer()
    transform = Eval(tiny_clip.card().preprocessing)
    images = np.stack([transform(example["image"]) for example in dataset.splits["test"]])
    pixels = np.asarray(normalize(jnp.asarray(images), CLIP_MEAN, CLIP_STD)).transpose(0, 3, 1, 2).copy()
    with torch.no_grad():
        seen = original.get_image_features(pixel_values=torch.from_numpy(pixels))
        seen = getattr(seen, "pooler_output", seen)
        classes = []
        for name in dataset.classes:
            texts = made([template.format(name) for template in templates], padding=True, return_tensors="pt")
            told = original.get_text_features(**texts)
            told = getattr(told, "pooler_output", told)
            mean = torch.nn.functional.normalize(told, dim=-1).mean(dim=0)
            classes.append(torch.nn.functional.normalize(mean, dim=0))
        seen = torch.nn.functional.normalize(seen, dim=-1)
        return (original.logit_scale.exp() * seen @ torch.stack(classes).T).numpy()


def judge(dataset, tmp_path: Path):
    loaded = zoo.load("tiny_clip")
    competitor = Competitor(zoo.card("tiny_clip"), loaded.module, loaded.weights_sha256)
    return ZeroShot(batch_size=16).run(competitor, dataset, Context(make_mesh(), tmp_path)), competitor


@pytest.mark.parametrize("templates", [('a photo of the number: "{}".',), ("a {}.", "the digit {} in ink", "{}")])
def test_scores_equal_transformers(hub, original, tmp_path, monkeypatch, templates):
    dataset = few()
    changed = dataclasses.replace(prompts_of("digits", dataset.classes), templates=templates)
    monkeypatch.setattr("bob_jax.protocols.zero_shot.prompts_of", lambda *_: changed)
    result, competitor = judge(dataset, tmp_path)
    expected = logits_of(original, dataset, templates)
    labels = dataset.splits["test"].labels
    log_softmax = expected - np.log(np.exp(expected).sum(axis=1, keepdims=True))
    assert len(set(expected.argmax(axis=1))) > 1  # they are told apart
    np.testing.assert_array_equal(result.outputs["prediction"], expected.argmax(axis=1))
    np.testing.assert_allclose(result.outputs["nll"], -log_softmax[np.arange(len(labels)), labels], rtol=1e-4)
    # The head alone says it too: features in, class scores out.
    features = np.asarray(competitor.module(images_of(dataset)).pooled)
    scores = predict(Head.from_named(result.weights), features)
    assert np.abs(scores - expected).max() < TOLERANCE * np.abs(expected).max()
    assert result.notes["templates"] == len(templates) and result.grid == ()


def images_of(dataset):
    transform = Eval(tiny_clip.card().preprocessing)
    images = np.stack([transform(example["image"]) for example in dataset.splits["test"]])
    return normalize(jnp.asarray(images), CLIP_MEAN, CLIP_STD)


TEXT = {"context_length": 8, "vocab_size": 100, "width": 64, "heads": 2, "layers": 1}
SIGLIP = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
TRUNK = {"image_size": 32, "timm_model_name": "vit_tiny_patch16_224"}


@pytest.mark.parametrize(
    ("arguments", "vision", "text", "bias"),
    [
        ({"kind": "siglip", "joint_dim": 192}, {"timm_proj": "none", "timm_pool": "avg"}, TEXT | SIGLIP, -10.0),
        (
            {"kind": "clip", "joint_dim": 48, "image_projection": "affine"},
            {"timm_proj": None, "timm_pool": "token"},
            TEXT,
            None,
        ),
    ],
)
def test_the_head_equals_open_clip(tmp_path, monkeypatch, arguments, vision, text, bias):
    """The other ways from a descriptor to the joint space: none at all with a bias of the scores, or with an offset."""
    model = open_clip.CustomTextCLIP(arguments["joint_dim"], TRUNK | vision, text, init_logit_bias=bias)
    randomise(model)
    if arguments["kind"] == "clip":
        model.text.attn_mask = model.text.build_causal_mask()  # a constant, which `randomise` has drawn too
    sizes = {"width": 64, "depth": 1, "num_heads": 2, "vocabulary": 100, "context": 8, "image_dim": 192}
    source = WeightSource(url=f"file://{tmp_path}/model.safetensors")
    known = TextCard("tiny_clip.text", sizes | arguments, source, source, 0, "mit")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "bob"))
    monkeypatch.setitem(zoo.CARDS, "tiny_clip", tiny_clip.card(text=known))
    tokens = np.random.default_rng(0).integers(0, 100, (6, 8), np.int32)
    monkeypatch.setattr("bob_jax.protocols.zero_shot.tokenize", lambda texts, card: tokens[: len(texts)])
    head, _ = head_of(zoo.card("tiny_clip"), Prompts(("a", "b", "c"), ("{}", "the {}"), "test"), 4)
    features = np.random.default_rng(1).standard_normal((5, 192), np.float32)
    with torch.no_grad():
        told = model.encode_text(torch.from_numpy(tokens).long(), normalize=True).reshape(3, 2, -1).mean(dim=1)
        seen = model.visual.head(model.visual.trunk.head(torch.from_numpy(features)))
        cosines = torch.nn.functional.normalize(seen, dim=1) @ torch.nn.functional.normalize(told, dim=1).T
        expected = model.logit_scale.exp() * cosines + (0 if model.logit_bias is None else model.logit_bias)
    assert relative_error(predict(head, features), expected.numpy()) < TOLERANCE


def test_it_runs_by_name_and_leaves_a_head(hub, original, tmp_path):
    config = digits_config.get_config("vit_nano4_random,protocol=knn")
    config.backbones = ("tiny_clip",)
    config.protocols = {"zero_shot": {"batch_size": 16}}
    config.data.limit, config.results, config.keep_weights = 40, str(tmp_path / "results"), True
    assert local.run(grid.cells(config), config) == 0
    store = Store(tmp_path / "results")
    (record,) = store.read_all()
    expected = logits_of(original, few(), ('a photo of the number: "{}".',))
    accuracy = float((expected.argmax(axis=1) == few().splits["test"].labels).mean())
    assert record.metrics["accuracy"].value == pytest.approx(accuracy)
    assert record.selection is None and record.notes["prompts"].startswith("as MNIST: github.com/openai/CLIP")
    assert store.weights(record.cell.id)["head.kernel"].shape == (tiny_clip.JOINT_DIM, 10)


def test_embeddings_are_computed_once(hub, monkeypatch):
    prompts = Prompts(("one", "two"), ("a {}.",), "test")
    loaded = zoo.load_text("tiny_clip")
    first = class_embeddings(zoo.card("tiny_clip"), loaded, prompts, 1)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-6)
    with monkeypatch.context() as patch:
        patch.setattr("bob_jax.protocols.zero_shot._embed", None)  # no second time
        np.testing.assert_array_equal(class_embeddings(zoo.card("tiny_clip"), loaded, prompts, 7), first)
    (kept,) = (hub.folder.parent / "bob" / "features").glob("classes-*.npy")
    kept.write_bytes(kept.read_bytes()[:-9])  # cut off: made anew, in another batch size
    again = class_embeddings(zoo.card("tiny_clip"), loaded, prompts, 7)
    np.testing.assert_allclose(again, first, rtol=0, atol=1e-6)


def test_short_and_long_texts_together_and_alone(hub):
    """Sorted by length and cut off inside, in their own order outside."""
    names = (
        "cat",
        "a very long and winding sentence about nothing at all, and then some more of it",
        "dog",
        "an old cat",
    )
    loaded, known = zoo.load_text("tiny_clip"), zoo.card("tiny_clip")
    together = class_embeddings(known, loaded, Prompts(names, ("{}", "a photo of a {}."), "test"), 3)
    for name, expected in zip(names, together, strict=True):
        alone = class_embeddings(known, loaded, Prompts((name,), ("{}", "a photo of a {}."), "test"), 1)
        np.testing.assert_allclose(alone[0], expected, rtol=0, atol=1e-6)
    assert np.abs(together @ together.T - np.eye(4)).max() < 0.99  # they differ


def test_a_tokenizer_that_is_not_there(hub, tmp_path):
    (hub.folder / tiny_clip.REPOSITORY / "tokenizer.json").unlink()
    with pytest.raises(BobError, match=r"timm/tiny_clip.openai has no file tokenizer.json at revision main"):
        judge(few(), tmp_path)


def test_a_damaged_tokenizer(hub, tmp_path):
    (hub.folder / tiny_clip.REPOSITORY / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(BobError, match=r"tokenizer.json is damaged or no tokenizer .*: delete it and fetch it again"):
        judge(few(), tmp_path)


def test_a_backbone_that_never_met_a_text(tmp_path, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "bob"))
    loaded = zoo.load("vit_nano4_random")
    competitor = Competitor(zoo.card("vit_nano4_random"), loaded.module, loaded.weights_sha256)
    with pytest.raises(BobError, match=r"vit_nano4_random has no text tower.*e\.g\. vit_b16_clip"):
        ZeroShot(batch_size=16).run(competitor, digits.load(), Context(make_mesh(), tmp_path))


def test_the_grid_leaves_out_what_cannot_be_judged(monkeypatch):
    monkeypatch.setitem(zoo.CARDS, "tiny_clip", tiny_clip.card())
    config = digits_config.get_config("vit_nano4_random,protocol=knn")
    config.backbones = ("tiny_clip", "vit_nano4_random")
    config.protocols.zero_shot, config.protocols.published_head = {"batch_size": 8}, {"batch_size": 8}
    found = [(cell.backbone, cell.protocol_name) for cell in grid.cells(config)]
    assert found == [("tiny_clip", "zero_shot"), ("tiny_clip", "knn"), ("vit_nano4_random", "knn")]


def test_data_without_class_names_are_left_out():
    assert "class '0' of data set dmlab has a number" in ZeroShot(8).unfit(tiny_clip.card(), "dmlab")
    for name in ("kitti_distance", "svhn", "imagenet", "digits", "folder:photos/mine"):
        assert ZeroShot(8).unfit(tiny_clip.card(), name) is None


def test_a_grid_of_nothing_says_why():
    config = digits_config.get_config("vit_nano4_random,protocol=knn")
    config.backbones, config.protocols = ("vit_b16_dino", "resnet50_in1k"), {"published_head": {"batch_size": 8}}
    with pytest.raises(
        BobError,
        match="the config digits stands for no cell: published_head: vit_b16_dino has no published classifier; "
        "published_head: data set digits has other classes than ImageNet-1k",
    ):
        grid.cells(config)
