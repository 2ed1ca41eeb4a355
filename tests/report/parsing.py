"""The page as a parser sees it."""

from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br"}
DIFF = {"ins", "del"}


class Parsed(HTMLParser):
    """Keeps the elements' skeleton, each attribute, and the text of chosen elements."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.skeleton: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in DIFF:
            self.skeleton.append(f"<{tag} {' '.join(name for name, _ in attrs)}>")
        if tag not in VOID:
            name = dict(attrs).get("class") or ""
            self._open.append((tag, name))
            if tag not in DIFF:
                self.texts.setdefault(name, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.skeleton.append(f"<{tag}/>")

    def handle_endtag(self, tag: str) -> None:
        opened, _ = self._open.pop()
        assert opened == tag, f"<{opened}> closed by </{tag}>"
        if tag not in DIFF:
            self.skeleton.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        for tag, name in reversed(self._open):
            if tag not in DIFF:
                self.texts[name][-1] += data
                return
