"""Small edits of a spec's YAML that leave every other character as it is: comments, order, layout.

The places are found by parsing; what is written there is text. So a diff shows
just the change.

What does not belong here: what to change (``operations/spec_proposals.py``), writing whole specs (``spec/spec_yaml.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from importer_dagster.spec.yaml_text import scalar


def add_alias(text: str, field: str, alias: str) -> str:
    """Give a field one more header name: where its aliases are said last, else where it is first described."""
    node = _field(text, field)
    if node is None:
        raise ValueError(f"the field {field!r} is not where it was expected")
    known = _value(node, "aliases")
    if known is None:
        return _into_mapping(text, node, "aliases", f"[{scalar(alias)}]")
    if isinstance(known, yaml.SequenceNode):
        return _into_sequence(text, known, len(known.value), [scalar(alias)])
    own = text[known.start_mark.index : known.end_mark.index]
    return text[: known.start_mark.index] + f"[{own}, {scalar(alias)}]" + text[known.end_mark.index :]


def add_field(text: str, field: Mapping[str, Any]) -> str:
    """Put one more field behind those of the schema."""
    fields = _fields(text)
    return _into_sequence(text, fields, len(fields.value), [scalar(field)])


def add_version(text: str, since: str, fields: Sequence[Mapping[str, Any]], removed: Sequence[str]) -> str:
    """Say what changed on a day: in the version that begins then, or in a new one."""
    root = _root(text)
    versions = _value(root, "versions")
    lines = [f"from: {since}"]
    lines += ["fields:", *(f"  - {scalar(f)}" for f in fields)] if fields else []
    lines += [f"removed: {scalar(list(removed))}"] if removed else []
    if not isinstance(versions, yaml.SequenceNode) or not versions.value:
        body = "\n".join(f"  {'-' if i == 0 else ' '} {line}" for i, line in enumerate(lines))
        return _without_key(text, root, "versions") + f"versions:\n{body}\n"
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


# --- finding places -----------------------------------------------------------------------


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


def _field(text: str, name: str) -> Any:
    lists = [_fields(text)]
    versions = _value(_root(text), "versions")
    if isinstance(versions, yaml.SequenceNode):
        lists += [found for v in versions.value if (found := _value(v, "fields")) is not None]
    nodes = [n for fields in lists for n in fields.value if _named(n) == name]
    said = [n for n in nodes if _value(n, "aliases") is not None]
    return said[-1] if said else next(iter(nodes), None)


def _named(node: Any) -> str | None:
    found = _value(node, "name") if isinstance(node, yaml.MappingNode) else None
    return None if found is None else str(found.value)


def _day(node: Any) -> str:
    return str(_value(node, "from").value)


# --- writing there --------------------------------------------------------------------------


def _end(text: str, node: Any) -> int:
    """Where a node's own text ends: block nodes are said to end where the next thing begins."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(node, yaml.MappingNode) else last
    end = int(node.end_mark.index)
    return end if node.start_mark.index == end else len(text[:end].rstrip())


def _line_end(text: str, at: int) -> int:
    """The end of the line, a comment behind the value included."""
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
    """Put an item before the one at ``index``; ``lines`` is it in block style."""
    if node.flow_style:
        return _into_flow(text, node, index, lines)
    column = node.start_mark.column
    block = "\n".join(" " * column + ("- " if i == 0 else "  ") + line for i, line in enumerate(lines))
    if index < len(node.value):
        at = text.rfind("\n", 0, node.value[index].start_mark.index) + 1
        return f"{text[:at]}{block}\n{text[at:]}"
    at = _line_end(text, _end(text, node))
    return f"{text[:at]}\n{block}{text[at:]}"


def _into_flow(text: str, node: yaml.SequenceNode, index: int, lines: Sequence[str]) -> str:
    item = (
        lines[0]
        if len(lines) == 1
        else scalar(yaml.safe_load("\n".join(lines).replace("from: ", "from: !!str ")))
    )
    if index < len(node.value):
        at = node.value[index].start_mark.index
        return f"{text[:at]}{item}, {text[at:]}"
    at = len(text[: node.end_mark.index - 1].rstrip())
    comma = ", " if node.value else ""
    return f"{text[:at]}{comma}{item}{text[at:]}"


def _without_key(text: str, root: yaml.MappingNode, key: str) -> str:
    """The text, ended by a line end, without an empty ``key``."""
    found = next(((k, v) for k, v in root.value if k.value == key), None)
    if found:
        start = found[0].start_mark.index
        text = text[:start] + text[_line_end(text, _end(text, found[1])) + 1 :]
    return text if text.endswith("\n") or not text else text + "\n"
