"""Check the syntax of a chat template, without rendering it."""

from __future__ import annotations

import importlib.util

from sun_sglang.errors import CheckpointError


def require_template_syntax(template: str, where: str) -> None:
    """Raise unless Jinja can parse a chat template. Where Jinja is not installed, nothing is checked.

    Args:
        template: the text of the template.
        where: its place, for the message.

    Raises:
        CheckpointError: it has a syntax error; the message has the line.
    """
    if importlib.util.find_spec("jinja2") is None:
        return
    from jinja2 import Environment, TemplateSyntaxError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser

    class Generation(Extension):
        """The tag by which transformers marks the answers of a chat."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

        def parse(self, parser: Parser) -> list[nodes.Node]:
            """Return the statements between the tags."""
            next(parser.stream)
            return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))

    try:
        Environment(extensions=[Generation, loopcontrols]).parse(template)
    except TemplateSyntaxError as e:
        raise CheckpointError(f"{where}: line {e.lineno}: {e.message}; correct the chat template") from e
    except RecursionError as e:
        raise CheckpointError(f"{where}: is nested too deeply; correct the chat template") from e
