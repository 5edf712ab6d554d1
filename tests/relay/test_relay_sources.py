"""The LogSource over files, beside what holds for each source: files that are cut, parts of lines, names that are no directories."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from otto_relay.errors import SourceError, SourceLostError
from otto_relay.sources import file
from otto_relay.sources.file import FileSource
from otto_relay.sources.protocol import Ending
from otto_relay.testing import LogFile

from .test_relay_source_contract import LONGEST, Reader, until


@pytest.fixture(params=["told by the kernel", "looking"])
async def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FileSource]:
    """Told by the kernel it looks by itself only after longer than a test waits."""
    told = request.param == "told by the kernel"
    if not told:

        def none_left() -> None:
            raise OSError("no more watches")

        monkeypatch.setattr(file, "Inotify", none_left)
    made = FileSource(tmp_path, 300.0 if told else 0.01, LONGEST)
    yield made
    made.close()


async def test_from_the_position_of_any_line_come_exactly_those_behind_it(source: FileSource, tmp_path: Path) -> None:
    """Also from within a line that was too long for one entry, and from one in parts."""
    log = LogFile(tmp_path, "w-1")
    log.write("one", "x" * 150, "two")
    log.write("in ", part=True)
    log.write("parts")
    log.write("", "three")
    whole = Reader(source)
    whole.ending.set()
    await whole.run()
    assert whole.texts == ["one", "x" * 64, "x" * 64, "x" * 22, "two", "in parts", "", "three"]
    for index, line in enumerate(whole.lines):
        assert len(line.position) <= 255
        rest = Reader(source, line.position)
        rest.ending.set()
        await rest.run()
        assert rest.lines == whole.lines[index + 1 :]


async def test_a_line_that_is_not_complete_waits_for_its_end_or_the_workers(source: FileSource, tmp_path: Path) -> None:
    """Bytes without a line end are no line yet; when the worker ends they are."""
    log = LogFile(tmp_path, "w-1")
    log.write("whole")
    with log.path.open("ab") as writing:
        writing.write(b"2026-11-24T02:00:01.000000000Z stdout F half")
    reader = Reader(source)
    reading = asyncio.create_task(reader.run())
    await until(lambda: reader.texts == ["whole"])
    await asyncio.sleep(0.05)
    assert reader.texts == ["whole"]
    reader.ending.set()
    await asyncio.wait_for(reading, 30)
    assert reader.texts == ["whole", "half"]


async def test_a_log_that_is_gone_is_lost(source: FileSource, tmp_path: Path) -> None:
    """SourceLostError, and not an empty log."""
    log = LogFile(tmp_path, "w-1")
    log.write("one", "two")
    log.path.unlink()
    with pytest.raises(SourceLostError):
        await asyncio.wait_for(Reader(source).run(), 30)


async def test_values_are_a_list_of_texts_or_an_error(source: FileSource, tmp_path: Path) -> None:
    """None where there are none; what can't be read, or is something else, is a SourceError that shows nothing of it."""
    path = tmp_path / "w-1" / "secrets"
    LogFile(tmp_path, "w-1")
    assert list(await source.secrets("w-1")) == []
    path.write_text('["one", "둘"]', "utf-8")
    assert list(await source.secrets("w-1")) == ["one", "둘"]
    for wrong in ("", "{", '"hidden"', '["hidden", 1]', '{"hidden": 1}', "null"):
        path.write_text(wrong, "utf-8")
        with pytest.raises(SourceError) as error:
            await source.secrets("w-1")
        assert "hidden" not in str(error.value)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../w-1", "a\0b"], ids=repr)
async def test_a_name_that_is_no_directory_reads_nothing(source: FileSource, tmp_path: Path, name: str) -> None:
    """A worker's name never leads out of the source's directory."""
    LogFile(tmp_path, "w-1").write("one")
    ending = Ending()
    ending.set()
    with pytest.raises(SourceLostError):
        await source.available(name, ending)
    with pytest.raises(SourceLostError):
        await source.secrets(name)


async def test_a_link_in_place_of_a_log_leads_nowhere(source: FileSource, tmp_path: Path) -> None:
    """A worker can't have another file read as its own lines, nor as its values."""
    other = LogFile(tmp_path, "w-2")
    other.write("not yours")
    (tmp_path / "w-1").mkdir()
    for name in ("log", "secrets"):
        (tmp_path / "w-1" / name).symlink_to(other.path)
    with pytest.raises(SourceError):
        await asyncio.wait_for(Reader(source).run(), 30)
    with pytest.raises(SourceError, match="can't be read"):
        await source.secrets("w-1")
