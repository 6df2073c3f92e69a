"""What a web page that came instead of a file says, and the way past Google Drive's confirmation page."""

import re
import urllib.parse
from html.parser import HTMLParser


def find_confirmation(page: str, url: str) -> str:
    """The address behind Drive's "can't scan this file for viruses, download anyway"; "" if the page is another."""
    reader = _FormReader()
    reader.feed(page)
    if not reader.action or not reader.fields:
        return ""
    target, source = (urllib.parse.urlsplit(a) for a in (urllib.parse.urljoin(url, reader.action), url))
    # A form that leads elsewhere is not followed.
    if (target.scheme, target.netloc) != (source.scheme, source.netloc):
        return ""
    query = dict(urllib.parse.parse_qsl(target.query)) | reader.fields
    return urllib.parse.urlunsplit(target._replace(query=urllib.parse.urlencode(query)))


def explain_page(page: str) -> str:
    """What a web page that came instead of the file says, in a few words."""
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split()).lower()
    if "quota" in text or "too many users" in text:
        return "Google Drive gives this file out no more today (its download quota is used up); try again tomorrow, or"
    if "sign in" in text or "access denied" in text:
        return "the file is not public (the server asks to sign in)"
    title = re.search(r"<title>([^<]{1,80})", page, re.IGNORECASE)
    return f"a web page came instead of the file ({' '.join(title[1].split()) if title else 'no title'})"


class _FormReader(HTMLParser):
    """Finds the first form that asks for a download, and its hidden fields."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        if tag == "form" and not self.action and "download" in values.get("id", "") + values.get("action", ""):
            self.action, self.inside = values.get("action", ""), True
        elif tag == "input" and self.inside and values.get("type") == "hidden" and "name" in values:
            self.fields[values["name"]] = values.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self.inside = False
