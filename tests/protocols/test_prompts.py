"""Class names and sentences: OpenAI's, as they are in OpenCLIP, which copied them independently; and the fallbacks."""

import pytest
import tiny_clip  # imports OpenCLIP also beside a CPU-only torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

from bob_jax.data import catalog
from bob_jax.errors import BobError
from bob_jax.protocols import prompts
from bob_jax.protocols.prompts import Prompts, imagenet_names, plain, prompts_of

assert tiny_clip


def named(name: str, *classes: str) -> Prompts:
    return prompts_of(name, classes)


def test_imagenet_is_called_as_openai_calls_it():
    assert list(imagenet_names()) == sorted(imagenet_names()) and len(imagenet_names()) == 1000
    found = named("imagenet", *imagenet_names())
    assert list(found.names) == list(IMAGENET_CLASSNAMES)
    assert [template.replace("{}", "cat") for template in found.templates] == [
        template("cat") for template in OPENAI_IMAGENET_TEMPLATES
    ]
    assert named("imagenet_10pct", *imagenet_names()) == found
    assert named("folder:photos/imagenet", *imagenet_names()) == found
    assert len(found.texts()) == 80000 and found.texts()[80] == "a bad photo of a goldfish."


def test_wordnet_ids_stand_for_the_right_things():
    names = imagenet_names()
    assert (names["n01440764"], names["n15075141"]) == ("tench", "toilet paper")
    assert (names["n02012849"], names["n03126707"]) == ("crane bird", "construction crane")
    assert plain("n02085620-chihuahua") == "Chihuahua"
    assert plain("n02115913-dhole_dog") == "dhole" and plain("n99999999-Some_dog") == "Some dog"


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("/a/athletic_field/outdoor", "athletic field outdoor"),
        ("aquarium_fish", "aquarium fish"),
        ("00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris", "Lumbricus terrestris"),
        ("707-320", "707-320"),
        ("été_indien", "été indien"),
    ],
)
def test_names_as_words(own, words):
    assert plain(own) == words


@pytest.mark.parametrize(
    ("dataset", "own", "text"),
    [
        ("cifar100", "aquarium_fish", "a photo of a aquarium fish."),
        ("eurosat", "SeaLake", "a centered satellite photo of lake or sea."),
        ("eurosat@10pct", "River", "a centered satellite photo of river."),
        ("flowers", "ball moss", "a photo of a air plant, a type of flower."),
        ("aircraft", "F_A-18", "a photo of a F/A-18, a type of aircraft."),
        ("cub", "002.Laysan_Albatross", "a photo of a Laysan Albatross, a type of bird."),
        ("patch_camelyon", "metastasis", "this is a photo of lymph node containing metastatic tumor tissue"),
        ("clevr_count", "3 objects", "a photo of 3 objects."),
        ("kitti_distance", "no vehicle", "a photo i took with no car."),
        ("digits", "7", 'a photo of the number: "7".'),
        ("folder:photos/mine", "red_panda", "a photo of a red panda."),
    ],
)
def test_first_sentence(dataset, own, text):
    assert named(dataset, own).texts()[0] == text


def test_every_sentence_has_a_gap_and_every_set_a_source():
    for name, known in prompts._known().items():
        assert all(template.count("{}") == 1 for template in known["templates"]), name
        assert "openai/CLIP" in known["source"] and set(known) == {"source", "templates", "names"}, name


def test_a_number_is_no_name():
    with pytest.raises(BobError, match=r"class '3' of data set cifar10 has a number where .* needs a name"):
        named("cifar10", "airplane", "3")


def test_no_classes():
    with pytest.raises(BobError, match="data set mine names no classes"):
        named("mine")


def test_every_set_with_sentences_is_in_the_catalogue():
    assert set(prompts._known()) <= set(catalog.CARDS)


def test_the_names_that_differ_are_names_of_the_data():
    """Where the catalogue says the class names itself; the others' are known only when they are prepared."""
    for name, known in prompts._known().items():
        classes = getattr(catalog.CARDS[name].source, "classes", ()) or ()
        assert not classes or set(known["names"]) <= set(classes), name


def test_sets_whose_classes_have_no_names():
    told = {}
    for name, card in catalog.CARDS.items():
        if classes := getattr(card.source, "classes", None):
            try:
                told[name] = named(name, *classes).texts()
            except BobError as error:
                told[name] = str(error)
    assert {name for name, texts in told.items() if isinstance(texts, str)} == {"dmlab"}
    assert told["kitti_distance"] == [
        "a photo i took of a car on my left or right side.",
        "a photo i took with a car nearby.",
        "a photo i took with a car in the distance.",
        "a photo i took with no car.",
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["caltech101", "dtd", "eurosat", "flowers", "food101", "pets", "resisc45", "sun397"])
def test_the_names_that_differ_are_names_of_tfds(name):
    import tensorflow_datasets

    builder = catalog.CARDS[name].source.builder.partition("/")[0]
    classes = tensorflow_datasets.builder_cls(builder)(data_dir="/nowhere").info.features["label"].names
    assert set(prompts._known()[name]["names"]) <= set(classes)
    assert len(set(named(name, *classes).names)) == len(classes) == catalog.CARDS[name].classes
