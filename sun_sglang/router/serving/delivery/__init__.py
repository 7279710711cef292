"""The answers on their way to the client.

Belongs here: what happens to a worker's bytes before the client receives them. First file: `delivery.py` sends whole
and streamed answers. `merged_stream.py` makes one stream of several answers; `rewriting.py` puts a worker's bytes into
the client's terms; `translated_answer.py` makes an answer of another API.
"""
