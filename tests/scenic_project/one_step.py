"""A program for a test: a backbone of the zoo under Scenic's trainer, on two devices; what came of it, as JSON.

It has a process of its own: TensorFlow comes along, and warnings that are not ours.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from clu import metric_writers
from scenic.train_lib import classification_trainer, train_utils

from bob_jax.backbones import zoo
from bob_jax.data import catalog, on_device
from bob_jax.data.transforms import Eval
from bob_jax.scenic import config as configs
from bob_jax.scenic import dataset, main, model

jax.config.update("jax_num_cpu_devices", 2)

argument, workdir = sys.argv[1:]
name = argument.partition(",")[0]
config = configs.get_config(argument)
config.num_training_steps = 1
config.lr_configs.warmup_steps = 0
config.dataset_configs.limit = 90
config.batch_size = 16
config.checkpoint = False
config.model.drop_path = 0.0

# The data: batches of the validation split, as Scenic sees them, beside our own.
main._register_data()
data = train_utils.get_dataset(config, jax.random.key(0))
card = zoo.card(name)
ours = catalog.load("digits", limit=90).splits["validation"]
pixels = np.stack([Eval(card.preprocessing)(ours[i]["image"]) for i in range(len(ours))])
inputs = on_device.normalize(jnp.asarray(pixels), card.preprocessing.mean, card.preprocessing.std)
batches = [next(data.valid_iter) for _ in range(12)]
seen = np.concatenate([batch["inputs"].reshape(-1, *inputs.shape[1:]) for batch in batches[:6]])
kept = np.concatenate([batch["batch_mask"].ravel() for batch in batches[:6]]).astype(bool)
labels = np.concatenate([batch["label"].ravel() for batch in batches[:6]])[kept]
again = np.concatenate([batch["inputs"].reshape(-1, *inputs.shape[1:]) for batch in batches[6:]])

# The model: its parameters at the start are the published ones, and it says what the backbone says.
flax_model = model.model_class()(config, data.meta_data).flax_model
start = jax.random.split(jax.random.key(2))[1]  # what the trainer below draws from its key
variables = flax_model.init({"params": start}, inputs[:2], train=False, debug=False)
head = variables["params"]["output_projection"]
loaded = zoo.load(name).module
expected = loaded(inputs[:16]).pooled @ head["kernel"] + head["bias"][None]
logits = flax_model.apply(variables, inputs[:16], train=False, mutable=False, debug=False)

# A step.
data = dataset.get_dataset(
    batch_size=16, eval_batch_size=16, num_shards=2, shuffle_seed=0, dataset_configs=config.dataset_configs
)
state, _, summary = classification_trainer.train(
    rng=jax.random.key(2),
    config=config,
    model_cls=model.model_class(),
    dataset=data,
    workdir=workdir,
    writer=metric_writers.create_default_writer(workdir, just_logging=True),
)
before = jax.tree.leaves_with_path(variables["params"]["backbone"])
after = dict(jax.tree.leaves_with_path(jax.tree.map(lambda x: x[0], state.params["backbone"])))
moved = {jax.tree_util.keystr(path): float(np.abs(np.asarray(after[path]) - np.asarray(x)).max()) for path, x in before}
head_moved = float(np.abs(np.asarray(state.params["output_projection"]["kernel"][0]) - head["kernel"]).max())
stats = jax.tree.leaves(state.model_state)
print(
    json.dumps(
        {
            "devices": jax.device_count(),
            "images": int(kept.sum()),
            "inputs": float(np.abs(seen[kept] - np.asarray(inputs)).max()),
            "labels": bool((labels == ours.labels).all()),
            "again": bool((seen == again).all()),
            "parity": float(jnp.abs(logits - expected).max() / jnp.abs(expected).max()),
            "parameters": len(moved),
            "still": [path for path, distance in moved.items() if distance == 0],
            "head_moved": head_moved,
            "largest": max(moved.values()),
            "statistics": len(stats),
            "statistics_agree": all(bool((x[0] == x[1]).all()) for x in stats),
            "summary": sorted(summary),
        }
    )
)
