"""The table of request fields: for each field of SGLang's API, whether the workers receive it and within which bounds.

Belongs here: rules for single fields, messages, JSON schemas and regular expressions. Does not belong here: rules that
involve several fields of a request (`protocol/request.py`).

To add a field, add a row to `table.py`: `Forwarded` (with a type and bounds), `RouterOwned`, `Dropped` or `Refused`. A
new type goes to `value_types.py`. Then run `python -m sun_sglang.router.protocol.fields.page > docs/fields.md`. Tests
compare the table with SGLang's own request classes and the page with the table. First file: `table.py`.
"""
