"""Plans: which device computes which rows and steps, chosen by what they cost."""
