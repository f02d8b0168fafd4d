"""The bridge: timm's own programs through torchax, against PyTorch itself; and the contract of every backbone."""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from from_timm import (
    FAST_COMPILE,
    gradient_errors,
    images,
    outputs,
    randomise,
    relative_error,
    scalar_weights,
    to_torch,
    trained,
)
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from torch_reference import import_timm

from bob_jax.backbones import parameters, torch_program, zoo
from bob_jax.backbones.bridge import Bridge
from bob_jax.backbones.cards import any_timm
from bob_jax.backbones.torch_program import Origin
from bob_jax.errors import BobError
from bob_jax.training import mesh as meshes
from bob_jax.training.checkpoint import Checkpointing, Checkpoints
from bob_jax.training.state import abstract_state, create_state
from bob_jax.training.step import Aux, make_train_step

timm = import_timm()
FILE = Path(__file__).with_name("tiny_torch.py")
TINY = f"{FILE}:build"
# A small member of each of 14 families without native port. 32 pixels are 8 by 8 digits, each pixel 4 by 4.
FAMILIES = (
    "cait_xxs24_224",
    "ghostnet_050",
    "hrnet_w18_small",
    "levit_128s",
    "mixer_s32_224",
    "mobilenetv3_small_050",
    "poolformer_s12",
    "regnetx_002",
    "resnest14d",
    "test_coatnet",
    "test_efficientnet",
    "test_mambaout",
    "test_maxvit",
    "xcit_nano_12_p16_224",
)
SIDE, BATCH, TRAIN = 32, 48, 192


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels[: TRAIN + BATCH].reshape(-1, 8, 8).astype(np.float32) / 8 - 1
    pixels = pixels.repeat(4, 1).repeat(4, 2)
    return np.stack([pixels] * 3, -1), labels[: TRAIN + BATCH]


def bridge(source: str = TINY, **more) -> Bridge:
    """Skeleton of a bridged backbone; the tiny one by default."""
    return nnx.eval_shape(lambda: Bridge(source, **{"input_size": SIDE, "rngs": nnx.Rngs(0), **more}))


def filled(backbone: Bridge, seed: int = 0) -> tuple[Bridge, torch.nn.Module]:
    """The backbone with random weights, and PyTorch's module with the same."""
    drawn, state = randomise(torch_program.make(backbone.origin), seed).state_dict(), parameters.flatten(backbone)
    arrays = {name: drawn[name].numpy() for name in state}
    parameters.assign(backbone, arrays, "test")
    reference = torch_program.reference(backbone.origin)
    torch_program.fill(reference, arrays)
    return backbone, reference


def as_theirs(found: list[np.ndarray]) -> list[np.ndarray]:
    return [found[0], *(x.transpose(0, 3, 1, 2) for x in found[1:])]


@functools.partial(jax.jit, static_argnums=0)  # unoptimised, grouped convolutions run for minutes
def evaluate(graph: nnx.GraphDef, state: nnx.State, pictures: jax.Array) -> tuple:
    return tuple(jax.tree.leaves(nnx.merge(graph, state)(pictures)))


@pytest.mark.parametrize("name", FAMILIES)
def test_timm_family_equals_pytorch_and_tells_digits_apart(name):
    """One compilation for both: features and maps as PyTorch's, and a linear probe on real digits far above chance."""
    backbone, forward = filled(bridge(f"timm:{name}"))
    pictures, labels = digits()
    graph, state = nnx.split(backbone)
    batches = [
        [np.asarray(x) for x in evaluate(graph, state, pictures[i : i + BATCH])] for i in range(0, len(pictures), BATCH)
    ]
    few = to_torch(pictures[:4])
    with torch.no_grad():
        pooled, maps = forward(few)
        whole = forward.module(few)  # timm's plain call, without maps
    assert torch.equal(pooled, whole)
    for ours, theirs in zip(as_theirs(batches[0]), [pooled, *maps], strict=True):
        assert relative_error(ours[:4], theirs.numpy()) < 1e-5
    assert [x.shape[-1] for x in maps] == [-(-SIDE // stride) for stride in backbone.strides]
    assert [x.shape[1] for x in maps] == list(backbone.widths)

    features = np.concatenate([batch[0] for batch in batches])
    features = (features - features[:TRAIN].mean(0)) / (features[:TRAIN].std(0) + 1e-6)
    probe = RidgeClassifier(alpha=10.0).fit(features[:TRAIN], labels[:TRAIN])
    assert probe.score(features[TRAIN:], labels[TRAIN:]) > 0.5  # of 10 classes


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_has_a_layer(name):
    backbone = bridge(f"timm:{name}")
    layers = {path: backbone.layer_of(path) for path in parameters.flatten(backbone)}
    assert set(layers.values()) == set(range(backbone.num_layers))
    assert backbone.num_layers >= 5
    assert layers[next(iter(dict(torch_program.make(backbone.origin).named_parameters())))] == 0
    with pytest.raises(KeyError):
        backbone.layer_of("head.kernel")


def test_names_are_pytorchs_and_layers_follow_the_modules():
    backbone = bridge()
    assert {path: backbone.layer_of(path) for path in parameters.flatten(backbone)} == {
        "fixed": 0, "shift": 0, "stem.weight": 1, "stem.bias": 1,
        **{f"blocks.{i}.{leaf}": 2 + i for i in (0, 1)
           for leaf in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")},
        "down.weight": 4, "down.bias": 4, "norm.weight": 5, "norm.bias": 5, "proj.weight": 6,
    }  # fmt: skip
    assert (backbone.num_layers, backbone.strides, backbone.widths) == (7, (4, 8), (8, 16))
    module = torch_program.make(backbone.origin)
    assert parameters.count(backbone) == sum(x.numel() for x in module.parameters())
    assert [type(parameters.variable(backbone, name)).__name__ for name in ("proj.weight", "fixed", "shift")] == [
        "Param", "Fixed", "BatchStat",
    ]  # fmt: skip


@pytest.mark.parametrize("sides", [(64, 64), (32, 96)])
def test_tiny_equals_pytorch_at_any_size(sides):
    backbone, forward = filled(bridge())
    pictures = images(4, *sides)
    with torch.no_grad():
        pooled, maps = forward(to_torch(pictures))
    for ours, theirs in zip(as_theirs(outputs(backbone, pictures)), [pooled, *maps], strict=True):
        assert relative_error(ours, theirs.numpy()) < 1e-5


def test_training_equals_pytorchs_in_features_gradients_and_statistics():
    backbone, forward = filled(bridge())
    pictures = images(8, SIDE, SIDE)
    graph, params, rest = nnx.split(backbone, nnx.Param, ...)
    params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    forward.train()
    pooled, maps = forward(to_torch(pictures))
    theirs = [pooled, *maps]
    weights = scalar_weights([x.detach().numpy() for x in theirs])

    @functools.partial(jax.jit, compiler_options=FAST_COMPILE)
    @functools.partial(jax.grad, has_aux=True)
    def step(params, rest):
        module = nnx.merge(graph, params, rest)
        features = module(pictures, rngs=nnx.Rngs(0))
        found = [features.pooled, *(x.transpose(0, 3, 1, 2) for x in features.maps)]
        loss = sum(jnp.vdot(w, x) for w, x in zip(weights, found, strict=True))
        return loss, (found, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)))

    gradients, (ours, stats) = step(params, rest)
    for mine, exact in zip(ours, theirs, strict=True):
        assert relative_error(np.asarray(mine), exact.detach().numpy()) < 1e-5
    named = {name: x for name, x in forward.module.named_parameters() if x.requires_grad}
    sum((torch.from_numpy(w) * x).sum() for w, x in zip(weights, theirs, strict=True)).backward()
    paths = jax.tree.leaves_with_path(gradients)
    mine = {".".join(str(key.key) for key in path): np.asarray(x) for path, x in paths}
    assert max(gradient_errors(mine, {name: x.grad.numpy() for name, x in named.items()}).values()) < 1e-5
    for i in (0, 1):
        for kind in ("running_mean", "running_var"):
            moved = forward.module.get_buffer(f"blocks.{i}.bn.{kind}").numpy()
            assert relative_error(np.asarray(stats["blocks"][str(i)]["bn"][kind]), moved) < 1e-5
            assert relative_error(np.asarray(rest["blocks"][str(i)]["bn"][kind]), moved) > 1e-3
    np.testing.assert_array_equal(stats["shift"], rest["shift"])
    np.testing.assert_array_equal(stats["fixed"], rest["fixed"])


def test_evaluation_leaves_the_module_as_it_was():
    backbone, _ = filled(bridge(drop_path=0.5))
    before = {path: np.array(leaf) for path, leaf in parameters.flatten(backbone).items()}
    first, second = outputs(backbone, images(2, SIDE, SIDE)), backbone(images(2, SIDE, SIDE))
    np.testing.assert_allclose(first[0], second.pooled, rtol=1e-5, atol=1e-6)
    for path, leaf in parameters.flatten(backbone).items():
        np.testing.assert_array_equal(leaf, before[path])


@pytest.mark.parametrize("options", [{"drop_path": 0.5}, {"source": f"{FILE}:with_dropout"}])
def test_drop_path_and_dropout_are_drawn_from_the_rngs(options):
    backbone, _ = filled(bridge(**options))
    a, b, again = (trained(backbone, images(8, SIDE, SIDE), seed)[0] for seed in (1, 2, 1))
    np.testing.assert_array_equal(a, again)
    assert np.abs(a - b).max() > 1e-3


def test_drop_path_drops_whole_images_at_its_rate():
    backbone, _ = filled(bridge(drop_path=0.5))
    same = np.broadcast_to(images(1, 16, 16), (256, 16, 16, 3))
    found = trained(backbone, same)[1].reshape(256, -1)
    kinds, counts = np.unique(found.round(4), axis=0, return_counts=True)
    assert len(kinds) == 4  # two blocks, each dropped or not
    assert (abs(counts - 64) < 5 * np.sqrt(256 * 0.25 * 0.75)).all()


def test_timms_constructor_gets_the_drop_path_rate_and_the_size():
    module = torch_program.make(Origin("timm:regnety_002", SIDE, 0.3))
    rates = [part.drop_prob for part in module.modules() if type(part).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3)
    assert torch_program.make(Origin("timm:vgg11", SIDE, 0.3)) is not None  # knows neither: built without
    assert torch_program.make(Origin("timm:mixer_s32_224", SIDE)).stem.img_size == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("model", "multiple"), [("regnety_002", 32), ("vit_tiny_patch16_224", 0), ("mixer_s32_224", 0)]
)
def test_a_model_that_only_takes_its_own_size_says_so(model, multiple):
    assert torch_program.facts(Origin(f"timm:{model}", 64)).side_multiple == multiple


def test_a_multiple_of_the_last_stride_is_traced_like_the_models_own_size():
    backbone, _ = filled(bridge())
    side = SIDE + backbone.side_multiple
    assert backbone.side_multiple == backbone.strides[-1]
    features = nnx.eval_shape(lambda model, x: model(x), backbone, jnp.zeros((1, side, side, 3)))
    assert [x.shape[1] for x in features.maps] == [side // stride for stride in backbone.strides]


def test_bfloat16_computes_close_to_float32():
    full, half = (filled(bridge(dtype=dtype))[0] for dtype in (jnp.float32, jnp.bfloat16))
    assert {leaf.dtype for leaf in parameters.flatten(half).values()} == {jnp.dtype(jnp.float32)}
    low, high = outputs(half, images(2, SIDE, SIDE)), outputs(full, images(2, SIDE, SIDE))
    assert low[0].dtype == jnp.float32 and {x.dtype for x in low[1:]} == {jnp.dtype(jnp.bfloat16)}
    for mine, exact in zip(low, high, strict=True):
        assert 0 < relative_error(mine.astype(np.float32), exact) < 0.03


def test_sharded_training_step_equals_one_device():
    graph, state = nnx.split(filled(bridge())[0])
    pictures = images(16, SIDE, SIDE)

    @functools.partial(jax.jit, compiler_options=FAST_COMPILE)
    def step(state, pictures):
        module = nnx.merge(graph, state)
        features = module(pictures, rngs=nnx.Rngs(0))
        return features, nnx.to_pure_dict(nnx.state(module))

    state = nnx.to_pure_dict(state)
    alone = step(state, pictures)
    mesh = meshes.make_mesh(fsdp=2)
    with jax.set_mesh(mesh):
        parts = NamedSharding(mesh, P(("data", "fsdp")))
        spread = step(meshes.place(state, mesh), jax.device_put(pictures, parts))
    assert len(spread[0].pooled.sharding.device_set) == 8
    for one, eight in zip(jax.tree.leaves(alone), jax.tree.leaves(spread), strict=True):
        np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-5 * np.abs(one).max())


def test_graph_definition_is_a_static_argument_without_the_module():
    first, second, other = (nnx.graphdef(bridge(**more)) for more in ({}, {}, {"drop_path": 0.5}))
    assert hash(first) == hash(second) and first == second != other
    held = [leaf for leaf in jax.tree.leaves(nnx.split(filled(bridge())[0])) if isinstance(leaf, torch.Tensor)]
    assert not held
    other_state = nnx.state(bridge(), nnx.Not(nnx.Any(nnx.Param, nnx.BatchStat)))
    assert not jax.tree.leaves(other_state)


def test_the_kept_program_holds_no_second_copy_of_the_weights():
    module = torch_program.program(bridge("timm:test_efficientnet").origin).forward.module
    assert sum(x.numel() for x in module.parameters()) == 0


def test_fresh_weights_follow_from_the_seed_and_are_pytorchs():
    built = [zoo.build("timm:test_efficientnet.random", seed=seed) for seed in (3, 3, 4)]
    first, again, other = ({k: np.asarray(x) for k, x in parameters.flatten(m).items()} for m in built)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["conv_stem.weight"], other["conv_stem.weight"])
    torch.manual_seed(0)
    theirs = timm.create_model("test_efficientnet", num_classes=0).state_dict()
    for name, mine in first.items():
        # Two draws of one distribution: the smallest tensors have a few hundred values, deviations known to a tenth.
        assert float(theirs[name].std()) == pytest.approx(float(mine.std()), rel=0.2, abs=1e-6), name
    assert zoo.weights_sha256("timm:test_efficientnet.random", seed=3) != zoo.weights_sha256(
        "timm:test_efficientnet.random", seed=4
    )


def test_finetuning_steps_move_everything_and_the_checkpoint_comes_back(tmp_path):
    """Three steps of AdamW over 8 devices with parameters split, saved and read onto one split in another way."""
    graph, params, stats = nnx.split(filled(bridge())[0], nnx.Param, nnx.BatchStat)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    tx = optax.adamw(1e-2)

    def loss(params, frozen, stats, batch, key):
        module = nnx.merge(graph, params, stats)
        pooled = module(batch["image"], rngs=nnx.Rngs(key)).pooled
        aux = Aux(jnp.float32(len(pooled)), nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)), {})
        return jnp.sum(jnp.square(pooled - 1)), aux

    state = create_state(params, stats, jax.random.key(0), tx, meshes.make_mesh(fsdp=4))
    shardings = jax.tree.map(lambda x: x.sharding, state)
    step = make_train_step(loss, tx, shardings)
    losses = []
    for seed in range(3):
        batch = meshes.put_batch({"image": images(16, 32, 32, seed)}, meshes.make_mesh(fsdp=4))
        state, sums = step(state, None, batch)
        losses.append(float(sums["loss"]))
    assert losses[-1] < losses[0]
    moved = jax.tree.map(lambda new, old: not np.array_equal(new, old), state.params, params)
    assert jax.tree.all(moved)
    still = {".".join(str(key.key) for key in path) for path, x in jax.tree.leaves_with_path(
        jax.tree.map(np.array_equal, state.stats, stats)) if x}  # fmt: skip
    assert still == {"fixed", "shift"}
    with Checkpoints(Checkpointing(tmp_path / "checkpoints", every=1)) as checkpoints:
        checkpoints.save(3, state, {"steps": 3})
        checkpoints.wait()
        again = checkpoints.restore(abstract_state(params, stats, jax.random.key(0), tx, meshes.make_mesh(fsdp=2)))
    for field in ("params", "stats", "opt_state"):
        assert jax.tree.all(jax.tree.map(np.array_equal, getattr(again.state, field), getattr(state, field)))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("raising", "tiny_torch.py:raising raises ValueError: no such size"),
        ("number", "returns int, not a torch.nn.Module"),
        ("tokens", "the module returns a tensor (2, 1024, 3): return [B, D]"),
        ("nothing", "unknown function in"),
    ],
)
def test_what_is_no_backbone_is_one_line(function, words):
    with pytest.raises(BobError) as caught:
        bridge(f"{FILE}:{function}")
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("airy", "uses the operator aten::special_airy_ai, which"),
        ("branching", "does not run through torchax on images (2, 3,"),
    ],
)
def test_what_does_not_convert_names_the_operator_or_the_reason(function, words):
    backbone, _ = filled(bridge(f"{FILE}:{function}"))
    with pytest.raises(BobError) as caught:
        outputs(backbone, images(2, 8, 8))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_family_that_torchax_cannot_run_says_so():
    with pytest.raises(BobError, match=r"timm:volo_d1_224 does not run through torchax on images .*: ValueError"):
        nnx.eval_shape(lambda: Bridge("timm:volo_d1_224", rngs=nnx.Rngs(0))(jnp.zeros((2, 224, 224, 3))))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "timm:regnety_016",
            "must say which weights: timm:regnety_016.pycls_in1k, timm:regnety_016.tv2_in1k, timm:reg",
        ),
        ("timm:regnety_016.tv3", "must say which weights"),
        ("timm:regnetz_999.x", "unknown timm model 'regnetz_999': did you mean"),
        ("timm:vit_small_patch16_18x2_224.random", None),
    ],
)
def test_cards_of_timm_names(name, words):
    if words is None:
        assert zoo.card(name).feature_dim == 384
        return
    with pytest.raises(BobError) as caught:
        zoo.card(name)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_card_says_what_timm_says():
    card = zoo.card("timm:regnety_004.tv2_in1k")
    named = zoo.card("regnety_400m_tv2_in1k")
    for field in ("architecture", "arguments", "table", "source", "licence", "commercial", "preprocessing", "method"):
        assert getattr(card, field) == getattr(named, field), field
    assert (card.data, card.feature_dim, round(card.parameters, 1)) == ("ImageNet-1k", 440, 3.9)
    assert not zoo.card("timm:hiera_tiny_224.mae").commercial


@pytest.mark.parametrize(
    ("name", "method", "data"),
    [
        ("vit_huge_patch14_gap_224.in1k_ijepa", "ijepa", "ImageNet-1k"),
        ("vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", "clip", "LAION-2B, then ImageNet-12k, then ImageNet-1k"),
        ("vit_huge_patch14_clip_224.dfn5b", "clip", "DFN-5B"),
        ("resnet50_clip.cc12m", "clip", "CC12M"),
        ("resnet18.fb_swsl_ig1b_ft_in1k", "weakly supervised", "Instagram-1B, then ImageNet-1k"),
        ("vit_small_patch16_dinov3_qkvb.eupe_lvd1689m", "eupe", "LVD-1689M"),
        ("vit_base_patch14_reg1_tipsv2.webli", "tipsv2", "WebLI"),
        ("regnety_320.seer_ft_in1k", "seer", "as timm's tag seer_ft_in1k says"),
        ("vit_base_patch16_224.augreg_in21k_ft_in1k", "supervised", "ImageNet-21k, then ImageNet-1k"),
    ],
)
def test_method_and_data_follow_from_timms_names(name, method, data):
    assert any_timm._method(name) == method
    assert any_timm._data(name.partition(".")[2]) == data


def test_methods_of_timm_names_are_those_of_the_zoos_cards():
    for card in zoo.CARDS.values():
        if card.source and card.source.hub and card.source.hub.startswith("timm/"):
            assert any_timm._method(card.source.hub.removeprefix("timm/")) == card.method.removesuffix("+supervised")


def test_weights_that_timm_warns_of_say_so():
    assert "QuickGELU" in zoo.card("timm:vit_base_patch32_clip_224.openai").notes
    assert "QuickGELU" not in zoo.card("timm:vit_base_patch32_clip_quickgelu_224.openai").notes


@pytest.mark.parametrize(
    ("model", "name", "linear"),
    [("levit_256d", "head.linear", False), ("dla46_c", "fc", False), ("mobilenetv3_small_050", "classifier", True)],
)  # fmt: skip
def test_a_classifier_behind_another_layer_than_the_descriptor_is_none(model, name, linear):
    origin = Origin(f"timm:{model}", 224)
    assert torch_program.has_linear_classifier(origin, name) == linear
    with torch.no_grad():  # the same by its scores
        whole = torch_program.make_timm(origin, num_classes=5).eval()
        for tensor in (*whole.parameters(), *(x for x in whole.buffers() if x.is_floating_point())):
            tensor.abs_().add_(0.1) if tensor.ndim == 1 else None
        found = whole.forward_features(torch.ones(1, 3, 224, 224))
        layer, pooled = whole.get_submodule(name), whole.forward_head(found, pre_logits=True)
        scores = pooled @ layer.weight.reshape(5, -1).T + layer.bias
        assert torch.allclose(scores, whole.forward_head(found), rtol=1e-4) == (linear or model == "dla46_c")


def test_named_cards_are_prepared_as_timm_says():
    for card in zoo.CARDS.values():
        if card.architecture == "timm" and card.source:
            theirs = zoo.card(f"timm:{card.source.hub.removeprefix('timm/')}")
            assert card.preprocessing == theirs.preprocessing, card.name
            assert (card.licence, card.commercial) == (theirs.licence, theirs.commercial), card.name


WITHOUT = """
import sys
sys.modules[{missing!r}] = None
from bob_jax.backbones import zoo
from bob_jax.errors import BobError
try:
    zoo.build("efficientnet_b0_random")(__import__("numpy").zeros((1, 32, 32, 3), "float32"))
except BobError as error:
    print(error)
"""


@pytest.mark.parametrize("missing", ["torch", "torchax"])
def test_a_missing_library_is_one_line_that_names_the_extra(missing):
    done = subprocess.run([sys.executable, "-c", WITHOUT.format(missing=missing)], capture_output=True, text=True)
    assert done.stdout.count("\n") == 1, done.stderr
    assert "needs" in done.stdout and "pip install 'bob_jax[bridge]'" in done.stdout
