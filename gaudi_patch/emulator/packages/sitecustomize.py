"""Prepare each Python child of an emulated process, whose PYTHONPATH starts with this directory.

Drop the real plugin's bare namespace, which a .pth file may have put into ``sys.modules``: it would hide the emulated
package. Then run the environment's own ``sitecustomize``, which this file hides.
"""

import importlib.machinery
import importlib.util
import os
import sys


def _drop_namespace():
    loaded = sys.modules.get("habana_frameworks")
    if (
        loaded is not None
        and getattr(loaded, "__file__", None) is None
        and "habana_frameworks.torch" not in sys.modules
    ):
        for name in [n for n in sys.modules if n == "habana_frameworks" or n.startswith("habana_frameworks.")]:
            del sys.modules[name]


def _run_hidden():
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - start-up of every child: no pathlib
    others = [entry for entry in sys.path if os.path.abspath(entry) != here]  # noqa: PTH100 - as above
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


_drop_namespace()
_run_hidden()
