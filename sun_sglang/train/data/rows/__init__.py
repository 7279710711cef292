"""From a file to the turns that are learned, as chat messages.

Belongs here: file formats, columns, the forms of messages and tools. Does not belong here: token ids. Open
`conversation.py` first.
"""
