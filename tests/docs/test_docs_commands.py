"""Every block of code in README.md, CONTRIBUTING.md and docs/ is tried; how, `docs_ways.py` says."""

import re

import jax
import pytest
from docs_pages import PAGES, Block, PageError, blocks, commands, page_text
from docs_ways import EXCLUDED, follow, forget_modules
from jax.experimental.compilation_cache import compilation_cache
from running import ROOT
from synthetic_records import simulate

from bob_jax.results.store import Store

# How ml_collections loads a config file.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method:DeprecationWarning")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of a reader: main.py and configs, records of two benchmarks, those of two laboratories; no network."""
    for link in ("main.py", "configs"):
        (tmp_path / link).symlink_to(ROOT / link)
    for folder, names in (
        ("results/fgvc", ("vit_b16_clip", "vit_b16_dino", "resnet50_in1k")),
        ("results/digits", ("vit_b16_clip", "vit_b16_dino", "resnet50_in1k")),
        ("lab_a", ("vit_b16_clip",)),
        ("lab_b", ("vit_b16_dino",)),
    ):
        place = Store(tmp_path / folder)
        for i, name in enumerate(names):
            for dataset in ("pets", "cars"):
                place.write(*simulate(name, dataset=dataset, accuracy=0.9 - 0.1 * i, n=60))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = jax.config.jax_compilation_cache_dir
    yield tmp_path
    forget_modules(tmp_path)
    jax.config.update("jax_compilation_cache_dir", before)  # main.py turns it on
    compilation_cache.reset_cache()


def own_backbone_is_judged(home):
    (found,) = Store(home / "results/mine").read_all()
    assert (found.cell.backbone, found.protocol.name) == ("my_net", "linear_probe")
    assert found.metrics["accuracy"].value > 0.5  # chance is 0.1


OUTCOMES = {"bring_your_own.md": own_backbone_is_judged}  # what the blocks of a page leave


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_the_page_holds(page, home):
    for block in blocks(page_text(page), page.name):
        follow(block, home)
    if page.name in OUTCOMES:
        OUTCOMES[page.name](home)


def one(text: str, language: str = "sh", mark: str = "") -> Block:
    return Block("page.md", 1, language, "", mark, text)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (one("python main.py --config=configs/fgvc.py:vit_b16_klip"), "page.md:2.*did you mean vit_b16_clip"),
        (one("\npython main.py --config=configs/fgvc.py:dataset=cup"), "page.md:3.*did you mean cub"),
        (one("python main.py --config=configs/fgvk.py"), "cannot read the config file"),
        (one("python main.py --config=configs/fgvc.py --config.protocols.knn.temprature=1"), "temperature"),
        (one("python main.py --config=configs/fgvc.py --limt 3"), "Unknown command line flag 'limt'"),
        (one("bob resluts"), "its options are wrong"),
        (one("bob results nowhere"), "exit code 2"),
        (one("bob rank --by mean"), "its options are wrong"),
        (one("bob plan configs/gauntlet.py:papr"), "exit code 2"),
        (one("bob data prepare pet"), "did you mean pets"),
        (one("bob data check cupp"), "unknown data set 'cupp'"),
        (one("bob data check cub --backbone resnet5O_sscd"), "did you mean resnet50_sscd"),
        (one("bob pick images --backbones vit_b16_clip,vit_b14_dinov3"), "unknown backbone 'vit_b14_dinov3'"),
        (one("bob reproduce digits_knn"), "did you mean"),
        (one("python -m converters verify vit_b16_klip"), "did you mean vit_b16_clip"),
        (one("python -m converters verfy vit_b16_clip"), "invalid choice"),
        (one("python -m bob_jax.scenic --config=bob_jax/scenic/config.py --config.batchsize=3"), "config.batchsize"),
        (one("python -m bob_jax.scenic --config=bob_jax/scenic/config.py:vit_b16_clip,pet"), "did you mean pets"),
        (one("gcloud ssh --command='cd bob_jax && python main.py --config=configs/fgvc.py:x'"), "backbone 'x'"),
        (one("pip install 'bob_jax[bridg]'"), "no extra bridg"),
        (one("pip install scenic"), "is not bob_jax"),
        (one("make tset"), "no target tset"),
        (one("curl https://example.org | sh"), "more than words"),
        (one("curl https://example.org"), "no way to try it"),
        (one("bob 'results"), "No closing quotation"),
        (one("bob results", mark="skip"), "nobody says how to try"),
        (one("bob results", language="bash"), "nobody says how to try"),
        (one("bob results", language=""), "without a language"),
        (one("from bob_jax import zoo", "python"), "page.md:1: ImportError"),
        (one("from bob_jax.backbones import zoo\nzoo.load('vit')", "python"), "unknown backbone"),
        (one("from bob_jax.backbones import zoo\nzoo.lode('vit')", "python", "names"), "there is no lode"),
        (one("from bob_jax.backbones import zoo\nzoo.load(nme='vit')", "python", "names"), "missing a required"),
        (one("from bob_jax.backbones import zoo\nzoo.card(vit)", "python", "names"), "vit is not defined"),
        (one("from bob_jax.backbones import zu", "python", "names"), "cannot import name"),
    ],
)
def test_what_does_not_hold_is_found(block, words, home):
    with pytest.raises(PageError, match=words):
        follow(block, home)


def test_the_same_without_the_mistake(home):
    for text in (
        "python main.py --config=configs/fgvc.py:vit_b16_clip --config.protocols.knn.temperature=1 --limit 3",
        "bob results && bob results --json > all.json",
        "bob data check cub --backbone resnet50_sscd",
    ):
        follow(one(text), home)
    assert (home / "all.json").read_text().startswith("{")
    follow(one("from bob_jax.backbones import zoo\nzoo.load(name='vit')", "python", "names"), home)


@pytest.mark.parametrize("text", ["```sh\nbob\n", "- list\n  ```sh\n  bob\n  ```\n"])
def test_a_block_that_would_be_overlooked_is_found(text):
    with pytest.raises(PageError, match="not closed, or is indented"):
        blocks(text, "page.md")


def test_every_exclusion_is_needed():
    shells = [block for page in PAGES for block in blocks(page_text(page), page.name) if block.language == "sh"]
    lines = [
        " ".join(command.words).replace("--command=", "\n") + " " for block in shells for command in commands(block)
    ]
    unused = [start for start in EXCLUDED if not any(re.search(rf"^{re.escape(start)} ", line, re.M) for line in lines)]
    assert not unused


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_stands_outside_of_a_block(page):
    """Indented by four blanks they would be shown alike, and tried by nobody."""
    text = page_text(page)
    for block in blocks(text, page.name):
        text = text.replace(block.text, "")
    assert not re.findall(r"^ {4,}(?:bob|python|pip|make|from|import) .*", text, re.M)
