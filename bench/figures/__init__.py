"""Figures and Markdown tables that are drawn from the reports in `bench/results/`: one file for each figure.

A figure reads reports and nothing else: it measures nothing and imports no engine. Open `figure.py` first, the
interface; `registry.py` lists every figure. `README.md` describes how to add one.
"""
