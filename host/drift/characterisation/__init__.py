"""How much errors in each part of a run damage the image (docs/characterisation.md)."""
