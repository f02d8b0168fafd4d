"""Small models and checkpoints that the converter tests share."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from bob_jax.backbones import zoo
from bob_jax.backbones.card import Card, Preprocessing, WeightSource

TINY_VIT = {"patch_size": 8, "width": 48, "depth": 2, "num_heads": 3, "input_size": 32}


@pytest.fixture
def weights_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "bob"))
    return tmp_path / "bob" / "weights"


def randomised(model: Any, seed: int = 0) -> Any:
    """The model in evaluation mode, with no parameter or statistic at a value that would hide a mistake."""
    import torch  # here, so that the processes of test_cache start without it

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(noise.abs() + 0.5)
            elif name.endswith("weight") and tensor.ndim > 1:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
            elif name.endswith(("weight", "gamma")):
                tensor.copy_(1 + 0.2 * noise)
            elif not name.endswith("num_batches_tracked"):
                tensor.copy_(0.2 * noise)
    return model.eval()


def card_of(
    architecture: str,
    arguments: Mapping[str, Any],
    table: str,
    *,
    name: str = "tiny",
    source: WeightSource | None = None,
) -> Card:
    return Card(
        name=name,
        architecture=architecture,
        arguments=dict(arguments),
        table=table,
        method="test",
        data="noise",
        source=source or WeightSource(hub="timm/tiny"),
        licence="mit",
        commercial=True,
        preprocessing=Preprocessing(input_size=arguments["input_size"]),
        parameters=0.1,
        feature_dim=48,
        pooling="cls",
    )


@contextlib.contextmanager
def in_zoo(card: Card):
    """The card stands in the zoo inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(zoo.CARDS, card.name, card)
        yield card


def numpy_state(model: Any) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}
