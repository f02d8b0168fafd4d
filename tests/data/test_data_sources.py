"""Arrays, digits, subsets and folders."""

import pickle

import numpy as np
import pytest
from data_pictures import picture, truncate, write, write_classes
from PIL import Image
from sklearn.datasets import load_digits

from bob_jax.data import digits, folder
from bob_jax.data.arrays import ArraySource
from bob_jax.data.decode import CorruptImage
from bob_jax.data.subset import Subset, balanced, hold_out
from bob_jax.errors import BobError


def labelled(counts: list[int]) -> ArraySource:
    labels = np.repeat(np.arange(len(counts)), counts)
    return ArraySource(np.zeros((len(labels), 2, 2, 3), np.uint8), labels)


def test_array_source_gives_examples_and_a_fingerprint_of_everything():
    images = np.stack([picture(seed) for seed in range(3)])
    source = ArraySource(images, np.array([2, 0, 1]), ids=["a", "b", "c"])
    assert len(source) == 3 and source[1]["id"] == "b" and source[1]["label"] == 0
    np.testing.assert_array_equal(source[2]["image"], images[2])
    changed = images.copy()
    changed[0, 0, 0, 0] ^= 1
    others = [
        ArraySource(changed, np.array([2, 0, 1]), ids=["a", "b", "c"]),
        ArraySource(images, np.array([2, 1, 1]), ids=["a", "b", "c"]),
        ArraySource(images, np.array([2, 0, 1]), ids=["a", "b", "d"]),
    ]
    assert len({source.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert source.fingerprint == ArraySource(images.copy(), np.array([2, 0, 1]), ids=["a", "b", "c"]).fingerprint


def test_array_source_takes_many_labels_per_image():
    source = ArraySource(np.zeros((2, 4, 4, 3), np.uint8), np.array([[0, 1.0], [1, 1]]))
    assert source.labels.dtype == np.float32
    np.testing.assert_array_equal(source[0]["label"], [0, 1])


def test_array_source_refuses_floats():
    with pytest.raises(ValueError, match="uint8"):
        ArraySource(np.zeros((2, 4, 4, 3), np.float32), np.zeros(2, np.int64))


def test_digits_are_those_of_scikit_learn_in_three_parts():
    dataset = digits.load()
    raw = load_digits()
    assert {split: len(source) for split, source in dataset.splits.items()} == {
        "train": 1077,
        "validation": 360,
        "test": 360,
    }
    rows = np.concatenate([[int(name) for name in source.ids] for source in dataset.splits.values()])
    np.testing.assert_array_equal(np.sort(rows), np.arange(1797))
    for source in dataset.splits.values():
        example = source[7]
        row = int(example["id"])
        assert example["label"] == raw.target[row] == source.labels[7]
        expected = np.round(raw.images[row] / 16 * 255)  # 0..16 -> 0..255
        np.testing.assert_array_equal(example["image"], np.dstack([expected] * 3))
        counts = np.bincount(source.labels, minlength=10)
        assert counts.max() - counts.min() <= 0.06 * len(source) / 5  # stratified: the classes have 174 to 183 images
    assert dataset.version == digits.load().version


def test_hold_out_is_stratified_and_a_partition():
    source = labelled([10, 20, 5, 1])
    rest, held = hold_out(source, 0.2)
    assert sorted([*rest.indices, *held.indices]) == list(range(36))
    # shares 2, 4, 1, 0.2 of ceil(7.2) = 8: the class of one image cannot give it, so a full class gives one more
    np.testing.assert_array_equal(np.bincount(held.labels, minlength=4), [3, 4, 1, 0])
    assert 3 in rest.labels


def test_hold_out_rounds_by_largest_remainder():
    _, held = hold_out(labelled([7, 8, 9]), 0.25)  # shares 1.75, 2, 2.25; 6 in all
    np.testing.assert_array_equal(np.bincount(held.labels), [2, 2, 2])


def test_hold_out_depends_on_ids_and_seed_only():
    source = labelled([30, 30])
    order = np.random.default_rng(0).permutation(60)
    shuffled = Subset(source, order)
    _, held = hold_out(source, 0.3)
    _, again = hold_out(shuffled, 0.3)
    assert set(held.ids) == set(again.ids)
    _, other = hold_out(source, 0.3, seed=1)
    assert set(held.ids) != set(other.ids)


def test_balanced_takes_one_of_each_class_first():
    source = labelled([50, 3, 7])
    assert np.bincount(balanced(source, 3).labels).tolist() == [1, 1, 1]
    counts = np.bincount(balanced(source, 12).labels)
    assert counts[1] == 3 and sorted(counts) == [3, 4, 5]
    assert len(balanced(source, 1000)) == 60
    assert set(balanced(source, 5).ids) < set(balanced(source, 9).ids)
    assert balanced(source, 5, seed=1).ids != balanced(source, 5).ids


def test_subset_of_subset_and_fingerprint():
    source = labelled([5, 5])
    part = Subset(Subset(source, np.array([9, 3, 4])), np.array([1, 0]))
    assert part.ids == [source.ids[3], source.ids[9]] and part[1]["id"] == source.ids[9]
    np.testing.assert_array_equal(part.labels, [0, 1])
    assert part.fingerprint != Subset(Subset(source, np.array([9, 3, 4])), np.array([0, 1])).fingerprint


def test_folder_of_classes_is_split_three_ways(tmp_path):
    write_classes(tmp_path, {"wasp": 10, "ant": 20, "Bee": 10})
    dataset = folder.load(tmp_path)
    assert dataset.classes == ("Bee", "ant", "wasp")  # sorted as strings, capitals first
    assert [len(dataset.splits[split]) for split in ("train", "validation", "test")] == [24, 8, 8]
    everything = sorted(name for source in dataset.splits.values() for name in source.ids)
    assert everything == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    for source in dataset.splits.values():
        np.testing.assert_array_equal(np.bincount(source.labels, minlength=3) / len(source), [0.25, 0.5, 0.25])
        for index in range(len(source)):
            assert dataset.classes[source.labels[index]] == source.ids[index].split("/")[0]
    assert "20% of all images, stratified by class, seed 0" in dataset.split_notes["test"]


def test_folder_images_labels_and_ids_belong_together(tmp_path):
    write_classes(tmp_path, {"a": 5, "b": 5})
    source = folder.load(tmp_path).splits["train"]
    for index in range(len(source)):
        example = source[index]
        name, number = example["id"].removesuffix(".png").split("/")
        np.testing.assert_array_equal(example["image"], picture(1000 * "ab".index(name) + int(number)))
        assert example["label"] == "ab".index(name)


def test_folder_with_official_splits(tmp_path):
    write_classes(tmp_path / "train", {"a": 4, "b": 4})
    write_classes(tmp_path / "val", {"a": 1, "b": 2})
    write_classes(tmp_path / "test", {"b": 3})
    dataset = folder.load(tmp_path)
    assert [len(source) for source in dataset.splits.values()] == [8, 3, 3]
    assert dataset.split_notes == {"train": "folder train", "validation": "folder val", "test": "folder test"}
    np.testing.assert_array_equal(dataset.splits["test"].labels, [1, 1, 1])


def test_split_folders_in_any_case(tmp_path):
    """As many data sets have them; else train and test would be two classes."""
    write_classes(tmp_path / "Train", {"a": 10, "b": 10})
    write_classes(tmp_path / "TEST", {"a": 2, "b": 2})
    dataset = folder.load(tmp_path)
    assert dataset.classes == ("a", "b") and [len(source) for source in dataset.splits.values()] == [16, 4, 4]
    write_classes(tmp_path / "training", {"a": 1})
    with pytest.raises(BobError, match="two folders of train images, Train and training: keep one"):
        folder.load(tmp_path)


def test_links_that_lead_back_or_nowhere(tmp_path):
    write_classes(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    dataset = folder.load(tmp_path)
    assert sum(map(len, dataset.splits.values())) == 11
    (lost,) = [
        (source, source.ids.index("b/gone.png")) for source in dataset.splits.values() if "b/gone.png" in source.ids
    ]
    with pytest.raises(CorruptImage, match=r"gone\.png"):
        lost[0][lost[1]]


def test_folder_without_validation_holds_out_of_train(tmp_path):
    write_classes(tmp_path / "train", {"a": 10, "b": 10})
    write_classes(tmp_path / "test", {"a": 2, "b": 2})
    dataset = folder.load(tmp_path, validation_fraction=0.1)
    assert [len(source) for source in dataset.splits.values()] == [18, 2, 4]
    assert dataset.split_notes["validation"] == "10% of folder train, stratified by class, seed 0"
    assert all(name.startswith("train/") for name in dataset.splits["validation"].ids)


def test_imagenet_layout_reports_on_val_and_selects_on_part_of_train(tmp_path):
    write_classes(tmp_path / "train", {"a": 10, "b": 10})
    write_classes(tmp_path / "val", {"a": 2, "b": 2})
    dataset = folder.load(tmp_path)
    assert dataset.split_notes["test"] == "folder val"
    assert all(name.startswith("val/") for name in dataset.splits["test"].ids)
    assert [len(source) for source in dataset.splits.values()] == [16, 4, 4]


def test_folder_version_follows_names_and_sizes(tmp_path):
    write_classes(tmp_path, {"a": 5, "b": 5})
    before = folder.load(tmp_path)
    assert folder.load(tmp_path).version == before.version
    write(tmp_path / "a" / "new.png", 77)
    after = folder.load(tmp_path)
    assert after.version != before.version
    (tmp_path / "a" / "new.png").rename(tmp_path / "a" / "other.png")
    assert folder.load(tmp_path).version not in (before.version, after.version)


def test_folder_passes_over_hidden_and_other_files_and_reads_nested_ones(tmp_path):
    write_classes(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    write(tmp_path / "b" / ".hidden.png", 1)
    write(tmp_path / "b" / "more" / "deep.JPG", 2)
    dataset = folder.load(tmp_path)
    ids = {name for source in dataset.splits.values() for name in source.ids}
    assert len(ids) == 9 and "b/more/deep.JPG" in ids and dataset.classes == ("a", "b")


def test_folder_reads_no_image_for_labels(tmp_path):
    write_classes(tmp_path, {"a": 5, "b": 5})
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"broken")
    dataset = folder.load(tmp_path)
    assert len(dataset.splits["train"].labels) == 6
    with pytest.raises(CorruptImage, match=r"\.png"):
        dataset.splits["train"][0]


@pytest.mark.parametrize("suffix", [".jpg", ".jfif", ".png", ".webp", ".avif", ".jp2", ".bmp"])
def test_folder_formats(tmp_path, suffix):
    write_classes(tmp_path, {"a": 5, "b": 5}, suffix=suffix)
    example = folder.load(tmp_path).splits["test"][0]
    with Image.open(tmp_path / example["id"]) as reference:
        np.testing.assert_array_equal(example["image"], np.asarray(reference))


def test_a_corrupt_file_is_named_and_the_others_are_read(tmp_path):
    write_classes(tmp_path, {"a": 5, "b": 5}, suffix=".jpg")
    source = folder.load(tmp_path).splits["train"]
    truncate(tmp_path / source.ids[1])
    assert source[0]["image"].shape == (20, 30, 3)
    with pytest.raises(CorruptImage, match=source.ids[1]):
        source[1]


def test_folder_source_travels_to_workers(tmp_path):
    write_classes(tmp_path, {"a": 5, "b": 5})
    source = folder.load(tmp_path).splits["train"]
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[2]["image"], source[2]["image"])
    assert copy.fingerprint == source.fingerprint


def test_errors_of_folders(tmp_path):
    with pytest.raises(BobError, match="no folder"):
        folder.load(tmp_path / "nowhere")
    with pytest.raises(BobError, match="no class folders"):
        folder.load(tmp_path)
    (tmp_path / "a").mkdir()
    write_classes(tmp_path, {"b": 3})
    with pytest.raises(BobError, match=r"no image in .*/a: add some"):
        folder.load(tmp_path)
    write_classes(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "b" / "1.png").unlink()
    (tmp_path / "b" / "2.png").unlink()
    with pytest.raises(BobError, match="too few images"):
        folder.load(tmp_path)


def test_a_test_class_without_training_images_is_an_error(tmp_path):
    write_classes(tmp_path / "train", {"a": 4, "b": 4})
    write_classes(tmp_path / "test", {"a": 1, "c": 1})
    with pytest.raises(BobError, match=r"class 'c' of .* has no training images"):
        folder.load(tmp_path)


def test_train_alone_is_an_error(tmp_path):
    write_classes(tmp_path / "train", {"a": 4, "b": 4})
    with pytest.raises(BobError, match="no validation or test folder"):
        folder.load(tmp_path)


def test_split_folders_are_known_in_capitals(tmp_path):
    write_classes(tmp_path / "Train", {"a": 10, "b": 10})
    write_classes(tmp_path / "TEST", {"a": 2, "b": 2})
    dataset = folder.load(tmp_path)
    assert dataset.classes == ("a", "b")
    assert [len(source) for source in dataset.splits.values()] == [16, 4, 4]


def test_a_class_may_be_called_as_a_split(tmp_path):
    write_classes(tmp_path, {"test": 5, "other": 5})
    assert folder.load(tmp_path).classes == ("other", "test")


def test_split_folders_without_train_are_no_classes(tmp_path):
    write_classes(tmp_path / "val", {"a": 5, "b": 5})
    write_classes(tmp_path / "test", {"a": 5, "b": 5})
    with pytest.raises(BobError, match="has test and val but no train folder"):
        folder.load(tmp_path)


def test_a_class_called_train_is_told_apart(tmp_path):
    write_classes(tmp_path, {"train": 5, "bus": 5})
    with pytest.raises(BobError, match="if train is a class like the others, put all classes into"):
        folder.load(tmp_path)
