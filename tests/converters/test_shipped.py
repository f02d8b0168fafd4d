"""The weights that come with the package: the bytes their cards promise, timm's function, and better than chance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from converter_models import weights_cache  # noqa: F401
from from_timm import FAST_COMPILE
from PIL import Image
from safetensors.numpy import load_file, save_file

from bob_jax.backbones import zoo
from bob_jax.data import catalog
from bob_jax.data.on_device import normalize
from bob_jax.errors import BobError
from bob_jax.results.record import record_from_json
from converters import cache, export, references, sources
from converters.__main__ import main
from converters.receipt import TOLERANCE

pytestmark = pytest.mark.usefixtures("weights_cache")
SHIPPED = [card.name for card in zoo.CARDS.values() if card.source is not None and card.source.shipped]
EVERY = pytest.mark.parametrize("name", SHIPPED)


def twin_of(name: str) -> str:
    return name.replace("_glyphs", "_random")


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_one_of_each_architecture_is_shipped():
    assert SHIPPED == ["vit_nano8_glyphs", "resnet10_nano_glyphs", "convnext_nano_glyphs"]


@EVERY
def test_the_file_is_what_its_card_says_and_small(name):
    card = zoo.card(name)
    fetched = sources.fetch(card.source)
    assert (fetched.sha256, fetched.commit) == (card.source.sha256, None)
    assert fetched.path.stat().st_size < 1.3e6
    assert cache.original_of(card).source == f"package://{name}.safetensors"


@EVERY
def test_the_record_beside_it_says_how_it_was_made(name):
    card = zoo.card(name)
    path = sources.shipped_path(card.source).with_suffix(".json")
    record = record_from_json(path.read_text(), path.name)
    assert record.cell.backbone == twin_of(name)
    assert (record.cell.benchmark, record.cell.dataset, record.cell.protocol) == ("glyphs", "glyphs", "finetune")
    assert record.backbone.weights_sha256 == zoo.weights_sha256(twin_of(name))
    assert f"{100 * record.metrics['accuracy'].value:.1f}" in dict(card.scores)["glyphs top-1"]
    twin = zoo.card(twin_of(name))
    assert (card.architecture, card.arguments, card.preprocessing) == (
        twin.architecture,
        twin.arguments,
        twin.preprocessing,
    )


@EVERY
def test_it_is_a_state_dict_of_timms_and_comes_out_again_as_it_went_in(name, tmp_path):
    import torch

    card = zoo.card(name)
    arrays = load_file(sources.shipped_path(card.source))
    model = references.build(card).module
    model.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()}, strict=True)
    export.export(card, tmp_path / "again.safetensors")
    assert_equal(load_file(tmp_path / "again.safetensors"), arrays)


@EVERY
def test_the_weights_that_a_fine_tuning_kept_are_exported_without_their_head(name, tmp_path):
    card = zoo.card(name)
    kept = {f"backbone.{path}": array for path, array in cache.load(card)[0].items()}
    save_file(
        kept | {"head.kernel": np.ones((4, 2), np.float32), "head.bias": np.ones(2)}, tmp_path / "kept.safetensors"
    )
    assert (
        main(["export", name, "--weights", str(tmp_path / "kept.safetensors"), "--to", str(tmp_path / "x.safetensors")])
        == 0
    )
    assert_equal(load_file(tmp_path / "x.safetensors"), load_file(sources.shipped_path(card.source)))


@EVERY
def test_it_is_verified_against_timm(name, capsys):
    assert main(["verify", name]) == 0
    parity = cache.read_receipt(zoo.card(name)).parity
    assert {stage.input_size for stage in parity} >= {32}
    assert 0 < max(stage.float32 for stage in parity) <= TOLERANCE
    assert "pooled" in capsys.readouterr().out


def test_another_file_in_its_place_is_refused(tmp_path, monkeypatch):
    source = zoo.card(SHIPPED[0]).source
    for content in (None, b"other weights"):
        if content:
            (tmp_path / source.shipped).write_bytes(content)
        monkeypatch.setattr(sources, "shipped_path", lambda source: tmp_path / source.shipped)
        with pytest.raises(BobError, match=r"has sha256 \w+ where its card says \w{64}: install bob_jax anew"):
            sources.fetch(source)


@functools.cache
def some_digits() -> tuple[np.ndarray, np.ndarray]:
    """300 handwritten digits of the training split at 32 pixels, uint8, and their labels."""
    source = catalog.load("digits", limit=300).splits["train"]
    pictures = (Image.fromarray(example["image"]) for example in map(source.__getitem__, range(len(source))))
    resized = [np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC)) for picture in pictures]
    return np.stack(resized), source.labels


def features_of(name: str) -> np.ndarray:
    """[300, D] descriptors of the digits."""
    card, module = zoo.card(name), zoo.load(name).module

    def pooled(images: jax.Array) -> jax.Array:
        return module(normalize(images, card.preprocessing.mean, card.preprocessing.std)).pooled

    return np.asarray(jax.jit(pooled, compiler_options=FAST_COMPILE)(jnp.asarray(some_digits()[0])))


def errors(features: np.ndarray) -> tuple[float, float]:
    """Share of 200 digits that 100 labelled ones get wrong: by nearest neighbour (cosine), and by ridge regression."""
    labels = some_digits()[1]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    nearest = labels[:100][np.argmax(unit[100:] @ unit[:100].T, axis=1)]
    scaled = (features - features[:100].mean(0)) / (features[:100].std(0) + 1e-6)
    gram = scaled[:100].T @ scaled[:100] + 10 * np.eye(features.shape[1])
    weights = np.linalg.solve(gram, scaled[:100].T @ (np.eye(10)[labels[:100]] - 0.1))
    linear = np.argmax(scaled[100:] @ weights, axis=1)
    return float(np.mean(nearest != labels[100:])), float(np.mean(linear != labels[100:]))


@EVERY
def test_its_features_tell_handwritten_digits_apart_better_than_its_twin(name):
    learned, random = (errors(features_of(one)) for one in (name, twin_of(name)))
    assert max(learned) < 0.2
    assert (
        learned[0] < 0.8 * random[0]
    )  # a random ConvNeXt is nearly a linear map: neighbours in pixels stay neighbours
    assert learned[1] < 0.6 * random[1]
