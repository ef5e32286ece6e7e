"""DRIFT: what undervolting and overclocking save and cost, published and measured (docs/drift.md)."""
