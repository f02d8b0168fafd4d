"""`configs/fgvc.py:vit_b16_clip` whole: weights from a loopback hub, a TFDS set, a class folder, every protocol."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from from_timm import randomise
from hub_server import serve_hub
from running import environment, run_main
from test_main import class_folders
from torch_reference import import_timm

TINY_FLOWERS = Path(__file__).parent / "data"

# The real benchmark but for its length.
SHORT = (
    "--limit=9",
    "--config.protocols.knn.k=(1,3)",
    "--config.protocols.knn.batch_size=8",
    "--config.protocols.linear_probe.batch_size=8",
    "--config.protocols.augmented_probe.batch_size=8",
    "--config.protocols.augmented_probe.epochs=2",
    "--config.protocols.augmented_probe.warmup_epochs=1",
    "--config.protocols.finetune.batch_size=4",
    "--config.protocols.finetune.epochs=1",
    "--config.protocols.finetune.min_steps=1",
    "--config.protocols.finetune.warmup_epochs=0",
    "--config.protocols.finetune.evaluations=1",
    "--config.protocols.finetune.learning_rates=(1e-4,)",
    "--config.data.skip_corrupt=True",
)


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory) -> Path:
    """The repository that the card names, with random weights in the real format."""
    from safetensors.torch import save_file

    timm = import_timm()
    model = randomise(timm.create_model("vit_base_patch16_clip_224.laion2b", pretrained=False))
    folder = tmp_path_factory.mktemp("hub")
    repository = folder / "timm" / "vit_base_patch16_clip_224.laion2b"
    repository.mkdir(parents=True)
    save_file(model.state_dict(), repository / "model.safetensors")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_protocol_on_tfds_and_on_a_folder(hub_folder, tmp_path):
    cache, results = tmp_path / "cache", tmp_path / "results"
    images = class_folders(tmp_path / "images")
    startup = tmp_path / "startup"
    startup.mkdir()
    (startup / "sitecustomize.py").write_text("import tiny_flowers\n")
    with serve_hub(hub_folder) as hub:
        online = environment(
            cache, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "hf"), HF_HUB_DISABLE_XET="1"
        )
        prepare = subprocess.run(
            [sys.executable, "-m", "bob_jax", "data", "prepare", "flowers"],
            env=online | {"PYTHONPATH": f"{startup}:{TINY_FLOWERS}"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert prepare.returncode == 0, prepare.stderr
        command = "--config=configs/fgvc.py:vit_b16_clip,dataset=flowers"
        done = run_main(command, *SHORT, f"--results={results}", env=online)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 cells have a record" in done.stdout
    # The hub is gone: weights come from the cache, images from a folder of class folders.
    own = f"--config=configs/fgvc.py:vit_b16_clip,dataset=folder:{images},protocol=knn+linear_probe"
    fitting = [flag for flag in SHORT if "augmented_probe" not in flag and "finetune" not in flag]
    folder = run_main(own, *fitting, f"--results={results}", env=environment(cache))
    assert folder.returncode == 0, folder.stderr
    found = [json.loads(path.read_text()) for path in results.glob("*.json")]
    assert {(record["cell"]["dataset"], record["cell"]["protocol"]) for record in found} == {
        *(("flowers", protocol) for protocol in ("knn", "linear_probe", "augmented_probe", "finetune")),
        *((f"folder:{images}", protocol) for protocol in ("knn", "linear_probe")),
    }
    digests = {record["backbone"]["weights_sha256"] for record in found}
    assert len(digests) == 1
    for record in found:
        assert record["backbone"]["card"]["source"]["hub"] == "timm/vit_base_patch16_clip_224.laion2b"
        assert record["cost"]["flops_per_image"] > 3e10  # a ViT-B/16 at 224 px: 17.6 G multiply-adds
        assert record["cost"]["images_per_second"] > 0
    assert not list(results.glob("work/**/checkpoints"))
