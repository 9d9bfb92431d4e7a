"""Texts that would be more than texts where a page takes them for its own, and what a page is made of."""

from html.parser import HTMLParser

PAYLOADS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style></script></svg><iframe src=//evil>",
    "<!-- --><svg/onload=alert(1)>&lt;b&gt;",
    "{{ 7 * 7 }}{% raw %}\\u003cscript\\u003e",
    "javascript:alert(1)](http://evil)",
    "]]><![CDATA[<x>\x00\u202e",
    "$\\frac{1}{$ =1+1 @SUM(1) | --- |",
    "a: [b, *c] &d !!python/object/apply:os.system ['ls']",
)


class Structure(HTMLParser):
    """The tags of a page with the names of their attributes, and what its scripts hold."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.scripts, self.within = [], [], None

    def handle_starttag(self, tag, attrs):
        assert not any(name.startswith("on") for name, _ in attrs)
        assert all(not str(value).lower().startswith("javascript:") for name, value in attrs if name in ("href", "src"))
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.within = tag

    def handle_endtag(self, tag):
        self.within = None

    def handle_data(self, data):
        if self.within == "script":
            self.scripts.append(data)


def structure(page: str) -> Structure:
    """Of a page."""
    read = Structure()
    read.feed(page)
    return read
