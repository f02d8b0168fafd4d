"""How backbones of full size are judged: the hyper-parameters of each protocol, the same in every benchmark.

One recipe for all backbones. What a recipe cannot know beforehand is a grid, chosen from on validation.
"""

from typing import Any

from bob_jax.backbones.zoo import CARDS

PROTOCOLS: dict[str, dict[str, Any]] = {
    "published_head": {"batch_size": 512},
    "zero_shot": {"batch_size": 512},
    # k and temperature of DINO (arXiv 2104.14294); the grid around its k = 20 is chosen from on validation.
    "knn": {"k": (1, 5, 10, 20, 50, 100), "temperature": 0.07, "batch_size": 512},
    "linear_probe": {
        # lambda = 1 / (C N) on standardised features: from almost none to far too much.
        "regularisation": (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0),
        "tolerance": 1e-5,
        "max_iterations": 1000,
        "batch_size": 512,
    },
    # MAE's linear probe (arXiv 2111.06377, table 10), as the original benchmark ran it: LARS, base rate 0.1, 90
    # epochs, 10 of them warm-up. Here the rate is a grid; one backbone pass serves all of its heads.
    "augmented_probe": {
        "base_learning_rates": (0.01, 0.03, 0.1, 0.3, 1.0),
        "batch_size": 1024,
        "epochs": 90,
        "warmup_epochs": 10,
        "crop_scale": (0.08, 1.0),
        "horizontal_flip": True,
    },
    # The original's fine-tune recipe (AdamW, layer decay 0.75, RandAugment, mixup, cutmix, erasing), with a grid of
    # rates and decays where it had one value for 1,020 and for 2.7 million images, and a batch that small sets can use.
    "finetune": {
        "learning_rates": (1e-4, 3e-4, 1e-3),
        "weight_decays": (0.05,),
        "layer_decay": 0.75,
        "batch_size": 256,
        "accumulate": 1,
        "epochs": 50,
        "min_steps": 1000,  # of a thousand images 50 epochs are 200 steps: too few to move a transformer
        "max_steps": 100_000,  # 20 epochs of ImageNet, where pretrained weights need no more
        "warmup_epochs": 5,
        "evaluations": 5,
        "drop_path": 0.1,
        "label_smoothing": 0.1,
        "mixup": 0.8,
        "cutmix": 1.0,
        "crop_scale": (0.08, 1.0),
        "horizontal_flip": True,
        "randaugment": 9,
        "random_erasing": 0.25,
        "clip_norm": 0.0,
        "ema": 0.0,
    },
    "ood": {"batch_size": 512},
    # Undefended backbones have no accuracy left at RobustBench's 4/255: small budgets are what tells them apart.
    "adversarial": {
        "linf": (0.25 / 255, 0.5 / 255, 1 / 255, 4 / 255),
        "l2": (0.1, 0.25, 0.5),
        "main": "linf_0.5of255",
        "images": 1000,
        "batch_size": 100,
        "pgd_steps": 20,
        "pgd_step_size": 0.1,
        "pgd_restarts": 1,
        "apgd_steps": 50,
        "apgd_restarts": 1,
        "apgd_targets": 9,
        "square_queries": 1000,
    },
    # Covariances of features of 2,000 dimensions are known well enough, and a score is a matter of seconds.
    "transferability": {"images": 10_000, "batch_size": 512},
    # The descriptor that the checkpoint's authors define, at the checkpoint's own size, and nothing more.
    "retrieval": {
        "descriptor": "pooled",
        "gem_p": 3.0,
        "input_size": 0,
        "scales": (1.0,),
        "whitening": 0,
        "top_k": 100,
        "batch_size": 512,
    },
}

# All but those that were made for the small pictures of configs/digits.py.
BACKBONES = tuple(name for name, card in CARDS.items() if card.preprocessing.input_size >= 176)

# One of each way of pretraining, all ViT-B/16, and the paper's convolutional baseline.
DEFAULT_BACKBONES = ("vit_b16_clip", "vit_b16_dino", "vit_b16_mae", "vit_b16_mocov3", "vit_b16_in21k", "resnet50_in1k")
