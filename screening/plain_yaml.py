"""YAML as plain data: no tags that make objects, no aliases, no nesting without end."""

from __future__ import annotations

from typing import Any

import yaml

MAX_CHARACTERS, MAX_DEPTH = 2**20, 20


class _Loader(yaml.SafeLoader):
    """Refuses aliases, with which a few lines can stand for gigabytes (a "billion laughs"), and deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not taken here", mark)
        if self.depth == MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"more than {MAX_DEPTH} levels of nesting", mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def parse(text: str) -> tuple[Any, yaml.Node | None]:
    """Return the data in a YAML (or JSON) text, and its nodes, which know their lines.

    Raises
    ------
    yaml.YAMLError
        The text is not YAML, or more than plain data.
    """
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"more than {MAX_CHARACTERS} characters")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return (None if node is None else loader.construct_document(node)), node
    finally:
        loader.dispose()
