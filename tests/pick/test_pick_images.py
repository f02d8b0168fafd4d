"""What a user may give: folders, CSVs, and everything that is wrong with them; folds and orders of what was read."""

import numpy as np
import pytest
from digit_folders import few_of_each, pixels, write

from bob_jax.data.decode import CorruptImage
from bob_jax.errors import BobError
from bob_jax.pick import folds, images


def test_class_folders_are_read(tmp_path):
    found = images.read(write(tmp_path, few_of_each(12)))
    assert found.classes == tuple("0123456789") and found.labelled
    assert len(found.source) == 120 and found.warnings == () and found.test is None
    example = found.source[3]
    assert example["image"].shape == (8, 8, 3) and example["id"].startswith("0/") and example["label"] == 0


def test_digits_are_there_without_a_folder():
    found = images.embedded()
    assert (len(found.source), found.name, len(found.classes)) == (1797, "digits", 10)


def test_split_folders_put_the_test_images_aside(tmp_path):
    write(tmp_path / "train", few_of_each(12))
    write(tmp_path / "test", range(400, 430))
    found = images.read(tmp_path)
    assert len(found.source) == 120 and found.test is not None and len(found.test) == 30
    assert all(name.startswith("train/") for name in found.source.ids)


def test_names_of_split_folders_are_read_in_any_case(tmp_path):
    write(tmp_path / "Train", few_of_each(12))
    write(tmp_path / "TEST", range(400, 430))
    found = images.read(tmp_path)
    assert found.classes == tuple("0123456789") and len(found.source) == 120 and len(found.test) == 30


def test_a_class_may_be_called_train(tmp_path):
    """Beside other classes, and without folders of its own."""
    for number, name in enumerate(("train", "bus", "car")):
        write(tmp_path / name, range(10 * number, 10 * number + 10), classes=False)
    found = images.read(tmp_path)
    assert found.classes == ("bus", "car", "train") and len(found.source) == 30


def test_a_folder_beside_the_splits_is_named(tmp_path):
    write(tmp_path / "train", few_of_each(12))
    write(tmp_path / "extra", few_of_each(2))
    found = images.read(tmp_path)
    assert len(found.source) == 120 and "passed over, since beside train: 1 folder (extra)" in found.warnings


def test_test_images_without_a_class_are_named(tmp_path):
    """As competitions give them out."""
    write(tmp_path / "train", few_of_each(12))
    write(tmp_path / "test", range(400, 405), classes=False)
    found = images.read(tmp_path)
    assert found.test is None
    named = "5 images (test/400.png, test/401.png, test/402.png and 2 more)"
    assert found.warnings == (f"left out of the test folder, since without a label: {named}",)


def test_splits_without_train_are_no_classes(tmp_path):
    for name in ("val", "test"):
        write(tmp_path / name, few_of_each(3))
    with pytest.raises(BobError, match=r"has val and test but no train folder: add it, or give .*/val alone"):
        images.read(tmp_path)
    write(tmp_path / "train", few_of_each(3))
    write(tmp_path / "Training", few_of_each(3))
    with pytest.raises(BobError, match="two folders of train images, Training and train: keep one"):
        images.read(tmp_path)


def test_a_folder_too_high_is_told_where_the_classes_are(tmp_path):
    write(tmp_path / "all", few_of_each(3))
    found = images.read(tmp_path)
    assert not found.labelled and found.warnings[0].endswith(f"if its folders are the classes, give {tmp_path / 'all'}")


def test_links_that_lead_back_or_nowhere(tmp_path):
    folder = write(tmp_path / "given", few_of_each(12))
    (folder / "0" / "back").symlink_to(folder / "0")
    (folder / "0" / "up").symlink_to(folder)
    (folder / "1" / "to 2").symlink_to(folder / "2")
    (folder / "2" / "to 1").symlink_to(folder / "1")
    (folder / "3" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "3" / "itself.png").symlink_to(folder / "3" / "itself.png")
    (folder / "loose.png").symlink_to(tmp_path / "nowhere.png")
    found = images.read(folder)
    assert len(found.source) == 120 + 2 * 12  # 2 within 1, and 1 within 2
    assert found.warnings == ("left out, since unreadable: 3 files (3/gone.png, 3/itself.png, loose.png)",)


def test_files_of_other_kinds_are_named(tmp_path):
    write(tmp_path, few_of_each(12))
    for name in ("0/photo.heic", "labels.txt", "0/.hidden"):
        (tmp_path / name).write_bytes(b"x")
    assert images.read(tmp_path).warnings == (
        "passed over, since of no kind that is read here: 2 files (labels.txt, 0/photo.heic)",
    )


def test_a_loose_folder_has_no_labels(tmp_path):
    found = images.read(write(tmp_path, range(20), classes=False))
    assert not found.labelled and set(found.source.labels.tolist()) == {-1} and len(found.source) == 20


def test_a_csv_names_files_and_labels(tmp_path):
    write(tmp_path / "in", range(40), classes=False)
    lines = [f"in/{i}.png,{'even' if i % 2 == 0 else 'odd'}" for i in range(40)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines, "in/gone.png,odd", "in/39.png,even"]))
    found = images.read(tmp_path / "list.csv")
    assert found.classes == ("even", "odd") and found.source.labels.tolist() == [0, 1] * 20
    assert found.warnings == (
        "left out, since not there: 1 file (in/gone.png)",
        "of two labels the first one counts: 1 file (in/39.png)",
    )
    (tmp_path / "bare.csv").write_text("path\n" + "\n".join(f"in/{i}.png" for i in range(5)))
    assert not images.read(tmp_path / "bare.csv").labelled


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\na.png,x\n", "has no column 'path', only file, label"),
        ("path,kind\na.png,x\n", "has no column 'label', only path, kind"),
        ("path,label\ngone.png,x\n", "none of the 1 files of"),
        ("", "has no column 'path', only nothing"),
        ("path,label\n", "no image in"),
    ],
)
def test_a_csv_that_is_wrong_says_in_what(tmp_path, text, words):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(BobError, match=words):
        images.read(tmp_path / "list.csv")


def test_a_csv_may_say_what_belongs_together(tmp_path):
    """Frames of one video are in one fold; a copy links two videos."""
    write(tmp_path, range(40), classes=False)
    (tmp_path / "39.png").write_bytes((tmp_path / "0.png").read_bytes())
    lines = [f"{i}.png,{'ab'[i // 20]},{'' if i % 20 > 11 and i < 39 else f'video {i // 4}'}" for i in range(40)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,group", *lines]))
    groups = images.read(tmp_path / "list.csv").groups
    assert len(set(groups[:4].tolist())) == 1 and groups[0] == groups[39] != groups[4]
    assert len(set(groups.tolist())) == 6 + 15


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ("xy", "no class of .* can be judged: each has 1 image, copies of one, or one group"),
        ("xx", "no class of .* can be judged"),
        ("x", "only class 'b' of .* can be judged: every other has 1 image"),
    ],
)
def test_a_class_that_is_one_group_cannot_be_judged(tmp_path, groups, words):
    write(tmp_path, range(30), classes=False)
    lines = [f"{i}.png,{'ab'[i % 2]},{groups[i % 2] if i % 2 < len(groups) else i}" for i in range(30)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,group", *lines]))
    with pytest.raises(BobError, match=words):
        images.read(tmp_path / "list.csv")


def test_a_class_of_one_group_among_others_is_named(tmp_path):
    write(tmp_path, range(30), classes=False)
    lines = [f"{i}.png,{'abc'[i % 3]},{'x' if i % 3 == 2 else ''}" for i in range(30)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,group", *lines]))
    warnings = images.read(tmp_path / "list.csv").warnings
    assert warnings == ("learned but not judged, since copies of one image, or one group: 1 class (c)",)


def test_blanks_behind_commas_and_names_too_long_for_a_file(tmp_path):
    write(tmp_path, range(30), classes=False)
    lines = [f"{i}.png, {'ab'[i % 2]}" for i in range(30)]
    (tmp_path / "list.csv").write_text("\n".join(["path, label", *lines, "x" * 5000 + ".png, a"]))
    found = images.read(tmp_path / "list.csv")
    assert found.classes == ("a", "b") and len(found.source) == 30 and "1 file (xxx" in found.warnings[0]
    with pytest.raises(BobError, match=r"cannot read .*xxx: File name too long"):
        images.read(tmp_path / ("x" * 5000))


def test_bytes_are_no_csv(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(BobError, match="is no CSV"):
        images.read(tmp_path / "list.csv")


def test_what_cannot_be_read_is_named_and_counted(tmp_path):
    write(tmp_path, few_of_each(12))
    for name in ("a.png", "b.jpg", "c.png", "d.png"):
        (tmp_path / "3" / name).write_bytes(b"no image")
    whole = (tmp_path / "4" / "4.png").read_bytes()
    (tmp_path / "4" / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    found = images.read(tmp_path)
    assert found.warnings == (
        "no image in empty: the folder is passed over",
        "left out, since unreadable: 4 files (3/a.png, 3/b.jpg, 3/c.png and 1 more)",
    )
    half = found.source.ids.index("4/half.png")  # its head is an image's: only decoding finds out
    with pytest.raises(CorruptImage, match="half"):
        found.source[half]


def test_labelled_and_unlabelled_together(tmp_path):
    write(tmp_path, few_of_each(12))
    write(tmp_path, range(300, 302), classes=False)
    found = images.read(tmp_path)
    assert len(found.source) == 120
    assert found.warnings == ("left out of the judgement, since without a label: 2 images (300.png, 301.png)",)


def test_one_class_tells_nothing(tmp_path):
    _, labels = pixels()
    found = images.read(write(tmp_path, [int(i) for i in np.flatnonzero(labels == 7)[:9]]))
    assert not found.labelled and "all labels say '7'" in found.warnings[0]


def test_three_of_each_class_go_on_with_a_warning(tmp_path):
    found = images.read(write(tmp_path, few_of_each(3)))
    assert found.labelled and "the smallest class has 3 images" in found.warnings[0]


def test_a_class_of_one_image_is_named(tmp_path):
    write(tmp_path, few_of_each(12))
    write(tmp_path / "tenth", [0], classes=False)  # a copy of an image of another class
    found = images.read(tmp_path)
    assert "learned but not judged, since of 1 image: 1 class (tenth)" in found.warnings
    assert set(folds.order(found.source.labels).tolist()) == set(range(121))
    fold = folds.assign(found.source.labels, found.groups)
    assert np.flatnonzero(fold == folds.ALWAYS).tolist() == [found.source.ids.index("tenth/0.png")]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "nowhere", "no folder"),
        (lambda folder: folder, "no image in"),
        (lambda folder: write(folder, [0]), "holds 1 image, 0/0.png"),
        (lambda folder: write(folder, [0]) / "0" / "0.png", "is one image"),
        (lambda folder: write(folder, few_of_each(1)), "each class of .* has 1 image"),
        (lambda folder: write(folder, range(3), classes=False), "holds 3 images without labels: give 4"),
    ],
)
def test_too_little_is_one_line(tmp_path, make, words):
    with pytest.raises(BobError, match=words) as caught:
        images.read(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_only_unreadable_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"")
    with pytest.raises(BobError, match=r"none of the 1 images in .* can be read, first a/x\.png"):
        images.read(tmp_path)


def test_the_order_is_stratified_at_every_beginning():
    labels = np.repeat([0, 1, 2], [600, 300, 30])
    order = folds.order(labels)
    assert sorted(order.tolist()) == list(range(930))
    for size in (31, 93, 310, 620):
        share = np.bincount(labels[order[:size]], minlength=3) / size
        np.testing.assert_allclose(share, [600 / 930, 300 / 930, 30 / 930], atol=4 / size)
    assert np.bincount(labels[order[:6]]).tolist() == [2, 2, 2]


def test_folds_are_stratified_and_copies_stay_together():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 200)
    groups = np.arange(200)
    twins = np.flatnonzero(labels == 2)[:10]
    groups[twins] = twins[0]
    fold = folds.assign(labels, groups)
    assert len(set(fold[twins].tolist())) == 1
    for label in (0, 1, 3):
        counts = np.bincount(fold[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert not np.array_equal(fold, folds.assign(labels, groups, seed=1))
    assert folds.assign(np.repeat([0, 1], 3), np.arange(6)).max() == 2  # three of each: three folds


def test_few_images_are_judged_more_often():
    assert [folds.repeats(n) for n in (10, 60, 100, 200, 5000)] == [5, 4, 2, 1, 1]
