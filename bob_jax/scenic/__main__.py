"""`python -m bob_jax.scenic --config=bob_jax/scenic/config.py:BACKBONE,DATASET --workdir=FOLDER`."""

import sys

from bob_jax.errors import BobError
from bob_jax.scenic import host
from bob_jax.scenic.main import main

if __name__ == "__main__":
    try:
        host.require()
        from scenic import app

        app.run(main)
    except BobError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
