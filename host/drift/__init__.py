"""Running a diffusion model at its timing limits: see ``docs/drift.md``."""
