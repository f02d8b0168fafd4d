"""`vit_b16_clip_openai` by its own name: files of two repositories, full size, random weights, beside OpenCLIP."""

import dataclasses

import huggingface_hub.constants
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clip
import torch
from from_timm import relative_error
from hub_server import serve_hub
from safetensors.torch import save_file
from tiny_clip import open_clip
from torch_reference import import_timm

from bob_jax.backbones import tokenizer, zoo
from bob_jax.backbones.card import Card
from bob_jax.data import catalog
from bob_jax.data.on_device import normalize
from bob_jax.data.transforms import Eval
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.features import extract
from bob_jax.protocols.head import Head, predict
from bob_jax.protocols.zero_shot import ZeroShot
from bob_jax.training.mesh import make_mesh

NAME = "vit_b16_clip_openai"


def publish(folder) -> torch.nn.Module:
    """OpenCLIP's model in its own layout, its image tower in timm's as timm converts it, and the tokenizer."""
    timm = import_timm()
    torch.manual_seed(0)
    model = open_clip.CLIP(**open_clip.get_model_config("ViT-B-16"), quick_gelu=True).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.ndim == 1:
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    repository = folder / "timm/vit_base_patch16_clip_224.openai"
    repository.mkdir(parents=True)
    save_file(model.state_dict(), repository / "open_clip_model.safetensors")
    image = timm.create_model("vit_base_patch16_clip_quickgelu_224", pretrained=False, num_classes=512)
    image.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(dict(model.state_dict()), image))
    save_file(image.state_dict(), repository / "model.safetensors")
    (folder / "openai/clip-vit-large-patch14").mkdir(parents=True)
    tiny_clip.tokenizer().backend_tokenizer.save(str(folder / "openai/clip-vit-large-patch14/tokenizer.json"))
    return model


def unpinned(card: Card) -> Card:
    """The card, of what its repositories hold now: random weights are not those that it pins."""
    latest = {"revision": "main", "sha256": None}
    sources = {name: dataclasses.replace(getattr(card.text, name), **latest) for name in ("source", "tokenizer")}
    source, text = dataclasses.replace(card.source, **latest), dataclasses.replace(card.text, **sources)
    return dataclasses.replace(card, source=source, text=text)


@pytest.mark.slow
def test_scores_equal_open_clip(tmp_path, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "bob"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setitem(zoo.CARDS, NAME, unpinned(zoo.card(NAME)))
    tokenizer._splitter.cache_clear()
    model = publish(tmp_path / "served")
    dataset, context = catalog.load("digits", limit=10), Context(make_mesh(), tmp_path)
    with serve_hub(tmp_path / "served") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        loaded = zoo.load(NAME)
        competitor = Competitor(zoo.card(NAME), loaded.module, loaded.weights_sha256)
        result = ZeroShot(batch_size=8).run(competitor, dataset, context)
    transform = Eval(zoo.card(NAME).preprocessing)
    preprocessing = zoo.card(NAME).preprocessing
    images = jnp.stack([transform(example["image"]) for example in dataset.splits["test"]])
    pixels = np.asarray(normalize(images, preprocessing.mean, preprocessing.std)).transpose(0, 3, 1, 2).copy()
    texts = open_clip.tokenize([f'a photo of the number: "{name}".' for name in dataset.classes])
    with torch.no_grad():
        # In float64: cosines of random weights are near 0, and float32 alone is 6e-6 from it.
        expected = model.double().get_logits(torch.from_numpy(pixels).double(), texts)[0].numpy()
    features = extract(competitor, dataset.splits["test"], "digits", context, 8).values
    assert relative_error(predict(Head.from_named(result.weights), features), expected) < 1e-5
    np.testing.assert_array_equal(result.outputs["prediction"], expected.argmax(axis=1))
    assert result.weights["head.projection"].shape == (768, 512)
