"""A page of HTML taken apart, for the tests of whatever writes one."""

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "wbr"}


class Page(HTMLParser):
    """Tags with attributes, visible text, and whether every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open, self.text = [], [], [], text
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def ids(self, tag):
        return [attrs["id"] for name, attrs in self.tags if name == tag and "id" in attrs]

    @property
    def said(self):
        return re.sub(r"\s+", " ", " ".join(self.words))  # a space that does not break reads as one
