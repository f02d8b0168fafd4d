"""Every config file, for every backbone it offers: the cells are valid, and the training loss of each can be traced."""

import importlib
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bob_jax import grid
from bob_jax.backbones import zoo
from bob_jax.data.arrays import ArraySource
from bob_jax.data.base import Dataset
from bob_jax.errors import BobError
from bob_jax.metrics.catalog import METRICS
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.finetune import Finetune, _Trainer
from bob_jax.training.mesh import make_mesh
from configs import expected

ROOT = Path(__file__).parent.parent.parent
FILES = sorted(  # the gauntlet is all of them at once and has a test of its own
    path.stem
    for path in (ROOT / "configs").glob("*.py")
    if "def get_config" in path.read_text(encoding="utf-8") and path.stem != "gauntlet"
)
BATCH = 8


def config(file: str, argument: str | None = None):
    return importlib.import_module(f"configs.{file}").get_config(argument)


def distinct() -> list:
    """One backbone for each architecture, size and recipe: what differs only in weights traces alike.

    Of the bridged ones one for each family of timm's.
    """
    seen: dict[str, tuple[str, str]] = {}
    for file in FILES:
        chosen = config(file, "all,protocol=all")
        if "finetune" not in chosen.protocols:
            continue
        recipe = chosen.protocols.finetune.to_json(sort_keys=True)
        for name in chosen.backbones:
            card = zoo.card(name)
            size = card.preprocessing.input_size
            if card.architecture == "timm":
                family = re.match(r"timm:[a-z_]+", card.arguments["source"])[0]
                seen.setdefault(f"{recipe} {family}", (file, name))
                continue
            seen.setdefault(json.dumps([recipe, card.architecture, dict(card.arguments), size]), (file, name))
    return list(seen.values())


@pytest.mark.parametrize("argument", [None, "all"])
@pytest.mark.parametrize("file", FILES)
def test_a_config_stands_for_valid_cells(file, argument):
    chosen = config(file, argument)
    cells = grid.cells(chosen)
    assert chosen.benchmark == file
    assert len({cell.id("version", cell.source and cell.source.id("version")) for cell in cells}) == len(cells)
    judged = {(cell.dataset, cell.protocol.name) for cell in cells}
    assert {dataset for dataset, _ in judged} >= set(chosen.datasets)
    assert {protocol for _, protocol in judged} >= set(chosen.protocols)
    for i, cell in enumerate(cells):
        assert cell.source is None or cell.source in cells[:i]  # the head is there before it is judged


def test_every_published_figure_is_one_cell_of_a_grid_and_the_heads_below_it():
    rows = expected.rows()
    assert len(rows) == len(list(expected._rows()))  # no name stands twice
    for row in rows.values():
        cells = grid.cells(row.config())
        last = cells[-1]
        assert cells == ([last.source] if last.source else []) + [last], row.name
        assert 0 < row.value <= 1 and 0 < row.tolerance <= 0.02 and row.source
        assert row.metric in METRICS, row.name


@pytest.mark.parametrize("file", FILES)
def test_the_head_of_a_config_gives_its_command(file):
    text = (ROOT / "configs" / f"{file}.py").read_text(encoding="utf-8")
    assert f"python main.py --config=configs/{file}.py" in text
    assert "Expected:" in text


@pytest.mark.parametrize("file", FILES)
def test_a_key_that_nothing_reads_is_an_error(file):
    chosen = config(file, "protocol=all")
    name = next(iter(chosen.protocols))
    with chosen.unlocked():
        chosen.protocols[name].batch_sise = 1
    with pytest.raises(BobError, match=rf"unknown key in protocols.{name} 'batch_sise': did you mean batch_size"):
        grid.cells(chosen)
    chosen = config(file, "protocol=all")
    with chosen.unlocked():
        chosen.data.limits = 3
    with pytest.raises(BobError, match=r"unknown key in config.data 'limits': did you mean limit\?"):
        grid.cells(chosen)
    chosen = config(file, "protocol=all")
    del chosen.protocols[name]["batch_size"]
    with pytest.raises(BobError, match=rf"protocols.{name} lacks batch_size"):
        grid.cells(chosen)


@pytest.mark.parametrize(("file", "name"), distinct())
def test_the_training_loss_of_every_backbone_can_be_traced(file, name, tmp_path):
    protocol = Finetune.from_config(config(file).protocols.finetune)
    card = zoo.card(name)
    module = zoo.skeleton(name, drop_path=protocol.drop_path_rate(), window=protocol.attention_window())
    source = ArraySource(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, np.int32))
    splits = dict.fromkeys(("train", "validation", "test"), source)
    dataset = Dataset("nothing", "1", tuple("abcdefg"), splits, dict.fromkeys(splits, ""), "accuracy", "none")
    trainer = _Trainer(protocol, Competitor(card, module, "0" * 64), dataset, Context(make_mesh(), tmp_path))
    trainer._optimizer(1e-3, 0.05, 10, 1)  # layer decay knows every parameter
    size = card.preprocessing.input_size
    batch = {
        "image": jax.ShapeDtypeStruct((BATCH, size, size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((BATCH,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((BATCH,), jnp.bool),
    }
    loss, aux = jax.eval_shape(trainer._loss(), trainer.params, None, trainer.stats, batch, jax.random.key(0))
    assert loss.shape == aux.weight.shape == ()
    assert jax.tree.map(jnp.shape, aux.stats) == jax.tree.map(jnp.shape, trainer.stats)
