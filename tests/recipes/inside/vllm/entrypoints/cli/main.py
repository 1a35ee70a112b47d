"""`vllm`, started by a recipe's script: LMCache's own engine on the emulated HPU replaces it in this process."""

import os
import sys
from pathlib import Path

INSIDE = Path(__file__).parents[3]

if __name__ == "__main__":
    emulator = os.environ["TEST_EMULATOR"]
    several = any("LMCacheMPConnector" in argument for argument in sys.argv)
    engine = INSIDE / ("multiprocess_engine.py" if several else "engine.py")
    os.execv(sys.executable, [sys.executable, "-B", emulator, "--lazy", str(engine), *sys.argv[1:]])
