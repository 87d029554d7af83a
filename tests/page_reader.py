"""Reads a page's tags and words, and checks that its tags are closed in order."""

from __future__ import annotations

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
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def words(self):
        return " ".join("".join(self.text).split())


def read_text(text):
    """Reads a page, or a part of one."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def table_of(text, caption):
    """The rows of a page's table below its head: a list of cells, each its text and what it is sorted by."""
    reader = _TableReader(caption)
    reader.feed(text)
    return reader.rows


class _TableReader(HTMLParser):
    def __init__(self, caption):
        super().__init__()
        self.wanted, self.rows, self.within, self.last = caption, [], False, ""

    def handle_starttag(self, tag, attrs):
        self.last = tag
        if tag == "table":
            self.within = False
        elif self.within and tag == "tbody":
            self.rows.clear()  # of the head
        elif self.within and tag == "tr":
            self.rows.append([])
        elif self.within and tag in ("td", "th"):
            self.rows[-1].append(("", dict(attrs).get("data-value")))

    def handle_data(self, data):
        if self.last == "caption" and data == self.wanted:
            self.within = True
        elif self.within and self.last in ("td", "th"):
            text, value = self.rows[-1][-1]
            self.rows[-1][-1] = (text + data, value)

    def handle_endtag(self, tag):
        self.last = ""
        if tag == "table":
            self.within = False


def read(path):
    """Reads a page; returns what it has, and its source."""
    text = path.read_text("utf-8")
    return read_text(text), text
