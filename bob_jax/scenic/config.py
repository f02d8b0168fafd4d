"""A Scenic config: fine-tuning of a backbone of the zoo by Scenic's classification trainer.

    python -m bob_jax.scenic --config=bob_jax/scenic/config.py:vit_b16_clip,pets --workdir=runs/pets

The argument is BACKBONE, BACKBONE,DATASET or BACKBONE,DATASET,frozen; without one it is what comes along, a small ViT
and handwritten digits. `frozen` trains the head alone.
"""

import ml_collections

from bob_jax.backbones import zoo
from bob_jax.data import catalog
from bob_jax.errors import BobError, unknown_name


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The config for a backbone and a data set.

    Raises:
        BobError: a name that nobody knows, or a fourth part.
    """
    named = [part for part in (argument or "").split(",") if part]
    if len(named) > 3:
        raise BobError(f"the config's argument '{argument}' has more than three parts: BACKBONE,DATASET,frozen")
    backbone, dataset, how = [*named, *("vit_nano8_glyphs", "digits", "")[len(named) :]]
    zoo.card(backbone)
    catalog.task(dataset)
    if how not in ("", "frozen"):
        raise unknown_name("third part of the config's argument", how, ("frozen",))
    frozen = {"freeze_params_reg_exp": "^backbone"} if how else {}
    steps, rate = ml_collections.FieldReference(1000), ml_collections.FieldReference(3e-4)
    return ml_collections.ConfigDict(
        {
            "experiment_name": f"{backbone}-{dataset}",
            "rng_seed": 0,
            "model_name": "bob_jax",
            "trainer_name": "classification_trainer",
            "model": {"backbone": backbone, "drop_path": 0.0 if frozen else 0.1},
            "dataset_name": "bob_jax",
            "data_dtype_str": "float32",
            # Digits are neither mirrored nor cropped to a tenth.
            "dataset_configs": {
                "name": dataset,
                "backbone": backbone,
                "horizontal_flip": dataset != "digits",
                "crop_scale": (0.6 if dataset == "digits" else 0.08, 1.0),
                "limit": 0,
            },
            "batch_size": 64,
            "num_training_steps": steps,
            "optimizer": "adamw",
            "optimizer_configs": {"weight_decay": 0.05, "skip_scale_and_bias_regularization": True, **frozen},
            "l2_decay_factor": None,
            "label_smoothing": 0.1,
            "max_grad_norm": 1.0,
            "lr_configs": {
                "learning_rate_schedule": "compound",
                "factors": "constant * cosine_decay * linear_warmup",
                "warmup_steps": 100,
                "steps_per_cycle": steps,
                "base_learning_rate": rate,
            },
            "log_eval_steps": 250,
            "checkpoint": True,
            "checkpoint_steps": 500,
            "xprof": False,
            "debug_train": False,
            "debug_eval": False,
        }
    )
