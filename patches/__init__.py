"""Hooks on SGLang, one change per file, registered through its plugin entry point."""
