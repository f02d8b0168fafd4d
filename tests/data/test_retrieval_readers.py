"""Every reader of retrieval data on a small tree in the official form."""

import pickle
import shutil

import numpy as np
import pytest
from data_pictures import picture, write, write_classes
from PIL import Image
from retrieval_trees import (
    BOXES,
    IMAGES,
    IN_SHOP,
    QUERIES,
    TRUTH,
    write_copydays,
    write_cub,
    write_landmarks,
    write_mat,
    write_revisited,
    write_sop,
)
from scipy.io import savemat

from bob_jax.data import digits as classified_digits
from bob_jax.data.arrays import ArraySource
from bob_jax.data.retrieval import class_folders, digits, landmarks, lists, names, revisited
from bob_jax.data.retrieval.found import Found, as_dataset
from bob_jax.data.retrieval.limit import limited
from bob_jax.data.retrieval.rules import all_against_all, by_position
from bob_jax.errors import BobError


def named(found, query):
    """Names of the positives and of the junk of a query."""
    index = list(found.query.ids).index(query)
    relevance = found.relevance
    return tuple({found.gallery.ids[at] for at in of[index]} for of in (relevance.positives, relevance.junk))


def cut(path, line):
    """Leaves out a line of a text file."""
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:line] + lines[line + 1 :]) + "\n")


# CUB-200, SOP, In-Shop


def test_cub_is_its_last_hundred_classes_and_whitens_on_the_first(tmp_path):
    write_cub(tmp_path)
    found = lists.cub(tmp_path)
    assert found.query is found.gallery and len(found.query) == 6 and len(found.classes) == 200
    assert found.query.labels.tolist() == [100, 100, 100, 101, 199, 199]
    first = "images/101.Bird_101/0.jpg"
    others = {"images/101.Bird_101/1.jpg", "images/101.Bird_101/2.jpg"}
    assert named(found, first) == (others, {first})
    alone = "images/102.Bird_102/0.jpg"
    assert named(found, alone) == (set(), {alone})  # a query without positives stays, without any
    assert [name[7:10] for name in found.whitening.ids] == ["001", "001", "100"]
    np.testing.assert_array_equal(found.query[4]["image"].shape, picture(0).shape)
    assert found.query[4]["id"] == "images/200.Bird_200/0.jpg"


def test_cub_by_the_original_rule_is_all_class_folders(tmp_path):
    root = write_cub(tmp_path)
    for index in range(7):  # 7 images: 1 query
        write(root / "images" / "001.Bird_1" / f"b{index}.jpg", index)
    found = lists.cub_2023(tmp_path)
    assert list(found.query.ids) == ["001.Bird_1/0.jpg"]
    assert len(found.gallery) == 7 - 1 + 2 + 1 + 3 + 1 + 2
    assert len(found.relevance.positives[0]) == 8 and not found.relevance.junk[0].size


def test_cub_with_files_that_disagree_is_one_line(tmp_path):
    root = write_cub(tmp_path)
    cut(root / "image_class_labels.txt", 2)
    with pytest.raises(BobError, match=r"image_class_labels.txt has no class for image '3'"):
        lists.cub(tmp_path)
    (root / "images.txt").unlink()
    with pytest.raises(BobError, match=r"cannot read .*images.txt: No such file"):
        lists.cub(tmp_path)
    (root / "image_class_labels.txt").unlink()
    with pytest.raises(BobError, match=r"image_class_labels.txt is missing in .*fetch and unpack"):
        lists.cub(tmp_path)


def test_products_of_the_test_list_look_for_each_other(tmp_path):
    write_sop(tmp_path)
    found = lists.products(tmp_path)
    assert found.query is found.gallery and found.query.labels.tolist() == [3, 3, 4]
    assert named(found, "bicycle_final/1_0.JPG") == ({"bicycle_final/1_1.JPG"}, {"bicycle_final/1_0.JPG"})
    assert named(found, "lamp_final/éclair 2_0.JPG") == (set(), {"lamp_final/éclair 2_0.JPG"})
    assert found.query[2]["image"].shape == (20, 30, 3)
    assert list(found.whitening.ids) == ["chair_final/9_0.JPG", "chair_final/9_1.JPG"]


def test_a_line_of_another_form_is_named(tmp_path):
    root = write_sop(tmp_path)
    with (root / "Ebay_test.txt").open("a") as file:
        file.write("7 cabinet\n")
    with pytest.raises(BobError, match=r"line 5 of .*Ebay_test.txt is '7 cabinet', not of the official form"):
        lists.products(tmp_path)


def test_an_image_that_the_list_names_but_is_not_there_is_named(tmp_path):
    root = write_sop(tmp_path)
    (root / "bicycle_final" / "1_1.JPG").unlink()
    with pytest.raises(
        BobError, match=r"1 of 3 images that Ebay_test.txt names are not in .*, first bicycle_final/1_1"
    ):
        lists.products(tmp_path)


@pytest.mark.parametrize("images", ["", "Img"])
def test_in_shop_queries_look_for_their_item_in_the_gallery(tmp_path, images):
    for row, (path, _, _) in enumerate(IN_SHOP):
        write(tmp_path / images / path, row)
    lines = [f"{path:<70s} {item} {part}" for path, item, part in IN_SHOP]
    (tmp_path / "Eval").mkdir()
    text = "\n".join([str(len(lines)), "image_name item_id evaluation_status", *lines])
    (tmp_path / "Eval" / "list_eval_partition.txt").write_text(text)
    found = lists.in_shop(tmp_path)
    assert [len(found.query), len(found.gallery), len(found.whitening)] == [2, 3, 1]
    assert named(found, IN_SHOP[1][0]) == ({IN_SHOP[2][0], IN_SHOP[3][0]}, set())
    assert named(found, IN_SHOP[4][0]) == (set(), set())
    np.testing.assert_array_equal(found.query.labels, [7, 9])
    assert found.query[1]["image"].shape == (20, 30, 3)


# Class folders: iNaturalist, ObjectNet, INSTRE-S1, one's own


def test_inaturalist_is_its_validation(tmp_path):
    species = {f"{number:05d}_Animalia_Genus_{number}": 10 for number in range(3)}
    write_classes(tmp_path / "val", species, ".jpg")
    found = class_folders.inaturalist(tmp_path)
    assert len(found.query) == 30 and found.query is found.gallery and found.classes == tuple(species)
    assert all(len(positives) == 9 for positives in found.relevance.positives)
    original = class_folders.inaturalist_2023(tmp_path)
    assert list(original.query.ids) == [f"{name}/0.jpg" for name in species]
    assert len(original.gallery) == 12
    assert named(original, "00001_Animalia_Genus_1/0.jpg")[0] == {
        f"00001_Animalia_Genus_1/{i}.jpg" for i in (1, 2, 3, 4)
    }


def test_objectnet_loses_its_red_border(tmp_path):
    for name, count in (("air_freshener", 2), ("alarm clock", 7)):
        for index in range(count):
            framed = np.pad(picture(index), ((1, 1), (1, 1), (0, 0)))
            framed[[0, -1]] = framed[:, [0, -1]] = (255, 0, 0)
            path = tmp_path / "objectnet-1.0" / "images" / name / f"{index:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(framed).save(path)
    found = class_folders.objectnet(tmp_path)
    assert found.classes == ("air_freshener", "alarm clock") and len(found.query) == 9
    np.testing.assert_array_equal(found.query[4]["image"], picture(2))
    assert named(found, "air_freshener/00.png") == ({"air_freshener/01.png"}, {"air_freshener/00.png"})
    original = class_folders.objectnet_2023(tmp_path)
    assert list(original.query.ids) == ["alarm clock/00.png"]  # 2 images give distractors alone
    assert original.query[0]["image"].shape == (22, 32, 3)  # the original left the border on


def test_the_original_rule_takes_its_own_extensions_and_a_cap(tmp_path):
    top = tmp_path / "INSTRE" / "INSTRE-S1"
    for index in range(60):
        write(top / "01a_canada_book" / f"{index:03d}.jpg", index, height=4, width=4)
    write(top / "01a_canada_book" / "000.jpeg", 1)  # passed over
    write(top / "01a_canada_book" / "more" / "000.jpg", 1)  # not directly in the folder
    (top / "01a_canada_book" / "000.txt").write_text("1 2 3 4\n")
    for name in ("A.JPG", "B.JPEG", "c.png", "d.PNG", "e.jpg"):
        content = (top / "01a_canada_book" / "000.jpg").read_bytes()
        (top / "02b_ball").mkdir(exist_ok=True)
        (top / "02b_ball" / name).write_bytes(content)
    found = class_folders.instre_s1_2023(tmp_path)
    assert list(found.query.ids) == [f"01a_canada_book/{index:03d}.jpg" for index in range(10)] + ["02b_ball/A.JPG"]
    assert list(found.gallery.ids) == [f"01a_canada_book/{index:03d}.jpg" for index in range(10, 50)] + [
        f"02b_ball/{name}" for name in ("B.JPEG", "c.png", "d.PNG", "e.jpg")
    ]
    everything = class_folders.instre_s1(tmp_path)
    assert len(everything.query) == 62 + 5


def test_own_class_folders(tmp_path):
    write_classes(tmp_path, {"Äpfel und Birnen": 3, "b": 1})
    found = class_folders.own(tmp_path)
    assert found.query is found.gallery and found.classes == ("b", "Äpfel und Birnen")
    assert named(found, "b/0.png") == (set(), {"b/0.png"})
    assert len(named(found, "Äpfel und Birnen/1.png")[0]) == 2


def test_own_queries_and_gallery(tmp_path):
    write_classes(tmp_path / "query", {"cat": 1, "unknown": 1})
    write_classes(tmp_path / "gallery", {"cat": 2, "dog": 3})
    found = class_folders.own(tmp_path)
    assert found.classes == ("cat", "dog", "unknown") and found.whitening is None
    assert named(found, "query/cat/0.png") == ({"gallery/cat/0.png", "gallery/cat/1.png"}, set())
    assert named(found, "query/unknown/0.png") == (set(), set())
    write_classes(tmp_path / "whitening", {"any": 2})
    found = class_folders.own(tmp_path)
    assert list(found.whitening.ids) == ["whitening/any/0.png", "whitening/any/1.png"]
    assert as_dataset(found, "x", "map", "mine").splits["whitening"] is found.whitening


def test_own_folders_that_will_not_do(tmp_path):
    with pytest.raises(BobError, match=r"no folder .*nowhere: give the folder"):
        class_folders.own(tmp_path / "nowhere")
    with pytest.raises(BobError, match="no class folders in"):
        class_folders.own(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(BobError, match="no images in the class folders of"):
        class_folders.own(tmp_path)
    write_classes(tmp_path / "gallery", {"cat": 1})
    with pytest.raises(BobError, match="has gallery but not both of query and gallery"):
        class_folders.own(tmp_path)


# Names: Copydays, GPR1200


def test_copydays_copies_look_for_the_original_of_their_first_four_letters(tmp_path):
    write_copydays(tmp_path)
    strong = names.copydays(tmp_path, "strong")
    assert list(strong.gallery.ids) == [f"original/{photograph}.jpg" for photograph in ("200000", "200100", "210300")]
    assert named(strong, "strong/200002.jpg") == ({"original/200000.jpg"}, set())
    assert named(strong, "strong/210301.jpg") == ({"original/210300.jpg"}, set())
    compressed = names.copydays(tmp_path, "jpegqual")
    assert len(compressed.query) == 6
    assert named(compressed, "jpegqual/75/200100.jpg") == ({"original/200100.jpg"}, set())
    assert len(names.copydays(tmp_path, "crops").query) == 3


def test_copydays_without_a_folder_is_one_line(tmp_path):
    write_copydays(tmp_path)
    shutil.rmtree(tmp_path / "strong")
    with pytest.raises(BobError, match=r"no folder .*strong: fetch and unpack"):
        names.copydays(tmp_path, "strong")
    (tmp_path / "strong").mkdir()
    with pytest.raises(BobError, match=r"no images in .*strong"):
        names.copydays(tmp_path, "strong")


def test_gpr1200_categories_are_the_numbers_before_the_names(tmp_path):
    for name in ("0_a.jpg", "0_b_2.jpg", "10_a.jpg", "9_z.jpg", "9_y.jpg"):
        write(tmp_path / "GPR1200" / "images" / name, 1)
    found = names.gpr1200(tmp_path)
    assert found.query.labels.tolist() == [0, 0, 9, 9, 10]  # as numbers, not as text
    assert named(found, "images/9_y.jpg") == ({"images/9_z.jpg"}, {"images/9_y.jpg"})
    published = names.gpr1200_published(tmp_path)
    assert named(published, "images/9_y.jpg") == ({"images/9_z.jpg", "images/9_y.jpg"}, set())
    write(tmp_path / "GPR1200" / "images" / "readme.jpg", 1)
    with pytest.raises(BobError, match=r"readme.jpg does not begin with the number of a category"):
        names.gpr1200(tmp_path)


# Revisited Oxford and Paris, INSTRE


@pytest.mark.parametrize("form", ["pkl", "mat"])
@pytest.mark.parametrize(
    ("difficulty", "positives", "junk"),
    [
        ("easy", [[0, 3], [], [2]], [[2, 5], [1, 4], [0, 1]]),
        ("medium", [[0, 2, 3], [1, 4], [2]], [[5], [], [0, 1]]),
        ("hard", [[2], [1, 4], []], [[0, 3, 5], [], [0, 1, 2]]),
    ],
)
def test_revisited_difficulties(tmp_path, form, difficulty, positives, junk):
    write_revisited(tmp_path, "roxford5k", form)
    found = revisited.revisited(tmp_path / "roxford5k", "roxford5k", difficulty)
    assert [list(positions) for positions in found.relevance.positives] == positives
    assert [list(positions) for positions in found.relevance.junk] == junk
    assert list(found.gallery.ids) == [f"jpg/{name}.jpg" for name in IMAGES]
    assert list(found.query.ids) == [f"jpg/{name}.jpg" for name in QUERIES]
    assert found.whitening is None


@pytest.mark.parametrize("form", ["pkl", "mat"])
def test_revisited_queries_are_cropped_as_the_authors_crop_them(tmp_path, form):
    write_revisited(tmp_path, "roxford5k", form)
    found = revisited.revisited(tmp_path / "roxford5k", "roxford5k", "medium")
    for index, name in enumerate(QUERIES):
        with Image.open(tmp_path / "roxford5k" / "jpg" / f"{name}.jpg") as image:
            left, top, right, bottom = BOXES[index]
            box = (left, top, min(right, image.width), bottom)  # Pillow would add black, MATLAB cuts off
            expected = np.asarray(image.convert("RGB").crop(box))
        np.testing.assert_array_equal(found.query[index]["image"], expected)
    whole = revisited.revisited(tmp_path / "roxford5k", "roxford5k", "medium", crop=False)
    assert whole.query[0]["image"].shape == (20, 30, 3) and whole.query.fingerprint != found.query.fingerprint


def test_revisited_images_are_found_in_the_folders_of_their_archives(tmp_path):
    write_revisited(tmp_path, "rparis6k", "mat", images="paris/louvre")
    found = revisited.revisited(tmp_path / "rparis6k", "rparis6k", "hard")
    assert found.gallery[1]["id"] == "paris/louvre/radcliffe 2.jpg"


def test_revisited_sets_whiten_on_each_other(tmp_path):
    write_revisited(tmp_path, "roxford5k", "pkl")
    write_revisited(tmp_path, "rparis6k", "mat")
    found = revisited.revisited(tmp_path / "rparis6k", "rparis6k", "hard")
    assert found.notes["whitening"] == "gallery of roxford5k" and len(found.whitening) == len(IMAGES)
    assert found.whitening.root == tmp_path / "roxford5k"


def test_revisited_without_ground_truth_or_an_image_is_one_line(tmp_path):
    write_revisited(tmp_path, "roxford5k", "pkl")
    (tmp_path / "roxford5k" / "jpg" / "keble_0.jpg").unlink()
    with pytest.raises(BobError, match=r"1 of 6 images that gnd_roxford5k.pkl names .* first jpg/keble_0.jpg"):
        revisited.revisited(tmp_path / "roxford5k", "roxford5k", "hard")
    (tmp_path / "roxford5k" / "gnd_roxford5k.pkl").unlink()
    with pytest.raises(BobError, match=r"gnd_roxford5k.mat is missing in .*: fetch either from http"):
        revisited.revisited(tmp_path / "roxford5k", "roxford5k", "hard")


@pytest.mark.parametrize("form", ["pkl", "mat"])
def test_ground_truth_of_another_form_is_one_line(tmp_path, form):
    write_revisited(tmp_path, "roxford5k", form)
    file = tmp_path / "roxford5k" / f"gnd_roxford5k.{form}"

    def reading():
        with pytest.raises(BobError, match=rf"gnd_roxford5k.{form}") as error:
            revisited.revisited(tmp_path / "roxford5k", "roxford5k", "hard")
        assert "\n" not in str(error.value)
        return str(error.value)

    whole = file.read_bytes()
    for content in (b"", b"garbage" * 100, whole[: len(whole) // 2]):
        file.write_bytes(content)
        reading()
    if form == "pkl":
        file.write_bytes(pickle.dumps({"imlist": IMAGES}))
        assert "is no ground truth of the official form ('gnd')" in reading()
    else:
        savemat(file, {"imlist": IMAGES})
        assert "is no ground truth of the official form" in reading()


def test_a_position_outside_the_gallery_is_named(tmp_path):
    write_revisited(tmp_path, "roxford5k", "mat")
    truth = [{**TRUTH[0], "hard": [6]}, *TRUTH[1:]]
    write_mat(tmp_path / "roxford5k" / "gnd_roxford5k.mat", truth=truth)
    with pytest.raises(BobError, match=r"position of query all_souls_000026 as hard that is none of its 6 images"):
        revisited.revisited(tmp_path / "roxford5k", "roxford5k", "hard")


def test_a_malicious_pickle_of_ground_truth_is_refused(tmp_path):
    write_revisited(tmp_path, "roxford5k", "pkl")
    mark = tmp_path / "ran"
    program = b"cposix\nsystem\n(Vtouch " + str(mark).encode() + b"\ntR."
    (tmp_path / "roxford5k" / "gnd_roxford5k.pkl").write_bytes(program)
    with pytest.raises(BobError, match=r"it asks for posix.system, which is code, not data\): fetch the official"):
        revisited.revisited(tmp_path / "roxford5k", "roxford5k", "hard")
    assert not mark.exists()


def test_instre_by_the_protocol_of_iscen(tmp_path):
    images = ["INSTRE-S1/01a_canada_book/001.jpg", "INSTRE-S2/07_é/002.jpg", "INSTRE-M/01/003.jpg"]
    queries = ["INSTRE-S1/01a_canada_book/000.jpg", "INSTRE-S2/07_é/009.jpg"]
    for row, path in enumerate(images + queries):
        write(tmp_path / path, row)
    truth = [{"ok": [2, 0]}, {"ok": [1]}]
    write_mat(tmp_path / "gnd_instre.mat", images, queries, truth, [[1, 2, 11, 12], [0, 0, 30, 20]], ("ok", "bbx"))
    found = revisited.instre(tmp_path)
    assert named(found, queries[0]) == ({images[0], images[2]}, set())
    assert named(found, queries[1]) == ({images[1]}, set())
    assert found.query[0]["image"].shape == (10, 10, 3) and found.query[1]["image"].shape == (20, 30, 3)
    write_mat(tmp_path / "gnd_instre.mat", images, queries, truth, [[9, 9, 4, 4], [0, 0, 30, 20]], ("ok", "bbx"))
    with pytest.raises(BobError, match=r"the box of INSTRE-S1/01a_canada_book/000.jpg is empty"):
        revisited.instre(tmp_path)


# Google Landmarks


def test_landmarks_by_usage(tmp_path):
    write_landmarks(tmp_path)
    public = landmarks.landmarks(tmp_path, ("Public",))
    assert list(public.query.ids) == ["test/a/a/a/aaaa000000000000.jpg"] and len(public.gallery) == 3
    assert named(public, public.query.ids[0]) == (
        {"index/0/1/2/0123456789abcdef.jpg", "index/0/1/f/01ff000000000000.jpg"},
        set(),
    )
    private = landmarks.landmarks(tmp_path, ("Private",))
    assert [len(positives) for positives in private.relevance.positives] == [1, 0]
    both = landmarks.landmarks(tmp_path, ("Public", "Private"))
    assert [name[-20:-18] for name in both.query.ids] == ["aa", "bb", "cc"]


def test_landmarks_files_that_will_not_do(tmp_path):
    write_landmarks(tmp_path)
    with (tmp_path / "index.csv").open("a") as file:
        file.write("0123456789abcdef\n")
    with pytest.raises(BobError, match=r"index.csv names the image index/0/1/2/0123456789abcdef.jpg twice"):
        landmarks.landmarks(tmp_path, ("Public",))
    cut(tmp_path / "index.csv", 4)
    cut(tmp_path / "index.csv", 2)
    with pytest.raises(BobError, match=r"solution_v2.1.csv names the image '01ff000000000000', which index.csv lacks"):
        landmarks.landmarks(tmp_path, ("Public",))
    (tmp_path / "index.csv").write_text("name\nx\n")
    with pytest.raises(BobError, match=r"index.csv has no columns id"):
        landmarks.landmarks(tmp_path, ("Public",))
    (tmp_path / "index.csv").unlink()
    with pytest.raises(BobError, match=r"cannot read .*index.csv: No such file.*google-landmark"):
        landmarks.landmarks(tmp_path, ("Public",))
    write_landmarks(tmp_path)
    with (tmp_path / "retrieval_solution_v2.1.csv").open("a") as file:
        file.write("eeee000000000000\n")
    with pytest.raises(BobError, match=r"line 6 of .*solution_v2.1.csv is cut short"):
        landmarks.landmarks(tmp_path, ("Public",))


# The data set of what was found; digits


def test_handwritten_digits_look_for_the_same_digit():
    found = digits.handwritten()
    whole = classified_digits.load()
    assert [len(found.query), len(found.gallery), len(found.whitening)] == [360, 1077, 360]
    assert not set(found.query.ids) & set(found.gallery.ids)
    for query in (0, 100, 359):
        right = whole.splits["train"].labels == whole.splits["test"].labels[query]
        np.testing.assert_array_equal(found.relevance.positives[query], np.flatnonzero(right))


def test_a_data_set_of_what_was_found(tmp_path):
    write_sop(tmp_path)
    dataset = as_dataset(lists.products(tmp_path), "sop", "hit@1", "research")
    assert dataset.task == "retrieval" and dataset.name == "sop" and dataset.metric == "hit@1"
    assert list(dataset.splits) == list(dataset.split_notes) == ["query", "gallery", "whitening"]
    assert len(dataset.version) == 16
    assert as_dataset(lists.products(tmp_path), "other", "map", "").version == dataset.version
    write_copydays(tmp_path)
    copies = as_dataset(names.copydays(tmp_path, "strong"), "copydays_strong", "map", "")
    assert list(copies.splits) == ["query", "gallery"]


def test_the_version_follows_the_relevance(tmp_path):
    write_revisited(tmp_path, "roxford5k", "pkl")
    versions = {
        as_dataset(revisited.revisited(tmp_path / "roxford5k", "roxford5k", difficulty), "x", "map", "").version
        for difficulty in ("easy", "medium", "hard")
    }
    assert len(versions) == 3


def blank(labels, first=0):
    images = np.zeros((len(labels), 1, 1, 3), np.uint8)
    return ArraySource(images, np.array(labels), [f"{first + row}" for row in range(len(labels))])


def test_a_small_part_keeps_what_its_queries_should_find():
    query, gallery = blank([-1] * 4), blank([-1] * 30, first=100)
    positives = [np.array([20, 21, 22]), np.array([5, 6]), np.array([], int), np.array([29])]
    relevance = by_position(positives, [np.array([query]) for query in range(4)])
    whole = as_dataset(Found(query, gallery, relevance, {"query": "q", "gallery": "g"}), "x", "map", "")
    small = limited(whole, 4)
    kept = small.splits["gallery"].ids
    assert small.splits["query"].ids == ["0", "1", "2", "3"] and len(kept) == 4
    assert {"105", "120", "129"} <= set(kept)  # the first positive of each query
    for index, name in enumerate(small.splits["query"].ids):
        was = [gallery.ids[at] for at in positives[int(name)]]
        assert [kept[at] for at in small.relevance.positives[index]] == [at for at in was if at in kept]
        assert [kept[at] for at in small.relevance.junk[index]] == [at for at in [f"10{name}"] if at in kept]
    assert len(limited(whole, 1000).splits["gallery"]) == 30
    two = limited(whole, 2)
    assert len(two.relevance.positives) == len(two.splits["query"]) == 2
    assert small.split_notes["query"] == "q; of these 4 at most"


def test_a_small_part_of_images_that_are_all_queries():
    labels = np.repeat(np.arange(50), 4)
    images = blank(labels)
    found = Found(images, images, all_against_all(labels), {"query": "q", "gallery": "g"})
    small = limited(as_dataset(found, "x", "map", ""), 20)
    part = small.splits["query"]
    assert part is small.splits["gallery"] and len(part) == 20
    expected = all_against_all(part.labels)
    for got, wanted in ((small.relevance.positives, expected.positives), (small.relevance.junk, expected.junk)):
        assert [positions.tolist() for positions in got] == [positions.tolist() for positions in wanted]
    assert sum(len(positives) > 0 for positives in small.relevance.positives) == 20


def test_a_small_part_has_a_small_whitening():
    whole = as_dataset(digits.handwritten(), "digits_retrieval", "map", "")
    small = limited(whole, 30)
    assert {split: len(source) for split, source in small.splits.items()} == dict.fromkeys(whole.splits, 30)
    assert all(len(positives) for positives in small.relevance.positives)
