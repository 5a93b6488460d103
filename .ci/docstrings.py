"""Docstrings as they are written: an extension of griffe, which reads types in them as Python."""

import re
from collections.abc import Iterator
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):(?=`)")
# `epochs : int or "auto"`, `name, dtype : str`
TYPED = re.compile(r"^ *(?P<names>\w+(?:, \w+)*) : (?P<type>.+)$", flags=re.MULTILINE)


class AsWritten(griffe.Extension):
    """Keep the words of parameters' types, quotes included, and the default of each one."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Go over what was loaded."""
        for thing in _things(pkg):
            text = thing.docstring
            text.value = ROLE.sub("", text.value)
            types = {
                name: found["type"].removesuffix(", optional")
                for found in TYPED.finditer(text.value)
                for name in found["names"].split(", ")
            }
            defaults = {p.name: p.default for p in getattr(thing, "parameters", ())}
            for section in text.parsed:
                if section.kind is griffe.DocstringSectionKind.parameters:
                    for parameter in section.value:
                        parameter.annotation = types.get(parameter.name, parameter.annotation)
                        parameter.value = defaults.get(parameter.name, parameter.value)


def _things(parent: griffe.Object) -> Iterator[griffe.Object]:
    """Everything in it that has a docstring, but for what is imported."""
    for member in [parent, *parent.members.values()]:
        if member.is_alias:
            continue
        if member is not parent and member.members:
            yield from _things(member)
        elif member.docstring:
            yield member
