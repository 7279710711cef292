"""The SGLang server process of one worker: hooks proven, card published, tokens counted."""
