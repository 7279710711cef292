"""Engines without a model: what work costs, how it is batched, and a worker that speaks SGLang's protocol over both."""
