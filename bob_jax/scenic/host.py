"""Whether Scenic is there, and the right one."""

import importlib.util

from bob_jax.errors import BobError

HOW = (
    "`git clone https://github.com/google-research/scenic`, put the clone on PYTHONPATH, and "
    "`pip install 'bob_jax[scenic]'` for what it needs (docs/scenic.md)"
)


def require() -> None:
    """Says in one line what is missing, where something is.

    Raises:
        BobError: there is no Scenic, it is the package of that name on PyPI, or it cannot be imported.
    """
    if importlib.util.find_spec("scenic") is None:
        raise BobError(f"there is no Scenic on the Python path: {HOW}")
    if importlib.util.find_spec("scenic.train_lib") is None:
        raise BobError(
            f"the `scenic` that is installed is another project (PyPI's): `pip uninstall scenic`, then {HOW}"
        )
    try:
        importlib.import_module("scenic.app")
    except ImportError as error:
        raise BobError(f"Scenic cannot be imported ({error}): {HOW}") from error
