"""`python -m bob_jax` is `bob`."""

import sys

from bob_jax.cli import main

sys.exit(main())
