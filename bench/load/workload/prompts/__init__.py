"""Where prompts come from, and the files that hold them.

    random_tokens  prompts of random token ids, and of blocks of ids that prompts share; open this first
    sampling       which prompt of a dataset a request has
    datasets       parsers of files of prompts (pure)
    files          the files of `--input-file`: their tasks, their formats; also those that are traces

Belongs here: the content of a request. Does not belong here: its time and task.
"""
