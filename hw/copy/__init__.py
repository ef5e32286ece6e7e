"""Copying inside memory, to take checkpoints and to go back to them."""
