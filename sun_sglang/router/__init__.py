"""The load balancer: decisions apart from I/O."""
