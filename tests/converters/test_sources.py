"""Fetching: from a hub with the real one's addresses and errors, and from plain URLs that break off."""

import hashlib
import json
import os
import subprocess
import sys
import urllib.error
from pathlib import Path

import huggingface_hub.constants
import pytest
from hub_server import Hub, serve_hub

from bob_jax.backbones.card import WeightSource
from bob_jax.errors import BobError
from converters import download, sources

DATA = bytes(range(256)) * 40
REPOSITORY = "timm/vit"
ON_HUB = WeightSource(hub=REPOSITORY)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "bob"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0, 0.0))
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "served"
    put(folder, DATA)
    with serve_hub(folder) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def put(folder: Path, data: bytes, file: str = "model.safetensors") -> None:
    path = folder / REPOSITORY / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def url_of(hub: Hub, file: str = "model.safetensors") -> str:
    return f"{hub.url}/files/{REPOSITORY}/{file}"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# The hub


def test_hub_file_arrives_with_commit_and_digest_and_is_fetched_once(hub):
    first = sources.fetch(ON_HUB)
    assert first.path.read_bytes() == DATA
    assert (first.commit, first.sha256) == (hub.commit(REPOSITORY), sha256(DATA))
    assert len(hub.gets()) == 1
    assert sources.fetch(ON_HUB) == first
    assert len(hub.gets()) == 1


def test_first_fetch_pins_the_commit_and_later_ones_stay_with_it(hub, monkeypatch, tmp_path):
    first = sources.fetch(ON_HUB)
    put(hub.folder, DATA[::-1])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "emptied"))
    again = sources.fetch(ON_HUB)
    assert (again.commit, again.sha256) == (first.commit, first.sha256)
    assert hub.gets()[-1][1] == f"/{REPOSITORY}/resolve/{first.commit}/model.safetensors"


def test_deleting_the_pin_accepts_what_is_there_now(hub):
    sources.fetch(ON_HUB)
    put(hub.folder, DATA[::-1])
    sources.pin_path(ON_HUB).unlink()
    assert sources.fetch(ON_HUB).sha256 == sha256(DATA[::-1])


def test_a_pinned_commit_that_is_gone_says_how_to_go_on(hub, monkeypatch, tmp_path):
    sources.fetch(ON_HUB)
    put(hub.folder, DATA[::-1])
    hub.commits.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "emptied"))
    with pytest.raises(BobError, match=r"has no revision .* delete .*pins"):
        sources.fetch(ON_HUB)


def pinned(hub: Hub, **changes) -> WeightSource:
    """The file as it is now, by a card that names its commit and its digest."""
    return WeightSource(**{"hub": REPOSITORY, "revision": hub.commit(REPOSITORY), "sha256": sha256(DATA)} | changes)


def test_a_card_that_names_a_commit_gets_it_on_any_machine_whatever_main_is(hub, monkeypatch):
    source = pinned(hub)
    put(hub.folder, DATA[::-1])
    fetched = sources.fetch(source)
    assert (fetched.path.read_bytes(), fetched.commit, fetched.sha256) == (DATA, source.revision, source.sha256)
    assert hub.gets()[-1][1] == f"/{REPOSITORY}/resolve/{source.revision}/model.safetensors"
    assert sources.fetch(ON_HUB).sha256 == sha256(DATA[::-1])  # a pin of its own
    seen = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert sources.cached(source) == fetched.path and sources.fetch(source) == fetched
    assert len(hub.requests) == seen


@pytest.mark.parametrize("fetched_before", [False, True])
def test_a_card_whose_commit_is_gone_says_how_to_go_on(hub, monkeypatch, tmp_path, fetched_before):
    """The first use's pin is of the same commit: to delete it would not help."""
    source = pinned(hub)
    if fetched_before:
        sources.fetch(source)
    put(hub.folder, DATA[::-1])
    hub.commits.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "emptied"))
    with pytest.raises(BobError, match=rf"has no revision {source.revision}: the card pins .* --from") as caught:
        sources.fetch(source)
    assert "\n" not in str(caught.value) and "delete" not in str(caught.value)


def test_a_commit_without_the_file_says_how_to_go_on(hub):
    source = pinned(hub, file="other.safetensors")
    with pytest.raises(
        BobError, match=r"has no file other.safetensors at revision [0-9a-f]{40}: the card pins .*--from"
    ):
        sources.fetch(source)


def test_a_card_whose_digest_is_not_that_of_its_commit_keeps_no_pin(hub):
    source = pinned(hub, sha256="0" * 64)
    with pytest.raises(BobError, match=r"where the card of .*@[0-9a-f]{40}/.* says 0{64}: delete .* --from") as caught:
        sources.fetch(source)
    assert "\n" not in str(caught.value)
    assert not sources.pin_path(source).exists()


def test_other_bytes_under_the_pinned_commit_are_an_error(hub):
    sources.fetch(ON_HUB)
    pin = sources.pin_path(ON_HUB)
    pin.write_text(json.dumps(json.loads(pin.read_text()) | {"sha256": "0" * 64}))
    with pytest.raises(BobError, match=r"where it had 0{64} on \d{4}-\d\d-\d\d.*delete"):
        sources.fetch(ON_HUB)


def test_a_damaged_pin_is_told(hub):
    sources.fetch(ON_HUB)
    sources.pin_path(ON_HUB).write_text("{")
    with pytest.raises(BobError, match="is damaged: delete it"):
        sources.fetch(ON_HUB)


def test_a_damaged_file_in_the_hubs_cache_is_noticed(hub):
    path = sources.fetch(ON_HUB).path
    path.resolve().write_bytes(DATA[:-1])
    with pytest.raises(BobError, match="is damaged: delete it"):
        sources.fetch(ON_HUB)


@pytest.mark.parametrize("status", [401, 403])
def test_gated_repository_says_what_to_do(hub, status):
    hub.gated[REPOSITORY] = status
    with pytest.raises(BobError, match="is gated: accept its licence there, run `hf auth login`"):
        sources.fetch(ON_HUB)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (WeightSource(hub="timm/nothing"), "does not exist, or is private"),
        (WeightSource(hub=REPOSITORY, file="other.safetensors"), "has no file other.safetensors at revision main"),
        (WeightSource(hub=REPOSITORY, revision="v2"), "has no revision v2: correct the card"),
        (WeightSource(hub=REPOSITORY, sha256="ab12"), "where the card of .* says ab12"),
    ],
)
def test_each_hub_failure_is_one_line(hub, source, message):
    with pytest.raises(BobError, match=message) as caught:
        sources.fetch(source)
    assert "\n" not in str(caught.value)
    assert not sources.pin_path(source).exists()


def test_offline_uses_the_hubs_cache_and_says_when_it_is_empty(hub, monkeypatch):
    first = sources.fetch(ON_HUB)
    sources.pin_path(ON_HUB).unlink()  # also without a pin
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    seen = len(hub.requests)
    assert sources.fetch(ON_HUB) == first
    with pytest.raises(BobError, match="HF_HUB_OFFLINE is set and the file is not in the hub's cache"):
        sources.fetch(WeightSource(hub="timm/other"))
    assert len(hub.requests) == seen


def test_broken_hub_download_resumes_where_it_stopped(hub, monkeypatch):
    """The hub's client asks again by itself, for what follows the last whole chunk; one of its own has 10 MB."""
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 500)
    hub.break_after = 1000
    assert sources.fetch(ON_HUB).path.read_bytes() == DATA
    assert [request[2] for request in hub.gets()] == [None, "bytes=1000-"]


def test_cached_finds_what_was_fetched_and_asks_nobody(hub):
    for source in (ON_HUB, WeightSource(url=url_of(hub))):
        assert sources.cached(source) is None
        path = sources.fetch(source).path
        seen = len(hub.requests)
        assert sources.cached(source) == path
        assert len(hub.requests) == seen


def test_environment_alone_directs_a_fresh_process(hub, tmp_path):
    code = "from converters import sources; from bob_jax.backbones.card import WeightSource as W; "
    code += f"print(sources.fetch(W(hub={REPOSITORY!r})).sha256)"
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sha256(DATA)


# URLs


def test_url_is_fetched_once_verified_by_prefix_and_leaves_no_parts(hub):
    source = WeightSource(url=url_of(hub), sha256=sha256(DATA)[:8])
    fetched = sources.fetch(source)
    assert fetched.path.read_bytes() == DATA
    assert fetched.path.name.endswith("-model.safetensors")
    assert sources.fetch(source) == fetched
    assert len(hub.gets()) == 1
    assert {path.suffix for path in fetched.path.parent.iterdir()} <= {".safetensors", ".lock"}


def test_broken_download_resumes_where_it_stopped(hub):
    hub.break_after = 1000
    assert sources.fetch(WeightSource(url=url_of(hub), sha256=sha256(DATA))).path.read_bytes() == DATA
    assert [request[2] for request in hub.gets()] == [None, "bytes=1000-"]


def test_broken_download_resumes_in_the_next_process(hub, monkeypatch):
    monkeypatch.setattr(download, "WAITS", ())
    hub.break_after = 1000
    source = WeightSource(url=url_of(hub))
    with pytest.raises(BobError, match=r"cut off after 1000 of 10240 bytes.*it goes on where it stopped"):
        sources.fetch(source)
    assert sources.fetch(source).path.read_bytes() == DATA
    assert [request[2] for request in hub.gets()] == [None, "bytes=1000-"]


def test_a_file_that_changed_under_a_broken_download_is_fetched_from_its_start(hub, monkeypatch):
    monkeypatch.setattr(download, "WAITS", ())
    hub.break_after = 1000
    source = WeightSource(url=url_of(hub))
    with pytest.raises(BobError):
        sources.fetch(source)
    put(hub.folder, DATA[::-1])
    assert sources.fetch(source).path.read_bytes() == DATA[::-1]


def test_a_damaged_part_is_thrown_away_and_fetched_anew(hub, monkeypatch):
    monkeypatch.setattr(download, "WAITS", ())
    hub.break_after = 1000
    source = WeightSource(url=url_of(hub), sha256=sha256(DATA))
    with pytest.raises(BobError):
        sources.fetch(source)
    part = next((hub.folder.parent / "bob" / "weights" / "sources").glob("*.part"))
    part.write_bytes(b"x" * 1000)
    assert sources.fetch(source).path.read_bytes() == DATA


def test_wrong_sha256_keeps_nothing(hub):
    source = WeightSource(url=url_of(hub), sha256="ab12")
    with pytest.raises(BobError, match=rf"has sha256 {sha256(DATA)} where ab12 is published"):
        sources.fetch(source)
    folder = hub.folder.parent / "bob" / "weights" / "sources"
    assert [path.suffix for path in folder.iterdir()] == [".lock"]
    assert not sources.pin_path(source).exists()


def test_url_whose_content_changed_is_an_error_that_says_how_to_accept(hub):
    source = WeightSource(url=url_of(hub))
    path = sources.fetch(source).path
    path.unlink()
    put(hub.folder, DATA[::-1])
    with pytest.raises(BobError, match="the publisher changed it"):
        sources.fetch(source)
    sources.pin_path(source).unlink()
    assert sources.fetch(source).sha256 == sha256(DATA[::-1])


def test_passing_failures_are_tried_again(hub):
    hub.failures = [503, 429]
    assert sources.fetch(WeightSource(url=url_of(hub))).sha256 == sha256(DATA)
    assert len(hub.gets()) == 3


def test_final_failures_are_not_tried_again(hub):
    with pytest.raises(BobError, match="answers 404 Not Found: is the address right"):
        sources.fetch(WeightSource(url=url_of(hub, "gone.pth")))
    assert len(hub.gets()) == 1


def test_no_server_is_one_line(hub, monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("Connection refused")

    monkeypatch.setattr(download.urllib.request, "urlopen", refuse)
    with pytest.raises(BobError, match=r"Connection refused.*check the connection.*--from"):
        sources.fetch(WeightSource(url=url_of(hub)))


def test_full_disk_is_one_line_and_not_tried_again(hub, monkeypatch):
    attempts = []

    def full(*arguments):
        attempts.append(arguments)
        raise OSError(download.errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_copy", full)
    with pytest.raises(BobError, match=r"cannot write .*\.part \(No space left on device\).* BOB_CACHE"):
        sources.fetch(WeightSource(url=url_of(hub)))
    assert len(attempts) == 1


@pytest.mark.parametrize("kind", ["url", "hub"])
def test_a_cache_that_takes_no_files_is_one_line(hub, monkeypatch, tmp_path, kind):
    (tmp_path / "file").write_text("a file where the cache should be")
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "file"))
    with pytest.raises(BobError, match=r"cannot write .* set BOB_CACHE"):
        sources.fetch(ON_HUB if kind == "hub" else WeightSource(url=url_of(hub)))


def test_a_pin_is_readable_for_whoever_shares_the_cache(hub):
    sources.fetch(ON_HUB)
    plain = hub.folder / "plain"
    plain.write_text("")
    assert sources.pin_path(ON_HUB).stat().st_mode == plain.stat().st_mode
    assert [path.name for path in sources.pin_path(ON_HUB).parent.iterdir()] == [sources.pin_path(ON_HUB).name]
