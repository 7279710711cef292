"""The emulated prefill and decode engines."""
