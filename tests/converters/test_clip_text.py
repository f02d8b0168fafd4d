"""CLIP's text tower against transformers' on random weights, in float64."""

import warnings

import numpy as np
import pytest
import torch
from converter_models import randomised
from from_timm import relative_error
from torch_reference import import_timm

from bob_jax.errors import BobError
from converters.clip_text import last_hidden_state

import_timm()  # registers torchvision's operators, without which transformers does not load beside a CPU-only torch
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import CLIPTextConfig, CLIPTextModel

TOKENS = (98, 5, 17, 99, 0, 0, 0)


def tower(activation: str, depth: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=100,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=depth,
        num_attention_heads=2,
        max_position_embeddings=9,
        hidden_act=activation,
        bos_token_id=98,
        eos_token_id=99,
    )
    return randomised(CLIPTextModel(config)).double()


def arrays_of(model: CLIPTextModel) -> dict[str, np.ndarray]:
    return {name.removeprefix("text_model."): tensor.numpy() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_last_hidden_state_equals_transformers(activation):
    model = tower(activation, depth=2)
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).last_hidden_state[0].numpy()
    assert relative_error(last_hidden_state(arrays_of(model), TOKENS, activation), expected) < 1e-12


def test_tower_without_its_last_block_gives_the_penultimate_state():
    model = tower("gelu", depth=3)
    with torch.no_grad():
        states = model(torch.tensor([TOKENS]), output_hidden_states=True).hidden_states
        expected = model.final_layer_norm(states[-2])[0].numpy()
    arrays = {name: array for name, array in arrays_of(model).items() if ".layers.2." not in name}
    assert relative_error(last_hidden_state(arrays, TOKENS, "gelu"), expected) < 1e-12


def test_half_precision_towers_are_computed_in_float64():
    arrays = {name: array.astype(np.float16) for name, array in arrays_of(tower("gelu", depth=1)).items()}
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    np.testing.assert_array_equal(*(last_hidden_state(tower, TOKENS, "gelu") for tower in (arrays, wide)))


def test_tower_with_other_arrays():
    arrays = arrays_of(tower("gelu", depth=2))
    del arrays["encoder.layers.1.mlp.fc1.bias"]
    with pytest.raises(BobError, match=r"encoder.layers.1.mlp.fc1.bias missing, logit_scale not known"):
        last_hidden_state(arrays | {"logit_scale": np.ones(())}, TOKENS, "gelu")
