"""Ten pictures drawn on RTL, proved bit by bit against the twin: ``python -m brownout.host.demo --model digits``."""
