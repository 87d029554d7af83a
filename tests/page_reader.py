"""Reads a page's tags and words, and checks that its tags are closed in order."""

from html.parser import HTMLParser

_VOID = ("br", "img", "meta")


class Reader(HTMLParser):
    """Collects what a page has of tags and words."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["script"]:
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def words(self):
        return " ".join("".join(self.text).split())


def read(path):
    """Reads a page; returns what it has, and its source."""
    reader, text = Reader(), path.read_text("utf-8")
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader, text
