import importlib.metadata
import platform
import subprocess
from pathlib import Path

from bob_jax.results import environment
from bob_jax.results.environment import collect


def git(folder, *arguments):
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_what_is_collected():
    found = collect(device_kind="TPU v4", device_count=8, process_count=2)
    assert (found.device_kind, found.device_count, found.process_count) == ("TPU v4", 8, 2)
    assert found.python == platform.python_version()
    assert found.versions["jax"] == importlib.metadata.version("jax")
    assert found.versions["bob_jax"]
    assert all(importlib.metadata.version(name) == version for name, version in found.versions.items())


def checkout(folder):
    """A repository in which the package's file is tracked."""
    git(folder, "init", "-q")
    file = folder / Path(environment.__file__).name
    file.write_text("one")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "one")
    return file


def test_commit_of_a_checkout(tmp_path):
    file = checkout(tmp_path)
    assert environment._git_commit(tmp_path) == git(tmp_path, "rev-parse", "HEAD")
    git(tmp_path, "tag", "v1")  # a tag does not hide the commit
    assert environment._git_commit(tmp_path) == git(tmp_path, "rev-parse", "HEAD")
    file.write_text("two")
    assert environment._git_commit(tmp_path) == git(tmp_path, "rev-parse", "HEAD") + "-dirty"


def test_no_commit_outside_a_checkout_or_in_somebody_elses(tmp_path):
    assert environment._git_commit(tmp_path) is None
    checkout(tmp_path)
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / Path(environment.__file__).name).write_text("untracked")
    assert environment._git_commit(installed) is None


def test_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment._git_commit(Path(environment.__file__).parent) is None
