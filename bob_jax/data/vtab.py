"""Labels of the structured tasks of VTAB, as functions of what TFDS stores of an image.

The tasks ask for counts, distances and positions, which the data sets have as annotations of objects or as fine bins;
the classes are those of Zhai et al. 2019 (arXiv 1910.04867), thresholds as in google-research/task_adaptation. Every
function takes the features of a `tf.train.Example`, by name.
"""

from typing import Any

import numpy as np

DSPRITES_BINS = 16  # of the 32 positions and 40 orientations
CLEVR_NEAREST = (8.0, 8.5, 9.0, 9.5, 10.0)  # depth, in CLEVR's units; each bin holds its upper end
KITTI_NEAREST = (8.0, 20.0, 999.0)  # metres; beyond the last there is no vehicle
KITTI_VEHICLES = 3  # types below it: car, van, truck


def clevr_count(features: Any) -> int:
    """Objects in the scene, of which there are 3 to 10."""
    return len(features["objects/size"].int64_list.value) - 3


def clevr_distance(features: Any) -> int:
    """Bin of the depth of the object that is nearest to the camera."""
    return _bin(_third(features["objects/pixel_coords"]).min(), CLEVR_NEAREST)


def dsprites_location(features: Any) -> int:
    """Horizontal position, two of the 32 columns in a bin."""
    return _integer(features["label_x_position"]) * DSPRITES_BINS // 32


def dsprites_orientation(features: Any) -> int:
    """Rotation, two or three of the 40 steps in a bin."""
    return _integer(features["label_orientation"]) * DSPRITES_BINS // 40


def dsprites_pixels(image: np.ndarray) -> np.ndarray:
    """Black and white, where TFDS stores 0 and 1."""
    return image * np.uint8(255)


def kitti_distance(features: Any) -> int:
    """Bin of the distance to the nearest car, van or truck ahead; the last is for none."""
    vehicle = np.array(features["objects/type"].int64_list.value) < KITTI_VEHICLES
    return _bin(min(_third(features["objects/location"])[vehicle], default=np.float32(np.inf)), KITTI_NEAREST)


def smallnorb_azimuth(features: Any) -> int:
    """Turn of the object below the camera, in steps of 20 degrees."""
    return _integer(features["label_azimuth"])


def smallnorb_elevation(features: Any) -> int:
    """Height of the camera, 30 to 70 degrees in steps of 5."""
    return _integer(features["label_elevation"])


def _integer(feature: Any) -> int:
    (value,) = feature.int64_list.value
    return int(value)


def _third(feature: Any) -> np.ndarray:
    """[N] float32, the last coordinate of N points in space."""
    return np.array(feature.float_list.value, np.float32).reshape(-1, 3)[:, 2]


def _bin(value: np.float32, upper: tuple[float, ...]) -> int:
    """How many of the bins lie below; a value on a bound is in the lower bin."""
    return int(np.searchsorted(np.array(upper, np.float32), value, side="left"))
