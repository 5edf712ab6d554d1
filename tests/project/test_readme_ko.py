"""README.ko.md is README.md in Korean: what no translation changes is the same in both, section by section."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Self
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

ROOT = Path(__file__).resolve().parents[2]
ENGLISH = (ROOT / "README.md").read_text("utf-8")
KOREAN = (ROOT / "README.ko.md").read_text("utf-8")
BEGIN, END = re.compile(r"<!-- .*: begin \(make generate\) -->"), re.compile(r"<!-- .*: end -->")
COMMENT = re.compile(r"[ \t]*(?:^|(?<=\s))# .*$", re.MULTILINE)


@dataclass(frozen=True)
class Text:
    """A text, and what of it is the same in any language: names (code spans and files) and numbers in digits."""

    words: str
    names: frozenset[str]
    numbers: frozenset[str]

    @classmethod
    def of(cls, nodes: list[SyntaxTreeNode]) -> Self:
        inside = [node for outer in nodes for node in outer.walk()]
        words = " ".join(node.content for node in inside if node.type == "inline")
        plain = " ".join(node.content for node in inside if node.type == "text")
        files = re.findall(r"\b[\w-]+/[\w./-]+\.\w+", plain)
        spans = [node.content for node in inside if node.type == "code_inline"]
        return cls(words, frozenset(spans + files), frozenset(re.findall(r"\d(?:[\d,.]*\d)?", plain)))


@dataclass
class Section:
    """What stands between a heading and the next; of what is generated only that it is there."""

    level: int
    title: str
    anchor: str
    blocks: list[SyntaxTreeNode] = field(default_factory=list)
    generated: bool = False

    def nodes(self, kind: str) -> list[SyntaxTreeNode]:
        return [node for block in self.blocks for node in block.walk() if node.type == kind]

    def code(self) -> list[tuple[str, str]]:
        """Language and text of each block; of sh and YAML without comments."""
        return [(n.info, COMMENT.sub("", n.content) if n.info in {"sh", "yaml"} else n.content) for n in self.nodes("fence")]

    def rows(self) -> list[list[Text]]:
        return [[Text.of([cell]) for cell in row.children] for row in self.nodes("tr")]

    def links(self) -> list[str]:
        targets = [node.attrs["href"] for node in self.nodes("link")] + [node.attrs["src"] for node in self.nodes("image")]
        return [unquote(str(target)) for target in targets]

    def prose(self) -> Text:
        return Text.of(self.nodes("paragraph"))

    def holds(self) -> object:
        """By what a section is known in either language, whatever the page has elsewhere."""
        return self.level, self.code(), [[cell.names for cell in row] for row in self.rows()], self.prose().names


def sections(page: str) -> list[Section]:
    """A page's sections in order, with the anchors that GitHub gives their headings."""
    found: list[Section] = []
    used: Counter[str] = Counter()
    generating = False
    for node in SyntaxTreeNode(MarkdownIt("commonmark").enable("table").parse(page)).children:
        if node.type == "heading":
            title = node.children[0].content
            anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            found.append(Section(int(node.tag[1:]), title, f"{anchor}-{used[anchor]}" if used[anchor] else anchor))
            used[anchor] += 1
        elif node.type == "html_block" and BEGIN.search(node.content):
            generating = True
        elif node.type == "html_block" and END.search(node.content):
            generating = False
        elif generating:
            found[-1].generated = True
        else:
            found[-1].blocks.append(node)
    return found


def lacks(what: str, english: Iterable[str], korean: Iterable[str]) -> Iterator[str]:
    """How two collections differ whose order is the language's."""
    missing, surplus = Counter(english) - Counter(korean), Counter(korean) - Counter(english)
    if missing:
        yield f"{what}: README.ko.md lacks {sorted(missing.elements())}"
    if surplus:
        yield f"{what}: only README.ko.md has {sorted(surplus.elements())}"


def links_differ(english: list[Section], korean: list[Section], number: int) -> Iterator[str]:
    """An anchor stands for the heading it leads to, which is the same one in both pages; the pages' links to each other for themselves."""
    places = [
        {f"#{section.anchor}": f"the section {same.title!r}" for section, same in zip(page, english, strict=False)}
        for page in (english, korean)
    ]
    ours, theirs = english[number].links(), korean[number].links()
    table = f"README.md#{english[number].anchor}"
    if english[number].generated and table in theirs:
        theirs.remove(table)
    elif english[number].generated:
        yield f"its table is generated in English: link to {table}"
    for links, place in zip((ours, theirs), places, strict=True):
        yield from (f"{link} leads to no heading" for link in links if link.startswith("#") and link not in place)
    other = {"README.ko.md": "the other language", "README.md": "the other language"}
    yield from lacks(
        "links", *([(place | other).get(link, link) for link in links] for links, place in zip((ours, theirs), places, strict=True))
    )


def text_differs(what: str, english: Text, korean: Text) -> Iterator[str]:
    """Numbers may be more in Korean, which counts in digits what English has words for."""
    yield from lacks(f"names {what}", english.names, korean.names)
    yield from lacks(f"numbers {what}", english.numbers - korean.numbers, ())


def tables_differ(english: list[list[Text]], korean: list[list[Text]]) -> Iterator[str]:
    """By the words with which a row begins in the page that has it."""
    if len(english) != len(korean):
        yield f"README.md has {len(english)} rows of tables, README.ko.md {len(korean)}"
        for page, rows, others in (("README.md", english, korean), ("README.ko.md", korean, english)):
            known = [[cell.names for cell in row] for row in others]
            yield from (
                f"only {page} has a row {row[0].words!r} with these names" for row in rows if [cell.names for cell in row] not in known
            )
        return
    for row, other in zip(english, korean, strict=True):
        if len(row) != len(other):
            yield f"row {row[0].words!r} has {len(row)} cells in README.md and {len(other)} in README.ko.md"
            continue
        for column, (cell, other_cell) in enumerate(zip(row, other, strict=True), 1):
            yield from text_differs(f"in column {column} of row {row[0].words!r}", cell, other_cell)


def section_differs(english: list[Section], korean: list[Section], number: int) -> Iterator[str]:
    ours, theirs = english[number], korean[number]
    for count, (block, other) in enumerate(zip_longest(ours.code(), theirs.code()), 1):
        if block != other:
            yield f"code block {count} is not README.md's (only comments, in sh and YAML, are translated)"
    yield from tables_differ(ours.rows(), theirs.rows())
    yield from text_differs("in its text", ours.prose(), theirs.prose())
    yield from links_differ(english, korean, number)


def differences(english_page: str, korean_page: str) -> list[str]:
    """Where the pages are out of step and what to do; headings first, as nothing can be compared before they agree."""
    english, korean = sections(english_page), sections(korean_page)
    if [section.level for section in english] != [section.level for section in korean]:
        pairs = zip_longest(english, korean)
        ours, theirs = next((o, t) for o, t in pairs if not o or not t or o.holds() != t.holds())
        here, there = (f"{'#' * section.level} {section.title}" if section else "its end" for section in (ours, theirs))
        return [
            f"from {here} ({there} in README.ko.md) on the sections are not README.md's: translate the one that is missing, or take one out"
        ]
    return [
        f"{ours.title!r} ({theirs.title!r} in README.ko.md): {difference}. Say in Korean what README.md says there now"
        for number, (ours, theirs) in enumerate(zip(english, korean, strict=True))
        for difference in section_differs(english, korean, number)
    ]


def test_the_korean_readme_is_in_step() -> None:
    """Headings, code, rows of tables, names, numbers and links are README.md's; what is out of step is named with its section."""
    found = differences(ENGLISH, KOREAN)
    assert not found, "\n".join(["README.ko.md is out of step with README.md:", *found, "`git log -p README.md` shows what has changed."])


@pytest.mark.parametrize(("page", "other"), [(ENGLISH, "README.ko.md"), (KOREAN, "README.md")], ids=["English", "Korean"])
def test_each_readme_begins_with_a_link_to_the_other(page: str, other: str) -> None:
    """Whoever opens the wrong one sees it at once."""
    assert f"]({other})" in "".join(page.splitlines(keepends=True)[:4])


IN_ENGLISH = """\
# Otto
## Use
| what | most |
| --- | --- |
| `reason` | 64 bytes, see [settings](#settings) and [more](#more) |

```sh
make serve  # all of it
```
## Settings
<!-- settings: begin (make generate) -->
| variable |
| --- |
| `OTTO_LISTEN` |

<!-- settings: end -->
## More
`make help`: [use](docs/use.md)
"""
IN_KOREAN = """\
# Otto
## 사용법
| 대상 | 최대 |
| --- | --- |
| `reason` | 64바이트, [더 보기](#더-보기)와 [설정](#설정) 참고 |

```sh
make serve  # 전체
```
## 설정
[영어 표](README.md#settings)
## 더 보기
`make help`: [사용법](docs/use.md)
"""


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ("## 더", "### 더", "from ## More (### 더 보기 in README.ko.md) on"),
        ("## 설정\n", "", "from ## Settings (## 더 보기 in README.ko.md) on"),
        ("`make help`", "## 끝\n`make help`", "from ## More (## 더 보기 in README.ko.md) on"),
        ("make serve", "make server", "'Use' ('사용법' in README.ko.md): code block 1 is not README.md's"),
        ("| `reason`", "| `cause`", "names in column 1 of row '`reason`': README.ko.md lacks ['reason']"),
        ("64바이트", "63바이트", "['64']"),
        ("| `reason`", "| `more` | |\n| `reason`", "only README.ko.md has a row '`more`'"),
        ("](#설정)", "](#없음)", "#없음 leads to no heading"),
        ("](#설정)", "](#더-보기)", """links: README.ko.md lacks ["the section 'Settings'"]"""),
        ("](docs/use.md)", "](docs)", "links: README.ko.md lacks ['docs/use.md']"),
        (
            "](README.md#settings)",
            "](README.md)",
            "'Settings' ('설정' in README.ko.md): its table is generated in English: link to README.md#settings",
        ),
    ],
    ids=["level", "missing", "surplus", "code", "name", "number", "row", "anchor", "other-anchor", "link", "generated"],
)
def test_what_gets_out_of_step_is_told(was: str, becomes: str, told: str) -> None:
    """Pages in step differ in nothing; a change of any kind in one alone is told, with its section."""
    assert differences(IN_ENGLISH, IN_KOREAN) == []
    assert was in IN_KOREAN
    assert told in "\n".join(differences(IN_ENGLISH, IN_KOREAN.replace(was, becomes, 1)))
