"""The fine-tune loop against PyTorch: same ViT, same weights, same data, AdamW with timm's own layer decay."""

import copy
import dataclasses
import math

import jax
import numpy as np
import pytest
from flax import nnx
from from_timm import filled, randomise, renamed
from torch_reference import import_timm

from bob_jax.backbones.card import HALF, Card, Preprocessing
from bob_jax.backbones.vit import ViT
from bob_jax.data.arrays import ArraySource
from bob_jax.data.base import Dataset
from bob_jax.protocols import finetune
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.finetune import Finetune, _Trainer
from bob_jax.training.loop import fit
from bob_jax.training.mesh import make_mesh
from bob_jax.training.optimizer import dotted_paths

CLASSES, SIZE, BATCH, STEPS = 5, 32, 16, 10
RATE, DECAY, LAYER_DECAY, SMOOTHING, CLIP = 1e-3, 0.05, 0.75, 0.1, 1.0
ARCHITECTURE = {"patch_size": 8, "width": 32, "depth": 3, "num_heads": 2, "input_size": SIZE}

PROTOCOL = Finetune(
    learning_rates=(RATE,),
    weight_decays=(DECAY,),
    layer_decay=LAYER_DECAY,
    batch_size=BATCH,
    accumulate=1,
    epochs=1,
    min_steps=0,
    max_steps=0,
    warmup_epochs=0,
    evaluations=1,
    drop_path=0.0,
    label_smoothing=SMOOTHING,
    mixup=0.0,
    cutmix=0.0,
    crop_scale=(1.0, 1.0),
    horizontal_flip=False,
    randaugment=0,
    random_erasing=0.0,
    clip_norm=CLIP,
    ema=0.0,
)


def card() -> Card:
    return Card(
        name="vit_test",
        architecture="vit",
        arguments=ARCHITECTURE,
        table=None,
        method="random",
        data="none",
        source=None,
        licence="none",
        commercial=True,
        preprocessing=Preprocessing(SIZE, 1.0, mean=HALF, std=HALF),
        parameters=0.0,
        feature_dim=32,
        pooling="cls",
    )


def dataset(images: np.ndarray, labels: np.ndarray) -> Dataset:
    source = ArraySource(images, labels)
    return Dataset(
        name="noise",
        version="1",
        classes=tuple("abcde"),
        splits={"train": source, "validation": source, "test": source},
        split_notes={"train": "", "validation": "", "test": ""},
        metric="accuracy",
        licence="none",
    )


@pytest.fixture(scope="module")
def problem():
    timm = import_timm()
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=SIZE, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=0
    )
    randomise(model)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (STEPS * BATCH, SIZE, SIZE, 3), dtype=np.uint8)
    return model, images, rng.integers(0, CLASSES, STEPS * BATCH).astype(np.int32)


def test_ten_steps_equal_pytorch(problem, tmp_path):
    import torch
    from timm.optim import param_groups_layer_decay  # the fixture has made timm importable

    model, images, labels = problem
    module = filled(lambda: ViT(**ARCHITECTURE, rngs=nnx.Rngs(0)), model)
    trainer = _Trainer(
        PROTOCOL, Competitor(card(), module, "0" * 64), dataset(images, labels), Context(make_mesh(), tmp_path)
    )
    batches = [
        {
            "image": images[i : i + BATCH],
            "label": labels[i : i + BATCH],
            "mask": np.ones(BATCH, bool),
            "index": np.arange(i, i + BATCH, dtype=np.int32),
        }
        for i in range(0, len(images), BATCH)
    ]
    losses = []
    result = fit(
        trainer.params,
        trainer._loss(),
        trainer._optimizer(RATE, DECAY, STEPS, 0),
        lambda start: iter(batches[start:]),
        total_steps=STEPS,
        mesh=make_mesh(),
        key=jax.random.key(0),
        stats=trainer.stats,
        log_every=1,
        on_log=lambda row: losses.append(row["loss"]),
    )

    head = torch.nn.Linear(32, CLASSES)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(np.asarray(trainer.params["head"]["kernel"]).T))
        head.bias.zero_()
    reference = copy.deepcopy(model).train()
    reference.head = head
    groups = param_groups_layer_decay(
        reference, DECAY, no_weight_decay_list=reference.no_weight_decay(), layer_decay=LAYER_DECAY
    )
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    expected = []
    for step, batch in enumerate(batches):
        rate = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        pixels = torch.tensor(batch["image"]).permute(0, 3, 1, 2).float() / 255
        loss = criterion(reference((pixels - 0.5) / 0.5), torch.tensor(batch["label"]).long())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), CLIP)
        optimizer.step()
        expected.append(loss.item())

    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    found = dict(zip(dotted_paths(result.state.params), jax.tree.leaves(result.state.params), strict=True))
    for name, array in renamed(reference.named_parameters()).items():
        name = name if name.startswith("head.") else f"backbone.{name}"
        # Adam divides by the root of tiny second moments, so one step carries rounding of the gradient's sign-like
        # ratio.
        scale = np.abs(array).max()
        assert np.abs(np.asarray(found[name]) - array).max() <= 1e-4 * scale, name


def test_every_layer_gets_its_own_rate(problem, tmp_path):
    """With layer decay 0.5 the first update of each layer is half of the next one's."""
    model, images, labels = problem
    module = filled(lambda: ViT(**ARCHITECTURE, rngs=nnx.Rngs(0)), model)
    protocol = dataclasses.replace(PROTOCOL, layer_decay=0.5, weight_decays=(0.0,), clip_norm=0.0)
    trainer = _Trainer(
        protocol, Competitor(card(), module, "0" * 64), dataset(images, labels), Context(make_mesh(), tmp_path)
    )
    tx = trainer._optimizer(RATE, 0.0, STEPS, 0)
    ones = jax.tree.map(np.ones_like, trainer.params)
    updates, _ = tx.update(ones, tx.init(trainer.params), trainer.params)
    rate = {
        name: -float(leaf.min()) for name, leaf in zip(dotted_paths(updates), jax.tree.leaves(updates), strict=True)
    }
    assert rate["head.kernel"] == pytest.approx(RATE, rel=1e-5)
    # Norm behind the blocks and the last block: one and two layers below the head is what timm's grouping gives.
    for layer, name in enumerate(["patch_embed.proj.kernel", *(f"blocks.{i}.mlp.fc1.kernel" for i in range(3))]):
        depth = module.num_layers - layer
        assert rate[f"backbone.{name}"] == pytest.approx(RATE * 0.5**depth, rel=1e-5)


def test_a_rate_that_leads_nowhere_leaves_the_others_of_the_grid(problem, tmp_path):
    # Validation is scored after every step, when the loss has not yet seen what the step did.
    model, images, labels = problem
    module = filled(lambda: ViT(**ARCHITECTURE, rngs=nnx.Rngs(0)), model)
    protocol = dataclasses.replace(PROTOCOL, learning_rates=(RATE, 1e30), max_steps=3, evaluations=3)
    data = dataset(images[:32], labels[:32])
    result = protocol.run(Competitor(card(), module, "0" * 64), data, Context(make_mesh(), tmp_path, num_workers=0))
    assert result.chosen == 0 and result.grid[0]["validation"] is not None
    assert result.grid[1]["validation"] is None


def test_images_that_cannot_be_decoded_are_mixed_into_nothing(problem, tmp_path):
    model, images, labels = problem
    module = filled(lambda: ViT(**ARCHITECTURE, rngs=nnx.Rngs(0)), model)
    protocol = dataclasses.replace(PROTOCOL, mixup=0.8, cutmix=1.0)
    data, context = dataset(images, labels), Context(make_mesh(), tmp_path)
    trainer = _Trainer(protocol, Competitor(card(), module, "0" * 64), data, context)
    loss = jax.jit(trainer._loss())

    def of(blank: int, key: int):
        batch = {"image": images[:BATCH].copy(), "label": labels[:BATCH].copy(), "mask": np.arange(BATCH) != 3}
        batch["image"][3], batch["label"][3] = blank, blank % CLASSES
        total, aux = loss(trainer.params, None, trainer.stats, batch, jax.random.key(key))
        return float(total), float(aux.weight)

    for key in range(4):  # mixup and cutmix
        assert of(0, key) == of(254, key)
        assert of(0, key)[1] == BATCH - 2  # without itself, and without the image that it was mixed into


@pytest.mark.parametrize(("steps", "asked", "expected"), [(14, 5, [3, 6, 9, 12, 14]), (3, 5, [1, 2, 3]), (4, 1, [4])])
def test_validation_is_scored_no_more_often_than_asked(problem, tmp_path, monkeypatch, steps, asked, expected):
    model, images, labels = problem
    module = filled(lambda: ViT(**ARCHITECTURE, rngs=nnx.Rngs(0)), model)
    protocol = dataclasses.replace(PROTOCOL, max_steps=steps, min_steps=steps, evaluations=asked)
    context = Context(make_mesh(), tmp_path, num_workers=0)
    trainer = _Trainer(protocol, Competitor(card(), module, "0" * 64), dataset(images[:32], labels[:32]), context)
    seen = []
    monkeypatch.setattr(
        finetune, "fit", lambda *_, total_steps, eval_every, **__: seen.append((total_steps, eval_every))
    )
    with pytest.raises(AttributeError):  # there is no result
        trainer.train(0, RATE, DECAY)
    [(total, every)] = seen
    assert [step for step in range(1, total + 1) if step % every == 0 or step == total] == expected
