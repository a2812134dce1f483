"""How long the import of a module takes, in an interpreter that has done nothing else: any peer's player for that."""

import importlib
import json
import sys
import time


def main() -> None:
    """Import what the job names."""
    job = json.load(sys.stdin)
    before, start = len(sys.modules), time.perf_counter()
    importlib.import_module(job["module"])
    seconds = time.perf_counter() - start
    facts = {"modules": len(sys.modules) - before}
    print("\n" + json.dumps({"seconds": seconds, "units": 1, "setup_s": 0.0, "facts": facts}))


if __name__ == "__main__":
    main()
