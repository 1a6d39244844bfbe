"""The conditions of the language: one class each, listed in relayd.rules.conditions.registry."""
