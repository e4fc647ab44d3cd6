"""``python -m raydfkd``: the same as the command ``raydfkd``."""

from __future__ import annotations

from raydfkd.cli.main import main

if __name__ == "__main__":
    main()
