"""Is the address one, does it lead anywhere, and what speaks there?"""

import asyncio
import contextlib
import ipaddress
import itertools
import socket
import ssl

from ottoctl.doctor.case import Case, Finding, fail, ok, warn
from ottoctl.doctor.processes import holders, instances

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 2.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""What every HTTP/2 client says first, with empty SETTINGS."""
SETTINGS = 4
LOOPBACK = ("127.0.0.1", "[::1]")
_OTHERS = "--address or OTTO_ADDRESS names Ottoscaler's"


async def address(case: Case) -> list[Finding]:
    """The address can be dialled, and HTTP/2 without TLS is spoken there."""
    try:
        case.host, case.port = parsed(case.address)
    except ValueError as error:
        return [fail(str(error), "give it as HOST:PORT, like 127.0.0.1:9090 or [::1]:9090")]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(case.host, case.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return [fail(f"the name {case.host} can't be resolved: {error}", "check its spelling and this machine's DNS; " + _OTHERS)]
    numbers = [str(entry[4][0]) for entry in found]
    case.local = all(ipaddress.ip_address(number.partition("%")[0]).is_loopback for number in numbers)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(case.host, case.port)
    except ConnectionRefusedError:
        return [await refused(case)]
    except TimeoutError:
        return [
            fail(
                f"{case.address} does not answer at all within {CONNECT_SECONDS:g} s",
                "a firewall may swallow it, or the machine is off; " + _OTHERS,
            )
        ]
    except OSError as error:
        return [fail(f"{case.address} can't be reached: {error.strerror or error}", "check the network between here and there; " + _OTHERS)]
    try:
        words = await _spoken(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if words == "h2c":
        case.speaks = True
        return [ok(f"{case.address} ({', '.join(dict.fromkeys(numbers))}) answers, by HTTP/2 without TLS")]
    return [await _something_else(case, words)]


def parsed(text: str) -> tuple[str, int]:
    """Host and port. Raises ValueError in words."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is no address")
    return host, int(port)


async def refused(case: Case) -> Finding:
    """Nobody listens there; perhaps somebody of ours listens elsewhere."""
    words = f"{case.address} refuses connections: nothing listens there"
    if case.way_in:
        tell = fail if case.named else warn
        return tell(f"{words}, so the services were not asked themselves", f"{case.way_in}, beside this; or --address of the front door")
    if not case.local:
        return fail(words, "is it running there, and listening on that interface (OTTO_LISTEN)? By default it listens on loopback only")
    for found, ports in instances():
        for port, host in itertools.product(ports, LOOPBACK):
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    reader, writer = await asyncio.open_connection(host.strip("[]"), port)
                spoken = await _spoken(reader, writer)
                writer.close()
                if spoken == "h2c":
                    return fail(f"{words}; but {found} serves at {host}:{port}", f"use that: ottoctl --address {host}:{port} …")
    return fail(words, "start it: make serve (or ottoscaler-standalone)")


async def _spoken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """What answers a client's HTTP/2 preface: "h2c", "closed", "silent", or the first bytes in words."""
    try:
        writer.write(PREFACE)
        async with asyncio.timeout(ANSWER_SECONDS):
            await writer.drain()
            first = await reader.read(64)
    except TimeoutError:
        return "silent"
    except OSError:
        return "closed"
    if not first:
        return "closed"
    if len(first) >= 9 and first[3] == SETTINGS and first[5:9] == b"\0\0\0\0":
        return "h2c"
    if first[:2] == b"\x15\x03":
        return "TLS"
    line = first.split(b"\n")[0].decode("ascii", "replace").strip()
    return "".join(c if c.isprintable() else "." for c in line)


async def _something_else(case: Case, words: str) -> Finding:
    if words == "TLS" or ((words in {"closed", "silent"} or words.startswith("HTTP/1")) and await _shakes_hands(case)):
        return fail(
            f"TLS is spoken at {case.address}; ottoctl and Ottoscaler speak plain HTTP/2",
            "name Ottoscaler's own port, or a proxy's port without TLS",
        )
    said = {
        "silent": f"takes connections but says nothing within {ANSWER_SECONDS:g} s",
        "closed": "closes the connection when spoken to in HTTP/2",
    }.get(words, f"answers {words[:60]!r}, which is not HTTP/2")
    who = _who(case)
    listener = f"what listens at {case.address}{who}"
    remedy = (
        f"it is not Ottoscaler, or it hangs: look at that process, stop it or choose another port for Ottoscaler (OTTO_LISTEN); {_OTHERS}"
    )
    return fail(f"{listener} {said}", remedy)


def _who(case: Case) -> str:
    held = holders(case.port) if case.local else []
    return f", {held[0]}," if held else ""


async def _shakes_hands(case: Case) -> bool:
    """Whether a TLS handshake goes through; whose certificate it is does not matter here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            _, writer = await asyncio.open_connection(case.host, case.port, ssl=context)
    except (OSError, TimeoutError, ssl.SSLError):
        return False
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()
    return True
