"""Run by an environment with vLLM: parse command lines of `vllm serve` with vLLM's own parser; a JSON list on stdin."""

import json
import sys

from vllm.entrypoints.openai.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = make_arg_parser(FlexibleArgumentParser())
found = []
for words in json.load(sys.stdin):
    parsed = parser.parse_args(words)
    transfer = parsed.kv_transfer_config
    found.append(
        [
            parsed.port,
            parsed.tensor_parallel_size,
            parsed.block_size,
            parsed.enable_prefix_caching,
            transfer.kv_connector,
            transfer.kv_role,
            transfer.kv_connector_extra_config,
        ]
    )
print("parsed:" + json.dumps(found))
