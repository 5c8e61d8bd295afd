"""A page as its tags, and what hostile texts try on it."""

from html.parser import HTMLParser

HOSTILE = (
    "<script>alert(1)</script> \u202egnp.exe\u202c \"q\" 'a' & </style><img src=x"
    " onerror=alert(1)>\x00\ud800|"
)
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Tags(HTMLParser):
    """Every tag with its attributes and the text of the page, and whether all are closed in
    order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data
