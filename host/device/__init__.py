"""One accelerator: what it is asked, what it answers, its power, and the ways to carry a product out."""
