"""Seeds of a run's components: each has its own, so that what one draws changes nothing that another one draws."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *names: object) -> int:
    """A seed for one component: the run's seed and the component's name, hashed to 63 bits."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
