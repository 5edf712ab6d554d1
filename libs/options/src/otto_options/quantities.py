"""Kubernetes quantities, as far as CPU and memory need them.

Source of the grammar: the Kubernetes API reference, "Quantity" (decimal number, then one of n u m k M G T P E or Ki Mi Gi Ti Pi Ei).
"""

import re
from decimal import Decimal

_QUANTITY = re.compile(r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})(?P<suffix>[num]|[kMGTPE]|[KMGTPE]i)?")
_BINARY: dict[str | None, Decimal] = {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)}
_DECIMAL: dict[str | None, Decimal] = {letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", start=1)}
_SMALL: dict[str | None, Decimal] = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3")}
_FACTORS: dict[str | None, Decimal] = {None: Decimal(1), **_SMALL, **_BINARY, **_DECIMAL}

MIN_CORES, MAX_CORES = Decimal("0.001"), Decimal(10_000)
MIN_BYTES, MAX_BYTES = 1024 * 1024, 2**50


def amount(text: str) -> Decimal:
    """What a quantity says, of whatever. Raises ValueError, in words for the client."""
    found = _QUANTITY.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{_shown(text)} is no Kubernetes quantity")
    return Decimal(found["number"]) * _FACTORS[found["suffix"]]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")


def cpu_cores(text: str) -> float:
    """Cores of a CPU quantity ("500m", "2", "0.5"). Raises ValueError, in words for the client, unless it is 1m to 10,000."""
    cores = amount(text)
    if not MIN_CORES <= cores <= MAX_CORES:
        raise ValueError(f"{_shown(text)} is not between 1m and 10000 cores (like 500m or 2)")
    return float(cores)


def memory_bytes(text: str) -> int:
    """Bytes of a memory quantity ("512Mi", "2G"). Raises ValueError, in words for the client, unless it is 1Mi to 1Pi."""
    size = int(amount(text))
    if not MIN_BYTES <= size <= MAX_BYTES:
        raise ValueError(f"{_shown(text)} is not between 1Mi and 1Pi of memory (like 512Mi or 2G)")
    return size
