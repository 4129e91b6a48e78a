"""For MkDocs: what pages say of files outside of `docs` is a name there, and no link."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#]+)\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The page's text, its links to files that the site does not have made plain."""
    depth = page.file.src_uri.count("/")

    def plain(found: re.Match[str]) -> str:
        up = found[2].count("../")
        return f"`{found[2].lstrip('./')}`" if up > depth else found[0]

    return OUTSIDE.sub(plain, markdown)
