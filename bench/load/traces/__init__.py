"""Recorded traffic: readers of public trace formats.

    trace        one record of a trace, and a whole trace with its source and SHA-256; open this first
    azure        the CSV files of the Azure LLM inference traces of 2023
    mooncake     the JSONL files of Mooncake, whose hash ids tell which prompts share blocks of tokens
    published    sources of known files, by SHA-256

Belongs here: one file for each format, which returns a `Trace`. Does not belong here: what is sent for a record
(`workload/`).
"""
