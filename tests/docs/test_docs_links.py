"""Links lead somewhere, every page is on the map, and what stands between backquotes exists."""

import re
from pathlib import Path

import pytest
from docs_pages import PAGES, heading_anchors, page_text, prose
from running import ROOT

from bob_jax import cli
from bob_jax.errors import BobError
from bob_jax.launch import config_file

INDEX = ROOT / "docs" / "index.md"
PATHS = re.compile(r"(?:bob_jax|configs|converters|tests|benchmarks)/[\w/.]*")
TEMPLATES = ("...", "FILE", "PATH")  # in a line that shows a form


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page_text(page)))
    return [link for link in found if not link.startswith(("http://", "https://"))]


def quoted(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page_text(page)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name}: no file {name}"
        assert not anchor or anchor in heading_anchors(page_text(target)), (
            f"{page.name}: {name} has no heading {anchor}"
        )


def test_every_page_is_on_the_map():
    linked = {(INDEX.parent / link.partition("#")[0]).resolve() for link in links(INDEX)}
    assert {page.resolve() for page in PAGES} - {INDEX} == linked


def test_the_map_is_found_from_the_front_door():
    assert "docs/index.md" in links(ROOT / "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    for text in quoted(page):
        name = text.partition(":")[0]
        if PATHS.fullmatch(name) and not any(word in name for word in TEMPLATES):
            assert (ROOT / name).exists(), f"{page.name}: no {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_running_text_can_be_read(page, capsys):
    """`bob data check NAME` is not run, but there must be such a command with such options."""
    for text in quoted(page):
        words = text.split()
        if words[0] != "bob" or len(words) == 1 or "..." in text:
            continue
        try:
            cli._parser().parse_args(cli._joined(words[1:]))
        except SystemExit:
            told = capsys.readouterr().err
            assert "arguments are required" in told, f"{page.name}: {text}: {told}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configs_in_running_text_can_be_read(page):
    for text in quoted(page):
        for word in re.findall(r"configs/\w+\.py:\S+", text):
            if not any(form in word for form in (*TEMPLATES, "my_net")):
                try:
                    config_file.read(str(ROOT / word))
                except BobError as error:
                    pytest.fail(f"{page.name}: {word}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_running_text_exist(page):
    """Config keys and flags: of main.py, of `bob`, of the converters, of the benchmarks."""
    sources = (
        ROOT / "main.py",
        *ROOT.glob("bob_jax/cli/*.py"),
        ROOT / "converters/__main__.py",
        *ROOT.glob("benchmarks/*.py"),
    )
    code = "".join(map(page_text, sources))
    flags = {f"--{name}" for name in re.findall(r'DEFINE_\w+\(\s*"(\w+)"', code)} | set(
        re.findall(r'"(--[\w-]+)"', code)
    )
    parts = [config_file.read(f"{ROOT}/configs/{name}.py:protocol=all,head=all") for name in BENCHMARKS]
    for text in quoted(page):
        for option in re.findall(r"(?<!\S)(--[\w.-]+)", text):
            key = option.removeprefix("--config.")
            if option.startswith("--config."):
                assert any(_holds(part, key) for part in parts), f"{page.name}: no config has the key {key}"
            else:
                assert option in flags, f"{page.name}: nothing takes {option}"


BENCHMARKS = ("classification", "ood", "robustness", "retrieval", "detection")


def _holds(config, key: str) -> bool:
    for name in key.split("."):
        if name not in config:
            return False
        config = config[name]
    return True
