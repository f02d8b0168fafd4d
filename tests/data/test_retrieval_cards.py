"""Retrieval data sets through the catalogue: fetched from their addresses, read by their cards, variants, the check."""

import dataclasses
import hashlib
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_pictures import picture, write, write_classes
from retrieval_trees import (
    IN_SHOP,
    QUERIES,
    write_copydays,
    write_cub,
    write_landmarks,
    write_revisited,
    write_sop,
)

from bob_jax.data import catalog, prepare
from bob_jax.data.cards import retrieval
from bob_jax.errors import BobError
from bob_jax.metrics.catalog import METRICS


def serve(monkeypatch, tmp_path, name: str, files: dict[str, Path]) -> None:
    """Puts files where a card's addresses point, by the last part of the address, with their own digests."""
    card = catalog.CARDS[name]
    parts = []
    for part in card.source.parts:
        file = files.pop(part.url.rsplit("/", 1)[1])
        digest = hashlib.md5(file.read_bytes()).hexdigest()
        parts.append(dataclasses.replace(part, url=file.as_uri(), md5=part.md5 and digest))
    assert not files
    served = dataclasses.replace(card, source=dataclasses.replace(card.source, parts=tuple(parts)))
    monkeypatch.setitem(catalog.CARDS, name, served)


def pack(folder: Path, archive: Path, inside: str | None = None) -> Path:
    """A tar of a folder, under its own name or, for "", its files alone."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        for entry in [folder] if inside is None else sorted(folder.iterdir()):
            tar.add(entry, entry.name)
    return archive


def test_every_card_is_complete():
    for card in retrieval.CARDS:
        assert catalog.task(card.name) == "retrieval" and catalog.card(card.name) is catalog.CARDS[card.name]
        assert {"query", "gallery"} <= card.sizes.keys() <= {"query", "gallery", "whitening"}
        assert card.metric in METRICS and card.licence and card.get and card.validation_fraction is None
        assert card.access == "embedded" or card.download_size
        assert "{}" not in card.get.format(downloads="d", folder="f")


def test_the_original_rule_is_a_variant_by_name():
    original = {card.name for card in retrieval.CARDS if "bob2023" in card.variants}
    assert original == {
        "cub_retrieval",
        "inat_retrieval",
        "objectnet",
        "instre_s1",
        "roxford5k_medium",
        "rparis6k_medium",
    }
    assert catalog.task("objectnet@bob2023") == "retrieval"
    with pytest.raises(BobError, match="bob2024"):
        catalog.card("objectnet@bob2024")


def test_cub_and_its_variant(monkeypatch, tmp_path):
    archive = pack(write_cub(tmp_path / "made"), tmp_path / "served" / "CUB_200_2011.tgz")
    serve(monkeypatch, tmp_path, "cub_retrieval", {archive.name: archive})
    dataset = catalog.load("cub_retrieval", root=tmp_path / "root")
    assert (dataset.name, dataset.metric, len(dataset.splits["query"])) == ("cub_retrieval", "hit@1", 6)
    original = catalog.load("cub_retrieval@bob2023", root=tmp_path / "root")
    assert (original.name, original.metric) == ("cub_retrieval@bob2023", "mrr")
    assert len(original.splits["query"]) == 0 and len(original.splits["gallery"]) == 9  # no class has 5 images
    assert original.version != dataset.version and original.licence == dataset.licence


def test_products_from_their_zip(monkeypatch, tmp_path):
    root = write_sop(tmp_path)
    archive = tmp_path / "Stanford_Online_Products.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in root.rglob("*.*"):
            file.write(path, path.relative_to(tmp_path))
    serve(monkeypatch, tmp_path, "sop", {archive.name: archive})
    dataset = catalog.load("sop", root=tmp_path / "root")
    assert {split: len(source) for split, source in dataset.splits.items()} == {
        "query": 3,
        "gallery": 3,
        "whitening": 2,
    }
    assert "lamp_final/éclair 2_0.JPG" in dataset.splits["query"].ids
    report = prepare.check("sop", tmp_path / "root")
    assert report.splits["query"].images == 3 and report.duplicates == ()
    assert report.problems == tuple(
        f"{split}: {images} images, expected {expected}"
        for split, images, expected in (("query", 3, 60502), ("gallery", 3, 60502), ("whitening", 2, 59551))
    )


def test_in_shop_from_what_the_user_puts_there(tmp_path):
    downloads = tmp_path / "root" / "downloads" / "in_shop"
    downloads.mkdir(parents=True)
    with pytest.raises(BobError, match=r"data set in_shop is not in .*put both into .*downloads/in_shop"):
        catalog.load("in_shop", root=tmp_path / "root")
    for row, (path, _, _) in enumerate(IN_SHOP):
        write(tmp_path / "made" / path, row)
    with zipfile.ZipFile(downloads / "img.zip", "w") as file:
        for path in (tmp_path / "made").rglob("*.jpg"):
            file.write(path, path.relative_to(tmp_path / "made"))
    lines = ["6", "image_name item_id evaluation_status", *(" ".join(entry) for entry in IN_SHOP)]
    (downloads / "list_eval_partition.txt").write_text("\n".join(lines))
    dataset = catalog.load("in_shop", root=tmp_path / "root")
    assert [len(source) for source in dataset.splits.values()] == [2, 3, 1]


def test_revisited_from_its_archives_and_its_variant(monkeypatch, tmp_path):
    write_revisited(tmp_path / "made", "roxford5k", "mat")
    images = pack(tmp_path / "made" / "roxford5k" / "jpg", tmp_path / "served" / "oxbuild_images-v1.tgz", inside="")
    truth = tmp_path / "made" / "roxford5k" / "gnd_roxford5k.mat"
    for difficulty in ("easy", "medium", "hard"):
        serve(monkeypatch, tmp_path, f"roxford5k_{difficulty}", {images.name: images, truth.name: truth})
    hard = catalog.load("roxford5k_hard", root=tmp_path / "root")
    assert hard.metric == "map_trapezoid" and list(hard.splits["query"].ids) == [f"jpg/{name}.jpg" for name in QUERIES]
    images.unlink()  # the others read the same folder
    medium, original = (
        catalog.load(f"roxford5k_medium{variant}", root=tmp_path / "root") for variant in ("", "@bob2023")
    )
    assert medium.splits["gallery"].fingerprint == hard.splits["gallery"].fingerprint
    assert medium.splits["query"][2]["image"].shape == (4, 4, 3)
    assert original.splits["query"][2]["image"].shape == (20, 30, 3)
    assert len({dataset.version for dataset in (hard, medium, original)}) == 3


def test_copydays_blocks_go_to_their_folders(monkeypatch, tmp_path):
    write_copydays(tmp_path / "made")
    archives = {}
    for block in ("original", "strong"):
        archive = pack(tmp_path / "made" / block, tmp_path / "served" / f"copydays_{block}.tar.gz", inside="")
        archives[archive.name] = archive
    serve(monkeypatch, tmp_path, "copydays_strong", archives)
    root = tmp_path / "root"
    with pytest.raises(
        BobError, match=r"copydays_crops is not in .*copydays_crop.tar.gz of a mirror in .*root/copydays,"
    ):
        catalog.load("copydays_crops", root=root)
    dataset = catalog.load("copydays_strong", root=root)
    assert sorted(path.name for path in (root / "copydays").iterdir()) == ["original", "strong"]
    assert [len(source) for source in dataset.splits.values()] == [3, 3]
    with pytest.raises(BobError, match=r"no folder .*crops: fetch and unpack its official archive there"):
        catalog.load("copydays_crops", root=root)
    shutil.copytree(tmp_path / "made" / "crops", root / "copydays" / "crops")
    assert len(catalog.load("copydays_crops", root=root).splits["query"]) == 3


def test_landmarks_say_what_goes_where_and_are_read_from_there(tmp_path):
    with pytest.raises(BobError, match=r"images_000.tar to images_099.tar and unpack them into .*root/gldv2/index"):
        catalog.load("gldv2_public", root=tmp_path / "root")
    write_landmarks(tmp_path / "root" / "gldv2")
    sizes = {
        name: len(catalog.load(name, root=tmp_path / "root").splits["query"])
        for name in ("gldv2", "gldv2_public", "gldv2_private")
    }
    assert sizes == {"gldv2": 3, "gldv2_public": 1, "gldv2_private": 2}


def test_own_images_and_a_small_part_of_them(tmp_path):
    write_classes(tmp_path, {"a": 6, "b ü": 6, "c": 1})
    dataset = catalog.load(f"retrieval:{tmp_path}")
    assert dataset.task == catalog.task(dataset.name) == "retrieval" and dataset.metric == "map"
    assert dataset.splits["query"] is dataset.splits["gallery"] and len(dataset.splits["query"]) == 13
    small = catalog.load(f"retrieval:{tmp_path}", limit=6)
    assert len(small.splits["query"]) == len(small.relevance.positives) == 6
    assert prepare.check(dataset.name).problems == ()


def test_the_check_counts_queries_that_are_also_in_the_gallery(tmp_path):
    write_classes(tmp_path / "query", {"a": 2})
    write_classes(tmp_path / "gallery", {"a": 2, "b": 2}, seed=500)
    name = f"retrieval:{tmp_path}"
    assert prepare.check(name).problems == ()
    shutil.copy(tmp_path / "query" / "a" / "0.png", tmp_path / "gallery" / "b" / "copy.png")
    (problem,) = prepare.check(name).problems
    assert "1 images are also in another split, first query/a/0.png (query) as gallery/b/copy.png (gallery)" in problem


def test_the_check_reads_sources_without_labels(tmp_path):
    write_landmarks(tmp_path / "gldv2")
    report = prepare.check("gldv2_public", tmp_path)
    assert report.splits["gallery"].decoded == 3
    assert [problem.split(":")[0] for problem in report.problems] == ["query", "gallery"]  # not of full size


def test_digits_are_there_and_whole():
    report = prepare.check("digits_retrieval")
    assert report.problems == () and report.splits["query"].expected == 360
    dataset = catalog.load("digits_retrieval", limit=50)
    assert all(len(positives) for positives in dataset.relevance.positives)
    np.testing.assert_array_equal(np.unique(dataset.splits["query"].labels), np.arange(10))
    assert picture(0).dtype == dataset.splits["query"][0]["image"].dtype
