"""Gathers parts beside each other, each for as long as there is time, and keeps what came."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from ottoctl.bundle.archive import Item, Missing

Found = Item | Missing


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the bundle: its name, and what it gathers."""

    name: str
    gathers: AsyncIterator[Found]


async def collect(parts: Sequence[Part], seconds: float) -> tuple[list[Item], list[Missing]]:
    """What the parts gathered within so many seconds, in their order; and what is missing, with a part that failed or took too long."""
    items: list[list[Item]] = [[] for _ in parts]
    missing: list[Missing] = []
    await asyncio.gather(*(_gathered(part, seconds, kept, missing) for part, kept in zip(parts, items, strict=True)))
    return [item for kept in items for item in kept], missing


async def _gathered(part: Part, seconds: float, items: list[Item], missing: list[Missing]) -> None:
    try:
        async with asyncio.timeout(seconds):
            async for found in part.gathers:
                if isinstance(found, Missing):
                    missing.append(found)
                else:
                    items.append(found)
    except TimeoutError:
        missing.append(Missing(part.name, f"not all of it came within {seconds:g} s (--timeout)"))
    except Exception as error:  # a bundle with the rest is of more use than none, and this is what it has to tell
        missing.append(Missing(part.name, f"{type(error).__name__}: {error}"))
