"""What a product asks of the device, and what comes back."""
