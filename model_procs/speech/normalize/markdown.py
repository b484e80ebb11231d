"""Markdown as it is read aloud: without its signs, with a pause after each line. In workers.

markdown-it-py finds the structure; it knows where an asterisk or an underscore is emphasis and
where it is part of a word. It gives no positions inside a block, so they are found again by
searching for each piece of text after the one before.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from model_procs.speech.normalize.mapped import Mapped

_ENDS = frozenset(".!?…:;,。！？：；，、؟۔।")
_CLOSERS = "\"'”’»)]」』*_~` "
_WRAPPED = 50
"""A line of at least so many characters, without a mark at its end, was wrapped by an editor."""
_FEW_WORDS = 3
"""Items of lists with at most so many words are read as one enumeration."""
_MANY_MARKERS = re.compile(
    r"^(?:[ \t]*(?:>|[-*+](?=[ \t])|\d{1,9}[.)](?=[ \t]))){12,}", re.MULTILINE
)
_TASK = re.compile(r"\[[ xX]\][ \t]+")
_MAX_NESTING = 60


@cache
def _parser() -> MarkdownIt:
    """CommonMark with tables, without what ordinary texts have by chance or what drops text.

    Left out: code by indentation, HTML (see `directions`), definitions of links.
    """
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": _MAX_NESTING})
    parser.enable(["table", "strikethrough"])
    parser.disable(["code", "html_block", "html_inline", "reference", "text_join"])
    return parser


def read_markdown(text: Mapped) -> Mapped:
    """`text` as it is read aloud; no word is lost but the addresses of links."""
    reader = _Reader(text)
    if not _MANY_MARKERS.search(text.text):
        tokens = _parser().parse(text.text)
        if _letters(text.text) == sum(map(_letters_of_block, tokens)):
            return reader.blocks(tokens)
    return reader.lines()


def _letters(text: str) -> int:
    return sum(map(str.isalnum, text))


def _letters_of_block(token: Token) -> int:
    """How many letters and digits of the text a token of a block has taken."""
    if token.type in ("inline", "fence"):
        return _letters(token.content) + _letters(token.info)
    return _letters(token.info) if token.type == "list_item_open" else 0


class _Reader:
    """Writes the blocks of one text as they are read."""

    def __init__(self, source: Mapped) -> None:
        self._source = source
        self._starts = [0, *(match.end() for match in re.finditer("\n", source.text))]
        self._cursor = 0
        self._limit = len(source.text)
        self._text: list[str] = []
        self._places: list[int] = []

    def lines(self) -> Mapped:
        """The text without looking for Markdown: each line by itself."""
        self._write(self._source.text, 0)
        self._end_lines()
        return self._done()

    def blocks(self, tokens: list[Token]) -> Mapped:
        """The blocks one after the other."""
        cells = False
        for index, token in enumerate(tokens):
            if token.map is not None:
                self._cursor = max(self._cursor, self._start_of(token.map[0]))
                self._limit = self._start_of(token.map[1])
            if token.type == "inline":
                item = index >= 2 and tokens[index - 2].type == "list_item_open"
                self._inline(token, item=item)
                self._end_block(tokens, index, cells=cells)
            elif token.type == "fence":
                self._code(token)
            elif token.type == "list_item_open" and token.info:
                place = self._find(token.info)
                self._write(f"{int(token.info)}, ", place)
            elif token.type == "tr_open":
                cells = True
            elif token.type == "tr_close":
                cells = False
        return self._done()

    def _done(self) -> Mapped:
        read = Mapped("".join(self._text), self._places, self._source.grown)
        read.limit = self._source.limit
        return read

    def _start_of(self, line: int) -> int:
        return self._starts[line] if line < len(self._starts) else len(self._source.text)

    def _inline(self, token: Token, *, item: bool) -> None:
        """The text of a paragraph, a heading, an item or a cell."""
        begun = len(self._text)
        children = token.children or []
        for child in children:
            match child.type:
                case "text":
                    box = _TASK.match(child.content) if item and child is children[0] else None
                    if box is not None:
                        self._cursor = self._find(box.group()) + box.end()
                    self._piece(child.content[box.end() if box else 0 :])
                case "text_special":
                    self._piece(child.content, written=child.markup)
                case "code_inline":
                    self._cursor = self._find("`")
                    self._piece(child.content)
                    self._cursor = self._find("`") + len(child.markup)
                case "image":
                    for inner in child.children or []:
                        self._piece(inner.content)
                    self._skip_address()
                case "softbreak" | "hardbreak":
                    self._piece("\n")
                case "em_open" | "em_close" | "strong_open" | "strong_close":
                    self._emphasis(child.markup)
                case "link_close":
                    self._skip_address()
        self._end_lines(begun)

    def _emphasis(self, markup: str) -> None:
        """Nothing; but asterisks between two letters or digits are kept: "2*3*4"."""
        text = self._source.text
        place = self._find(markup)
        after = place + len(markup)
        self._cursor = after
        before = text[place - 1 : place]
        if markup[0] == "*" and before.isalnum() and text[after : after + 1].isalnum():
            self._write(markup, place)

    def _skip_address(self) -> None:
        """Move behind the address of a link or an image."""
        text, cursor = self._source.text, self._cursor
        if text[cursor : cursor + 2] == "](":
            end = text.find(")", cursor)
            self._cursor = cursor if end < 0 else end + 1

    def _code(self, token: Token) -> None:
        """A block of code, each line by itself."""
        self._cursor = self._start_of((token.map or [0])[0] + 1)
        for line in token.content.split("\n"):
            if line.strip():
                self._piece(line)
                self._end("\n\n" if line.rstrip()[-1] in _ENDS else ".\n\n")

    def _piece(self, said: str, *, written: str | None = None) -> None:
        """A piece of text that stands in the source behind the cursor, as `written`."""
        place = self._find(written or said)
        if written is None:
            self._write(said, place)
            self._cursor = min(place + len(said), len(self._source.text))
        else:
            self._write(said, place, spread=False)
            self._cursor = min(place + len(written), len(self._source.text))

    def _find(self, piece: str) -> int:
        """Where a piece stands behind the cursor; the cursor when it is written differently."""
        place = self._source.text.find(piece, self._cursor, self._limit) if piece else -1
        return self._cursor if place < 0 else place

    def _write(self, said: str, place: int, *, spread: bool = True) -> None:
        places, last = self._source.places, len(self._source.places) - 1
        self._text.append(said)
        if spread:
            self._places += [places[min(place + index, last)] for index in range(len(said))]
        else:
            self._places += [places[min(place, last)]] * len(said)

    def _last(self) -> str:
        """The last character that is no space or bracket."""
        for part in reversed(self._text):
            if core := part.rstrip(_CLOSERS + "\n"):
                return core[-1]
        return ""

    def _end(self, mark: str) -> None:
        """End a phrase with `mark`; a mark that is there already stays alone."""
        if (last := self._last()) in _ENDS or not last:
            mark = mark.lstrip(".,")
        place = self._places[-1] if self._places else 0
        self._text.append(mark)
        self._places += [place] * len(mark)

    def _end_block(self, tokens: list[Token], index: int, *, cells: bool) -> None:
        """The pause after a block: short within a row or a list of words, else long."""
        if cells:
            self._end(".\n\n" if tokens[index + 2].type == "tr_close" else ", ")
            return
        content = _TASK.sub("", tokens[index].content, count=1)
        short = len(content.split()) <= _FEW_WORDS
        follows = [token.type for token in tokens[index + 1 : index + 4]]
        bullet = follows[1:] == ["list_item_close", "list_item_open"] and not tokens[index + 3].info
        if self._last() == ":" and {"bullet_list_open", "ordered_list_open"} & set(follows):
            self._end(" ")  # "Shopping: milk, eggs"
        else:
            self._end(", " if short and bullet else ".\n\n")

    def _end_lines(self, begun: int = 0) -> None:
        """Put a pause at each line end in what was written since `begun`."""
        written = "".join(self._text[begun:])
        if "\n" not in written:
            return
        first = len(self._places) - len(written)
        lines = written.split("\n")
        places = self._places[first:]
        del self._text[begun:], self._places[first:]
        wrapped = all(len(line) >= _WRAPPED for line in lines[:-1] if line.strip())
        position = 0
        for line, following in pairwise([*lines, ""]):
            self._text.append(line)
            end = position + len(line)
            self._places += places[position:end]
            if end < len(places):
                mark = _line_end(line, following, wrapped=wrapped)
                self._text.append(mark)
                self._places += [places[end]] * len(mark)
            position = end + 1


def _line_end(line: str, following: str, *, wrapped: bool) -> str:
    """What a line end is read as."""
    core, start = line.rstrip(_CLOSERS), following.lstrip(_CLOSERS + "\t([{#>-•")
    if not core or not start:
        return "\n"
    if core[-1] in _ENDS:
        return "\n" if core[-1] in ".!?…。！？" else " "
    if len(line) >= _WRAPPED and (wrapped or start[0].islower()):
        return " "
    return ", " if start[0].islower() else ".\n"
