"""The console and the HTTP API: other faces of what the control socket answers."""
