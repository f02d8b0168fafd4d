"""What `bob backbones NAME` says of weights: the card and the receipt in the header of the converted file."""

import dataclasses
import json

import numpy as np
import pytest
from converter_models import TINY_VIT, card_of, in_zoo, weights_cache  # noqa: F401

from bob_jax import cli
from bob_jax.backbones import parameters, zoo
from converters import cache
from converters.receipt import Receipt, StageError, rows

pytestmark = pytest.mark.usefixtures("weights_cache")
CARD = card_of("vit", TINY_VIT, "timm_vit")
PARITY = (StageError(32, "blocks.0", 2.5e-7, 3e-3, 4e-3, 5e-3), StageError(48, "pooled", 2e-4))


@pytest.fixture
def receipt():
    """Of zeros that were converted and verified."""
    with in_zoo(CARD):
        arrays = {
            name: np.zeros(leaf.shape, np.float32) for name, leaf in parameters.flatten(zoo.skeleton("tiny")).items()
        }
        written = Receipt(
            backbone="tiny",
            card=cache._fingerprint(CARD),
            source="hf://timm/tiny@main/model.safetensors",
            commit="0123abcd",
            source_sha256="5" * 64,
            weights_sha256=cache.digest(arrays),
            converter=cache.CONVERTER_VERSION,
            licence="mit",
            libraries={"timm": "1.0"},
            date="2026-01-01T00:00:00+00:00",
            verified="2026-01-02T00:00:00+00:00",
            parity=PARITY,
        )
        cache.save(CARD, arrays, written)
        yield written


def test_a_receipt_comes_back_from_the_header_as_it_was(receipt):
    assert cache.read_receipt(CARD) == receipt == Receipt.from_json(receipt.to_json())
    assert receipt.largest_error == 2e-4
    assert dataclasses.replace(receipt, parity=()).largest_error is None


def test_one_card_is_shown_with_its_receipt(receipt, capsys):
    assert cli.main(["backbones", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("name: tiny\n")
    for fact in ("commit: 0123abcd", f"source_sha256: {'5' * 64}", "licence: mit", "verified: 2026-01-02", "timm: 1.0"):
        assert fact in printed, fact
    stage = next(line.split() for line in printed.splitlines() if "blocks.0" in line)
    assert stage == ["32", "blocks.0", "2.5e-07", "ok", "3.0e-03", "4.0e-03", "5.0e-03"]
    stage = next(line.split() for line in printed.splitlines() if "pooled" in line.split())
    assert stage == ["48", "pooled", "2.0e-04", "TOO", "LARGE", "-", "-", "-"]


def test_one_card_as_json_holds_its_receipt(receipt, capsys):
    assert cli.main(["backbones", "tiny", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["name"] == "tiny" and data["receipt"]["parity"][0]["bfloat16"] == 3e-3
    assert data["receipt"]["weights_sha256"] == receipt.weights_sha256


def test_without_converted_weights_the_command_that_makes_them_is_named(capsys):
    with in_zoo(CARD):
        assert cli.main(["backbones", "tiny"]) == 0
        assert "receipt: none yet, `python -m converters verify tiny`" in capsys.readouterr().out
        assert cli.main(["backbones", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["receipt"] is None
    assert cli.main(["backbones", "vit_b16_random", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gflops"] > 30


def test_rows_say_which_error_is_too_large():
    assert [row[3] for row in rows(PARITY)] == ["ok", "TOO LARGE"]
    assert rows(PARITY)[1][4:] == ["", "", ""]
