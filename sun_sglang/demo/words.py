"""Word lists of the demo's data."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LETTERS = "abcdefghijklmnopqrstuvwxyz"
NAMES = _words(
    """
    ada alan amy ann ben bob carl cara dan dora emma eric eva fay finn gus hana hugo ida ivan jack jane joe june kai
    kate ken lara leo lily luca mara max mia milo nina noah nora olga omar otto paul pia raul rita rosa sam sara tim
    tina ugo uma vera viktor wanda wes yara yuri zoe
    """
)
CITIES = _words(
    """
    oslo paris rome lima cairo delhi tokyo seoul quito berlin dublin lisbon madrid boston denver austin kyoto hanoi
    accra porto turin zurich geneva vienna prague
    """
)
DAYS = _words("monday tuesday wednesday thursday friday saturday sunday today tomorrow")
EVENTS = ("lunch", "dinner", "the game", "the call", "the train", "the bus", "the party", "the talk", "the film")
CHORES = _words("call meet email pay visit thank help see ask")
GENRES = _words("jazz rock blues folk soul funk techno opera swing disco")
ROOMS = _words("kitchen garden office attic garage bedroom studio hall")

# only for the base model's mixture
FUNCTIONS = _words("email remind weather play search open close send book order move count find start stop read save")
KEYS = _words(
    "to from at by in on what who when where day time city room body text music count size color name mode level kind"
)
WORDS = _words(
    """
    lunch is at the game some songs call meet pay visit jazz rock kitchen garden monday friday today red blue big small
    first last one two three four five
    """
)
