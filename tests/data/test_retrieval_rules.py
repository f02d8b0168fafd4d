"""Which images are right for a query, the original benchmark's division, listed files, boxes and borders."""

import math
import pickle

import numpy as np
import pytest
from data_pictures import picture, write
from PIL import Image

from bob_jax.data.arrays import ArraySource
from bob_jax.data.decode import CorruptImage
from bob_jax.data.retrieval import rules
from bob_jax.data.retrieval.sources import BorderlessSource, CroppedSource, FileSource
from bob_jax.errors import BobError


def lists(positions):
    return [found.tolist() for found in positions]


def test_positives_are_the_gallery_images_of_the_same_label():
    relevance = rules.same_label(np.array([7, 2, 9]), np.array([2, 7, 2, 5, 7]))
    assert lists(relevance.positives) == [[1, 4], [0, 2], []]
    assert lists(relevance.junk) == [[], [], []]


def test_every_image_is_a_query_and_junk_to_itself():
    relevance = rules.all_against_all(np.array([3, 1, 3, 3, 8]))
    assert lists(relevance.positives) == [[2, 3], [], [0, 3], [0, 2], []]
    assert lists(relevance.junk) == [[0], [1], [2], [3], [4]]


def test_all_against_all_is_what_comparing_every_pair_gives():
    labels = np.random.default_rng(0).integers(0, 12, 200)
    relevance = rules.all_against_all(labels)
    for query in range(200):
        right = [item for item in range(200) if item != query and labels[item] == labels[query]]
        assert relevance.positives[query].tolist() == right


def test_positions_are_sorted_and_single_and_no_positive_is_junk():
    relevance = rules.by_position([np.array([5, 1, 5])], [np.array([9, 1, 0, 9])])
    assert lists(relevance.positives) == [[1, 5]] and lists(relevance.junk) == [[0, 9]]


@pytest.mark.parametrize(
    ("sizes", "cap", "queries"),
    [
        ([10], None, [2]),
        ([4, 5, 9, 10], None, [0, 1, 1, 2]),  # fewer than five: distractors alone
        ([10, 10], 5, [1, 1]),  # iNaturalist: 1 query and 4 gallery images per species
        ([180, 49, 3], 50, [10, 9, 0]),  # ObjectNet: at most 10 and 40
        ([7], 3, [0]),
    ],
)
def test_two_levels_by_hand(sizes, cap, queries):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    query, gallery = rules.two_levels(labels, cap)
    begins = np.cumsum([0, *sizes])
    kept = [min(size, cap or size) for size in sizes]
    assert query.tolist() == [begin + i for begin, n in zip(begins, queries, strict=False) for i in range(n)]
    assert gallery.tolist() == [
        begin + i for begin, n, keep in zip(begins, queries, kept, strict=False) for i in range(n, keep)
    ]


def test_a_fifth_is_the_original_rule_in_floats():
    for size in range(1, 2000):
        query, gallery = rules.two_levels(np.zeros(size, np.int64))
        assert len(query) == math.floor(0.2 * size) and len(query) + len(gallery) == size


def test_listed_files_are_read_in_the_list_s_order(tmp_path):
    write(tmp_path / "b" / "ein Büld.png", 1)
    write(tmp_path / "a.jpg", 2)
    source = FileSource(tmp_path, ["b/ein Büld.png", "a.jpg"], np.array([4, 2]), listed_in="list.txt")
    assert source.ids == ["b/ein Büld.png", "a.jpg"] and source.labels.tolist() == [4, 2]
    np.testing.assert_array_equal(source[0]["image"], picture(1))
    assert source[1]["label"] == 2 and source[1]["id"] == "a.jpg"
    assert pickle.loads(pickle.dumps(source))[0]["id"] == source[0]["id"]


def test_listed_files_without_labels_have_minus_one(tmp_path):
    write(tmp_path / "a.jpg", 2)
    assert FileSource(tmp_path, ["a.jpg"], listed_in="x").labels.tolist() == [-1]


def test_a_fingerprint_tells_order_labels_and_sizes_apart(tmp_path):
    for name, seed in (("a.png", 1), ("b.png", 2)):
        write(tmp_path / name, seed)

    def of(paths, labels):
        return FileSource(tmp_path, paths, np.array(labels), listed_in="x").fingerprint

    first = of(["a.png", "b.png"], [0, 1])
    assert first == of(["a.png", "b.png"], [0, 1])
    others = [of(["b.png", "a.png"], [0, 1]), of(["a.png", "b.png"], [0, 2]), of(["a.png"], [0])]
    write(tmp_path / "a.png", 3, width=40)
    others.append(of(["a.png", "b.png"], [0, 1]))
    assert len({first, *others}) == 5


def test_names_that_are_no_utf8_are_kept(tmp_path):
    name = b"caf\xe9.png".decode(errors="surrogateescape")
    write(tmp_path / name, 1)
    source = FileSource(tmp_path, [name], listed_in="x")
    assert len(source.fingerprint) == 64
    np.testing.assert_array_equal(source[0]["image"], picture(1))


def test_missing_files_are_counted_and_the_first_named(tmp_path):
    write(tmp_path / "a.png", 1)
    with pytest.raises(BobError, match=r"2 of 3 images that list.txt names are not in .*, first x/y.png: fetch"):
        FileSource(tmp_path, ["a.png", "x/y.png", "z.png"], listed_in="list.txt")


def test_a_file_listed_twice_is_refused(tmp_path):
    write(tmp_path / "a.png", 1)
    with pytest.raises(BobError, match=r"list.txt names the image a.png twice"):
        FileSource(tmp_path, ["a.png", "a.png"], listed_in="list.txt")


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(CorruptImage, match=r"a\.png"):
        FileSource(tmp_path, ["a.png"], listed_in="x")[0]


def pictures(count=3, **size):
    return ArraySource(np.stack([picture(seed, **size) for seed in range(count)]), np.arange(count))


@pytest.mark.parametrize("box", [(3, 2, 10, 8), (0.5, 1.5, 10.5, 7.49), (2.5, 0.4, 29.6, 19.5), (0, 0, 30, 20)])
def test_a_crop_is_pillow_s(box):
    source = CroppedSource(pictures(1), np.array([box]))
    expected = np.asarray(Image.fromarray(picture(0)).crop(box))
    np.testing.assert_array_equal(source[0]["image"], expected)
    assert source.ids == ["000000"] and source.labels.tolist() == [0]


def test_what_exceeds_the_image_is_cut_off():
    image = CroppedSource(pictures(1), np.array([[-4, 12, 5, 99]]))[0]["image"]
    np.testing.assert_array_equal(image, picture(0)[12:, :5])


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (9, 5, 5, 9), (0.1, 0, 0.4, 9), (0, 0, np.nan, 9), (0, 0, np.inf, 9)])
def test_an_empty_box_is_refused_at_once(box):
    with pytest.raises(BobError, match=r"the box of 000001 is empty"):
        CroppedSource(pictures(2), np.array([(0, 0, 5, 5), box]))


@pytest.mark.parametrize("box", [(30, 0, 40, 5), (0, 20, 5, 25), (-9, -9, -2, 5)])
def test_a_box_outside_the_image_is_refused(box):
    source = CroppedSource(pictures(1), np.array([box]))
    with pytest.raises(BobError, match=r"of 000000 lies outside the image of 30 x 20 pixels"):
        source[0]


def test_boxes_are_part_of_the_fingerprint():
    one, other = (CroppedSource(pictures(1), np.array([[0, 0, 5, right]])) for right in (5, 6))
    assert len({one.fingerprint, other.fingerprint, pictures(1).fingerprint}) == 3
    assert one.fingerprint == CroppedSource(pictures(1), np.array([[0, 0, 5, 5.2]])).fingerprint


@pytest.mark.parametrize(("border", "taken"), [(0, 1), (1, 1), (2, 2)])
def test_the_red_border_goes_whole_and_nothing_else(border, taken):
    image = picture(0)
    framed = np.pad(image, ((border, border), (border, border), (0, 0)))
    frame = np.ones(framed.shape[:2], bool)
    frame[border : border + 20, border : border + 30] = False
    framed[frame] = (255, 0, 0)
    source = BorderlessSource(ArraySource(framed[None], np.array([5])))
    lost = taken - border
    np.testing.assert_array_equal(source[0]["image"], image[lost : 20 - lost, lost : 30 - lost])
    assert source[0]["label"] == 5 and source.ids == ["000000"] and source.fingerprint != source.parent.fingerprint


def test_an_image_that_is_all_border_is_refused():
    red = np.tile(np.array([255, 0, 0], np.uint8), (1, 9, 9, 1))
    with pytest.raises(BobError, match="nothing is left of 000000"):
        BorderlessSource(ArraySource(red, np.array([0])))[0]
