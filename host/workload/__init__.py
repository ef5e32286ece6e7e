"""What a model does in one evaluation, from shapes alone: its products, and what they cost on an accelerator."""
