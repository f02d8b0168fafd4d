"""Prepares TFDS data sets from official files that lie on this machine: TFDS's own builders, without its downloads.

python prepare_local.py DATA_DIR '{"imagenet_a": "FOLDER", ...}'
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

Split = tfds.core.SplitGenerator


def _generators(name, made):
    """What stands in for `_split_generators` of a builder: (builder, download manager) -> generators."""
    family = name.split("/")[0]
    if family in ("imagenet_a", "imagenet_r", "imagenet_v2"):
        return lambda self, manager: [Split(name="test", gen_kwargs={f"{family}_root": made})]
    if family == "imagenet_sketch":
        return lambda self, manager: [Split(name="test", gen_kwargs={"archive": manager.iter_archive(made)})]
    if family == "imagenet2012":
        labels = json.loads((Path(made) / "labels.json").read_text())
        return lambda self, manager: [
            Split(
                name="validation",
                gen_kwargs={"archive": manager.iter_archive(f"{made}/val.tar"), "validation_labels": labels},
            )
        ]
    if family == "cifar10_1":
        files = {"image_path": f"{made}/data.npy", "label_path": f"{made}/labels.npy"}
        return lambda self, manager: [Split(name="test", gen_kwargs=files)]

    def domainnet(self, manager):
        self.img_path = made
        domain = self.builder_config.name
        self.splits = {split: f"{made}/{domain}_{split}.txt" for split in ("train", "test")}
        return {split: self._generate_examples(split=split) for split in self.splits}

    return domainnet


def main(data_dir, wanted):
    for name, made in wanted.items():
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        type(builder)._split_generators = _generators(name, made)
        builder.download_and_prepare()


if __name__ == "__main__":
    np.random.seed(0)
    main(sys.argv[1], json.loads(sys.argv[2]))
