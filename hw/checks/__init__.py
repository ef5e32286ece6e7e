"""The checksum units, which find and correct errors; see docs/protection.md."""
