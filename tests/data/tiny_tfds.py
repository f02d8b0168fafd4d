"""Small TFDS data sets with the features of the real builders, stored as TFDS stores them: `python tiny_tfds.py DIR`.

What stands in them follows from the number of the example alone, so that a test knows it without reading it.
"""

import sys

import numpy as np
from data_pictures import picture

COUNT = 40  # examples of each split
CLASSES = 4  # that occur, at most
SPLITS = ("train", "validation", "test")
NAMED_LATE = ("cifar10", "cifar100", "stanford_dogs")  # the real builders read the class names from the archive
BUILDERS = (
    "caltech101",
    "cifar10",
    "cifar100",
    "clevr",
    "diabetic_retinopathy_detection/btgraham-300",
    "dmlab",
    "domainnet/clipart",
    "domainnet/infograph",
    "domainnet/painting",
    "domainnet/quickdraw",
    "domainnet/real",
    "domainnet/sketch",
    "dsprites",
    "dtd",
    "eurosat/rgb",
    "food101",
    "imagenet2012",
    "imagenet2012_subset/10pct",
    "imagenet2012_subset/1pct",
    "kitti",
    "oxford_flowers102",
    "oxford_iiit_pet",
    "patch_camelyon",
    "resisc45",
    "smallnorb",
    "stanford_dogs",
    "sun397/tfds",
    "svhn_cropped",
)


def depths(index: int) -> list[float]:
    """Distance of each object of a CLEVR scene, 3 to 10 of them; the nearest goes from 7.6 to 10.8 or so."""
    return [7.5 + 0.5 * (index % 7) + 0.25 * (place + 1) % 1.75 for place in range(3 + index % 8)]


def traffic(index: int) -> list[tuple[int, float]]:
    """Type and distance in metres of each object of a KITTI image: pedestrians (3) stand nearest, and may be alone."""
    vehicles = [(place % 3, 4.0 * (index % 9) + 8.0 * place) for place in range(index % 4)]
    return [(3, 1.0), *vehicles]


def latent(index: int, steps: int) -> int:
    """Value of a factor with so many steps; all of them occur where there are fewer than examples."""
    return index % steps


def pixels(index: int, channels: int, height: int, width: int) -> np.ndarray:
    """[H, W, C] uint8; of one channel they are 0 and 1, as dSprites has them."""
    image = picture(index, height=height, width=width)
    return image if channels == 3 else (image[..., :1] > 127).astype(np.uint8)


def name(split: str, index: int) -> str:
    """Of a file: with a space and letters that are not ASCII."""
    return f"{split}/größe {index:03d}.png"


if __name__ == "__main__":
    import tensorflow_datasets as tfds

    def example(builder: str, features, split: str, number: int) -> dict:
        return {key: value(builder, key, features[key], split, number) for key in features}

    def value(builder, key, feature, split, number):
        match feature:
            case tfds.features.BBoxFeature():
                return tfds.features.BBox(0.0, 0.0, 0.5, 0.5)
            case tfds.features.Image():
                height, width, channels = (size or 20 for size in feature.shape)
                return pixels(number, feature.shape[-1] or channels, height, width)
            case tfds.features.ClassLabel():
                factor = builder in ("dsprites", "smallnorb")
                return latent(number, feature.num_classes if factor else min(CLASSES, feature.num_classes))
            case tfds.features.Text():
                return name(split, number)
            case tfds.features.Sequence():
                return objects(builder, key, feature, split, number)
        return np.zeros(feature.shape, feature.np_dtype)

    def objects(builder, key, feature, split, number):
        if builder == "clevr" and key == "objects":
            found = [{"pixel_coords": [1.0, 2.0, depth]} for depth in depths(number)]
        elif builder == "kitti":
            found = [{"type": kind, "location": [1.0, 2.0, distance]} for kind, distance in traffic(number)]
        else:
            found = [{}]
        inner = feature.feature
        return [{part: value(builder, part, inner[part], split, 0) for part in inner} | one for one in found]

    for builder_name in BUILDERS:
        real = tfds.builder(builder_name, data_dir=sys.argv[1])
        if real.name in NAMED_LATE:
            label = real.info.features["label"]
            label.names = [f"class {number}" for number in range(label.num_classes)]
        tfds.dataset_builders.store_as_tfds_dataset(
            name=real.name,
            config=builder_name.partition("/")[2] or None,
            version=str(real.version),
            features=real.info.features,
            split_datasets={
                split: [
                    (number, example(real.name, real.info.features, split, 100 * SPLITS.index(split) + number))
                    for number in range(COUNT)
                ]
                for split in SPLITS
            },
            data_dir=sys.argv[1],
            file_format="array_record",
            disable_shuffling=True,
        )
