# mypy: ignore-errors
"""Mirrors ``habana_frameworks.torch.dynamo``: the ``hpu_backend`` of torch.compile.

Each call of a compiled graph is one launch, also in eager mode. Nothing is compiled.
"""

import torch


def hpu_backend(graph_module, example_inputs, **kwargs):
    def run(*args):
        torch.ops.hpu_emulator.begin_compiled()
        try:
            return graph_module(*args)
        finally:
            torch.ops.hpu_emulator.end_compiled()

    return run
