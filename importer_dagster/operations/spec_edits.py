"""Small edits of a spec's YAML text that leave every other character as it is: comments, order, layout.

The YAML is parsed only to find the place; the new text is inserted there. All functions
take the text and return the new one.

What does not belong here: what to change (``operations/spec_proposals.py``), writing whole specs
(``spec/yaml_text.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from importer_dagster.spec.yaml_text import scalar


def add_alias(text: str, field: str, alias: str) -> str:
    """Add a header name to a field's aliases: in the last description that has aliases, else in the first one.

    Raises ValueError if the spec does not describe the field.
    """
    lists = [_fields(text)]
    versions = _value(_root(text), "versions")
    if isinstance(versions, yaml.SequenceNode):
        lists += [found for v in versions.value if (found := _value(v, "fields")) is not None]
    nodes = [
        node
        for fields in lists
        for node in fields.value
        if isinstance(node, yaml.MappingNode) and (name := _value(node, "name")) and str(name.value) == field
    ]
    if not nodes:
        raise ValueError(f"the field {field!r} is not where it was expected")
    with_aliases = [node for node in nodes if _value(node, "aliases") is not None]
    node = with_aliases[-1] if with_aliases else nodes[0]
    known = _value(node, "aliases")
    if known is None:
        return _into_mapping(text, node, "aliases", f"[{scalar(alias)}]")
    if isinstance(known, yaml.SequenceNode):
        return _into_sequence(text, known, len(known.value), [scalar(alias)])
    own = text[known.start_mark.index : known.end_mark.index]
    return text[: known.start_mark.index] + f"[{own}, {scalar(alias)}]" + text[known.end_mark.index :]


def add_field(text: str, field: Mapping[str, Any]) -> str:
    """Add a field after those of the schema."""
    fields = _fields(text)
    return _into_sequence(text, fields, len(fields.value), [scalar(field)])


def add_version(text: str, since: str, fields: Sequence[Mapping[str, Any]], removed: Sequence[str]) -> str:
    """Add what changed on a day to the version that begins on it, or to a new version."""
    root = _root(text)
    versions = _value(root, "versions")
    lines = [f"from: {since}"]
    lines += ["fields:", *(f"  - {scalar(f)}" for f in fields)] if fields else []
    lines += [f"removed: {scalar(list(removed))}"] if removed else []
    if not isinstance(versions, yaml.SequenceNode) or not versions.value:
        for key, value in root.value:
            if key.value == "versions":  # which has no item
                text = text[: key.start_mark.index] + text[_line_end(text, _end(text, value)) + 1 :]
        body = "\n".join(f"  {'-' if i == 0 else ' '} {line}" for i, line in enumerate(lines))
        line_end = "" if text.endswith("\n") or not text else "\n"
        return f"{text}{line_end}versions:\n{body}\n"
    days = [_day(v) for v in versions.value]
    if since not in days:
        return _into_sequence(text, versions, sum(d < since for d in days), lines)
    at = days.index(since)
    for field in fields:
        text = _into_list(text, at, "fields", field)
    for name in removed:
        text = _into_list(text, at, "removed", name)
    return text


def _into_list(text: str, version: int, key: str, item: Any) -> str:
    node = _value(_root(text), "versions").value[version]
    known = _value(node, key)
    if known is None:
        return _into_mapping(text, node, key, f"[{scalar(item)}]")
    if not isinstance(known, yaml.SequenceNode):
        raise ValueError(f"{key} is no list in the version from {_day(node)}")
    return _into_sequence(text, known, len(known.value), [scalar(item)])


# --- finding the place --------------------------------------------------------------------


def _root(text: str) -> yaml.MappingNode:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("the spec is no mapping")
    return node


def _value(node: Any, key: str) -> Any:
    return next((v for k, v in node.value if k.value == key), None)


def _fields(text: str) -> yaml.SequenceNode:
    fields = _value(_value(_root(text), "schema"), "fields")
    if not isinstance(fields, yaml.SequenceNode):
        raise ValueError("schema.fields is no list")
    return fields


def _day(node: Any) -> str:
    return str(_value(node, "from").value)


# --- inserting text -------------------------------------------------------------------------


def _end(text: str, node: Any) -> int:
    """Where a node's own text ends; the parser says of block nodes that they end where the next node begins."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(node, yaml.MappingNode) else last
    end = int(node.end_mark.index)
    return end if node.start_mark.index == end else len(text[:end].rstrip())


def _line_end(text: str, at: int) -> int:
    """The index of the line's end, so behind a comment that follows a value."""
    found = text.find("\n", at)
    return len(text) if found < 0 else found


def _into_mapping(text: str, node: yaml.MappingNode, key: str, value: str) -> str:
    if node.flow_style:
        at = len(text[: node.end_mark.index - 1].rstrip())
        comma = ", " if node.value else ""
        return f"{text[:at]}{comma}{key}: {value}{text[at:]}"
    indent = " " * node.start_mark.column
    at = _line_end(text, _end(text, node))
    return f"{text[:at]}\n{indent}{key}: {value}{text[at:]}"


def _into_sequence(text: str, node: yaml.SequenceNode, index: int, lines: Sequence[str]) -> str:
    """Insert an item before the one at ``index``; ``lines`` are the item in block style."""
    is_last = index == len(node.value)
    if node.flow_style:
        item = lines[0]
        if len(lines) > 1:
            item = scalar(yaml.safe_load("\n".join(lines).replace("from: ", "from: !!str ")))
        if not is_last:
            at = node.value[index].start_mark.index
            return f"{text[:at]}{item}, {text[at:]}"
        at = len(text[: node.end_mark.index - 1].rstrip())
        comma = ", " if node.value else ""
        return f"{text[:at]}{comma}{item}{text[at:]}"
    column = node.start_mark.column
    block = "\n".join(" " * column + ("- " if i == 0 else "  ") + line for i, line in enumerate(lines))
    if not is_last:
        at = text.rfind("\n", 0, node.value[index].start_mark.index) + 1
        return f"{text[:at]}{block}\n{text[at:]}"
    at = _line_end(text, _end(text, node))
    return f"{text[:at]}\n{block}{text[at:]}"
