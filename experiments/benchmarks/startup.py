"""How soon the command line and the package are there. Prints readable lines and, last, one JSON object of seconds.

    python experiments/benchmarks/startup.py [--quick]

Each is the best of some fresh interpreters, without the interpreter's own start. That nothing heavy is loaded on the way, which
is what makes it quick, is a test (tests/architecture/test_imports.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

STARTS = {
    "package": "import raydfkd",
    "settings": "import raydfkd.pipeline.experiment.config",
    "help": "import raydfkd.cli.main as m; m.app(['--help'], standalone_mode=False)",
    "help_of_run": "import raydfkd.cli.main as m; m.app(['run', '--help'], standalone_mode=False)",
    "reference": "import raydfkd.cli.main as m; m.app(['config', 'reference'], standalone_mode=False)",
}
TIMED = """
import contextlib, io, time
began = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    {}
print(time.perf_counter() - began)
"""


def seconds(code: str) -> float:
    done = subprocess.run([sys.executable, "-c", TIMED.format(code)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    turns = 1 if parser.parse_args().quick else 5
    best = {f"{name}_s": min(seconds(code) for _ in range(turns)) for name, code in STARTS.items()}
    for name, value in best.items():
        print(f"{name}: {value:.3f}")
    print(json.dumps(best))


if __name__ == "__main__":
    main()
