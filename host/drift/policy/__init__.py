"""Operating points for each part of a run: searched within a budget of damage, and as published."""
