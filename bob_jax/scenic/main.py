"""The main of bob_jax as a Scenic project, for `scenic.app.run`; what `scenic/main.py` does with Scenic's own parts."""

from typing import Any

import jax
import ml_collections

from bob_jax.scenic import dataset, host, model


def register() -> None:
    """Makes "bob_jax" a model and a data set in Scenic's registries: for `scenic/main.py`, and for other mains."""
    _register_data()
    from scenic.model_lib import models

    models.ALL_MODELS[model.NAME] = model.model_class()


def _register_data() -> None:
    host.require()
    from scenic.dataset_lib import datasets

    if model.NAME not in datasets.DatasetRegistry.list():
        datasets.DatasetRegistry.add(model.NAME, dataset.get_dataset)


def main(rng: jax.Array, config: ml_collections.ConfigDict, workdir: str, writer: Any) -> tuple[Any, Any, Any]:
    """Trains by `scenic.train_lib.classification_trainer`.

    Args:
        rng: key.
        config: as `bob_jax/scenic/config.py` makes it.
        workdir: folder of checkpoints and summaries; a restart goes on from the last checkpoint there.
        writer: of metrics.

    Returns:
        Training state, last training summary, last summary of validation.
    """
    _register_data()
    from flax.training import checkpoints
    from scenic.train_lib import classification_trainer, train_utils

    data_rng, rng = jax.random.split(rng)
    if config.checkpoint and (path := checkpoints.latest_checkpoint(workdir)) is not None:
        data_rng = jax.random.fold_in(data_rng, int(train_utils.checkpoint_path_step(path) or 0))
    data = train_utils.get_dataset(config, data_rng)
    trained: tuple[Any, Any, Any] = classification_trainer.train(
        rng=rng, config=config, model_cls=model.model_class(), dataset=data, workdir=workdir, writer=writer
    )
    return trained
