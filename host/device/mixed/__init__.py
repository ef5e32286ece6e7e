"""Passes of products on the twin that are executed again by the RTL, and what is compared."""
