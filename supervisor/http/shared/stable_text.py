"""What of a text that is still heard again and again will not change. Pure; used in the front."""

from __future__ import annotations


class StableText:
    """The part of an utterance's text that two partial texts in a row agree on.

    Clients that append pieces get only this part before the end. Its last word is held back,
    because the next partial text may go on with it.
    """

    def __init__(self) -> None:
        self.told = ""
        """What was given as stable."""
        self._last = ""

    def partial(self, text: str) -> str:
        """The next partial text; returns what is newly stable."""
        pairs = zip(self._last, text, strict=False)
        same = next((at for at, (old, new) in enumerate(pairs) if old != new), None)
        common = text[: min(len(self._last), len(text)) if same is None else same]
        self._last = text
        stable = common[: common.rfind(" ") + 1].rstrip()
        if not stable.startswith(self.told) or len(stable) <= len(self.told):
            return ""
        new, self.told = stable[len(self.told) :], stable
        return new

    def final(self, text: str) -> str:
        """The final text; returns what remains to be given.

        If what was given is not its beginning, those are the words after as many words: a client
        that appends then has an earlier reading of the start, and the right end.
        """
        if text.startswith(self.told):
            rest = text[len(self.told) :]
        else:
            words = text.split()[len(self.told.split()) :]
            rest = "".join(f" {word}" for word in words)
        self.told += rest
        return rest
