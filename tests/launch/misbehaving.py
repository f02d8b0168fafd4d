"""A protocol that does to its process what happens to processes, and a run of it as one would start it."""

import dataclasses
import os
import secrets
import signal
import sys
import time
from pathlib import Path

from bob_jax import grid
from bob_jax.launch import cluster, settle
from bob_jax.protocols.knn import KNN
from configs import digits

GOOD, RAISES, KILLED_ONCE, WAITS = 0, 1, 2, 3  # seeds; from WAITS on all wait


@dataclasses.dataclass(frozen=True)
class Misbehaving(KNN):
    """k-NN that leaves a file `SEED.PID.*` in `folder` at each attempt, and then does what its seed says.

    The file tells which GPUs Ray lets the process see.
    """

    name = "misbehaving"
    folder: str

    @property
    def trains_backbone(self) -> bool:
        return True  # it does not, but so each cell is a chain of its own

    def run(self, competitor, dataset, context):
        attempts = len(list(Path(self.folder).glob(f"{context.seed}.*")))
        (Path(self.folder) / f"{context.seed}.{os.getpid()}.{secrets.token_hex(4)}").write_text(
            os.environ.get("CUDA_VISIBLE_DEVICES", "")
        )
        if context.seed == RAISES:
            raise RuntimeError("it always fails")
        if context.seed == KILLED_ONCE and not attempts:
            os.kill(os.getpid(), signal.SIGKILL)
        while context.seed >= WAITS and not (Path(self.folder) / "go").exists():
            time.sleep(0.05)
        return super().run(competitor, dataset, context)


def drive(results: str, folder: str, seeds: str, address: str) -> int:
    """Runs one cell for each seed on the cluster at the address."""
    settle.PAUSE = 0.2
    grid.PROTOCOLS["misbehaving"] = Misbehaving
    config = digits.get_config(f"vit_micro8_random,dataset=digits,protocol=knn,seed={seeds}")
    config.protocols = {"misbehaving": config.protocols.knn.to_dict() | {"folder": folder}}
    config.results, config.data.limit = results, 40
    return cluster.run(grid.cells(config), config, address)


if __name__ == "__main__":
    from misbehaving import drive  # workers must find the protocol in a module with a name

    sys.exit(drive(*sys.argv[1:]))
