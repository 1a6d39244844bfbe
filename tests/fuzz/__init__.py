"""Input that nobody meant: targets with an invariant each, driven by hypothesis and by atheris."""
