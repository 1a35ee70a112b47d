"""`vllm`, started by a recipe's script: LMCache's own engine on the emulated HPU takes its place in this process."""

import os
import sys
from pathlib import Path

ENGINE = Path(__file__).parents[3] / "engine.py"

if __name__ == "__main__":
    emulator = os.environ["TEST_EMULATOR"]
    os.execv(sys.executable, [sys.executable, "-B", emulator, "--lazy", str(ENGINE), *sys.argv[1:]])
