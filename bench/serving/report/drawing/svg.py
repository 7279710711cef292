"""matplotlib's SVG file -> an element of a page: its own ids, colours as variables, no links, a text for each mark."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

from sun_sglang.bench.serving.report.drawing.palette import variable_of_colour

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_ID = re.compile(r"#([\w.-]+)")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")


def embedded(file: bytes, key: str, description: str, texts: Mapping[str, str]) -> str:
    """Return an SVG file as an `<svg>` element that depends on nothing outside the page.

    Args:
        file: the file, as matplotlib writes it.
        key: begins every id.
        description: what it shows, for those who do not see it.
        texts: the text of elements, by their id, shown where a pointer rests on them.
    """
    root = ET.fromstring(file)
    view = root.get("viewBox", "")
    for parent in (root, *root.iter(f"{_SVG}defs")):
        # a style sheet in an element is one of the whole page; `report.css` has its rule
        for child in (*parent.findall(f"{_SVG}metadata"), *parent.findall(f"{_SVG}style")):
            parent.remove(child)
    used = {match for element in root.iter() for value in element.attrib.values() for match in _ID.findall(value)}
    for element in root.iter():
        _adapt(element, key, used, texts)
    root.attrib.clear()
    root.attrib.update({"viewBox": view, "role": "img", "aria-label": description})
    return ET.tostring(root, encoding="unicode")


def _adapt(element: ET.Element, key: str, used: set[str], texts: Mapping[str, str]) -> None:
    """Give an element its page's ids and colours. HTML knows SVG's elements without their namespace."""
    element.tag = element.tag.removeprefix(_SVG)
    if (target := element.attrib.pop(_HREF, None)) is not None:
        element.set("href", f"#{key}-{target.removeprefix('#')}")
    name = element.attrib.pop("id", None)
    if name in used:
        element.set("id", f"{key}-{name}")
    if name is not None and name in texts:
        title = ET.Element("title")
        title.text = texts[name]
        element.insert(0, title)
        element.set("class", "mark")
    variables = variable_of_colour()
    for attribute, value in element.attrib.items():
        if attribute in ("style", "fill", "stroke"):
            element.set(attribute, _COLOUR.sub(lambda found: _variable(found[0], variables), value))
        elif attribute == "clip-path":
            element.set(attribute, value.replace("url(#", f"url(#{key}-"))


def _variable(colour: str, variables: Mapping[str, str]) -> str:
    return f"var(--{variables[colour]})" if colour in variables else colour
