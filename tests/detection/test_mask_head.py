"""The mask head against PyTorch's, which computes every class, and one chosen from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from from_timm import initialised, randomise, relative_error, to_torch
from tiny_detector import FAST
from torch import nn

from bob_jax.backbones import parameters
from bob_jax.detection.mask_head import SIZE, MaskHead

WIDTH, CLASSES, CONVS = 32, 5, 2
FEATURES = np.random.default_rng(0).standard_normal((2, 4, SIZE, SIZE, WIDTH), np.float32)
LABELS = np.array([[0, 4, 2, 2], [1, 3, 0, 4]])


def twin(norm: str) -> nn.Sequential:
    """mmdetection's `FCNMaskHead`."""
    layers: list[nn.Module] = []
    for _ in range(CONVS):
        layers.append(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=norm == "none"))
        layers += [nn.GroupNorm(32, WIDTH)] if norm == "group" else []
        layers.append(nn.ReLU())
    layers += [nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2), nn.ReLU(), nn.Conv2d(WIDTH, CLASSES, 1)]
    return nn.Sequential(*layers)


def filled(theirs: nn.Sequential, norm: str) -> MaskHead:
    head = nnx.eval_shape(lambda: MaskHead(WIDTH, CLASSES, convs=CONVS, norm=norm, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    *convs, last = [x for x in theirs if isinstance(x, nn.Conv2d)]
    norms = [x for x in theirs if isinstance(x, nn.GroupNorm)]
    (up,) = [x for x in theirs if isinstance(x, nn.ConvTranspose2d)]
    arrays = {"kernel": last.weight[:, :, 0, 0], "bias": last.bias}
    arrays |= {"deconv.kernel": up.weight.permute(2, 3, 0, 1), "deconv.bias": up.bias}
    for n, conv in enumerate(convs):
        arrays[f"convs.{n}.conv.kernel"] = conv.weight.permute(2, 3, 1, 0)
        if conv.bias is not None:
            arrays[f"convs.{n}.conv.bias"] = conv.bias
    for n, layer in enumerate(norms):
        arrays |= {f"convs.{n}.norm.scale": layer.weight, f"convs.{n}.norm.bias": layer.bias}
    parameters.assign(head, {name: x.detach().numpy() for name, x in arrays.items()}, "twin")
    return head


@pytest.mark.parametrize("norm", ["group", "none"])
def test_the_chosen_class_is_that_of_all_classes(norm):
    theirs = randomise(twin(norm))
    ours = filled(theirs, norm)
    with torch.no_grad():
        every = theirs(to_torch(FEATURES.reshape(8, SIZE, SIZE, WIDTH))).numpy()  # [8, C, 28, 28]
    wanted = every[np.arange(8), LABELS.reshape(-1)].reshape(2, 4, 2 * SIZE, 2 * SIZE)
    run = jax.jit(lambda head, x, labels: head(x, labels), compiler_options=FAST)
    found = run(ours, FEATURES, LABELS)
    assert found.shape == wanted.shape and found.dtype == jnp.float32
    assert relative_error(np.asarray(found), wanted) < 1e-5
    others = every[np.arange(8), (LABELS.reshape(-1) + 1) % CLASSES].reshape(wanted.shape)
    assert relative_error(np.asarray(found), others) > 0.1
    # Background, C, and whatever stands in empty slots read a class that there is.
    beyond = run(ours, FEATURES, np.where(LABELS == 4, CLASSES, np.where(LABELS == 0, -1, LABELS)))
    np.testing.assert_array_equal(beyond, found)


def test_only_the_chosen_class_learns():
    head = filled(randomise(twin("none")), "none")
    graph, params = nnx.split(head)
    labels = np.full((2, 4), 3)

    def total(params):
        return jnp.sum(jnp.square(nnx.merge(graph, params)(FEATURES, labels)))

    gradient = nnx.to_pure_dict(jax.jit(jax.grad(total), compiler_options=FAST)(params))
    for leaf in ("kernel", "bias"):
        assert gradient[leaf][3].any() and not np.delete(np.asarray(gradient[leaf]), 3, axis=0).any()
    assert all(np.any(x) for x in jax.tree.leaves(gradient))


def test_start_is_detectron2s():
    ours = initialised(lambda rngs: MaskHead(64, 100, convs=1, norm="none", dtype=jnp.float32, rngs=rngs))
    np.testing.assert_allclose(np.std(ours["kernel"]), 0.001, rtol=0.03)
    np.testing.assert_allclose(np.std(ours["convs.0.conv.kernel"]), (2 / (9 * 64)) ** 0.5, rtol=0.03)
    np.testing.assert_allclose(np.std(ours["deconv.kernel"]), (2 / (4 * 64)) ** 0.5, rtol=0.03)
    assert not any(ours[name].any() for name in ours if name.endswith("bias"))
